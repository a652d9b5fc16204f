"""A step whose latents are split over processes against a step of one, a thread each.

    python benchmarks/shards.py --processes 1 2

JumpReLU at d 512 and width 16,384, 4,096 tokens a batch, at an L0 that stays; gloo on one machine.
Prints a line of JSON for each number of processes: the median step, the part of it that goes by in
exchanges (waiting for the slower process included), and the bytes that a process gives to them.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing

from panscope.dist import Group
from panscope.sites import Site
from panscope.stages.train import bank, sweep
from panscope.stages.train.objective import Config, Schedule, Threshold

D, WIDTH, TOKENS = 512, 16_384, 4096
SITE = Site("resid_post", 0)
SPREADS = 2.9  # of a pre-activation: 30 of 16,384 latents exceed it
WARMUP, STEPS = 3, 15


class Watched(Group):
    """A group that knows how long its sums took, and of how many bytes they were."""

    seconds, n_bytes = 0.0, 0

    def sum_(self, tensor: Tensor) -> Tensor:
        started = time.perf_counter()
        summed = super().sum_(tensor)
        Watched.seconds += time.perf_counter() - started
        Watched.n_bytes += tensor.nbytes
        return summed


def batch(step: int) -> dict[Site, Tensor]:
    return {SITE: torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(step))}


def trained(group: Group) -> Iterator[dict[str, float]]:
    """Yield what each step took, after the first few."""
    config = Config(
        sites=(str(SITE),),
        widths=(WIDTH,),
        sparsity=(1e-3,),
        tokens=1 << 30,
        batch_tokens=TOKENS,
        latent_shards=group.size,
        schedule=Schedule(learning_rate=1e-6),
        threshold=Threshold(initial=SPREADS / D**0.5, bandwidth=0.5 / D**0.5),
    )
    with torch.inference_mode():
        made = bank.begin(config, sweep.specs(config, 1), [batch(0)], group)
        for step in range(WARMUP + STEPS):
            x = batch(step)
            group.total(0)  # all begin together
            Watched.seconds, Watched.n_bytes = 0.0, 0
            started = time.perf_counter()
            made.step_(x, step)
            took = time.perf_counter() - started
            if step >= WARMUP:
                yield {"step": took, "exchanges": Watched.seconds, "bytes": Watched.n_bytes}
        (member,) = made.members
        yield {"l0": member.read()["l0"]}


@contextmanager
def joined(rank: int, size: int, meeting: str) -> Iterator[Group]:
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=size
    )
    yield Watched(rank, size)
    distributed.destroy_process_group()


def work(rank: int, size: int, meeting: str) -> None:
    torch.set_num_threads(1)
    with joined(rank, size, meeting) as group:
        *steps, last = trained(group)
    if rank == 0:
        middle = {name: statistics.median(step[name] for step in steps) for name in steps[0]}
        print(json.dumps({"processes": size, **middle, **last}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    for size in parser.parse_args().processes:
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(work, (size, str(Path(folder) / "meeting")), size)


if __name__ == "__main__":
    main()
