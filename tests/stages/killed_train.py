"""Train suites that are killed and resumed; for test_train_resume.

Usage: killed_train.py FOLDER. Writes FOLDER/whole, FOLDER/instant-<n> (killed twice, each time at
an instant drawn by chance, then finished) and FOLDER/time-<n> (killed three times after a while
drawn by chance, then finished). Each life is a forked child. An instant lies before a batch, half
way through writing a tensor or a file, before a sync, a rename or a removal. Prints the number of
kills as JSON.
"""

import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from panscope.events import Emit, silent, to_jsonl
from panscope.sites import Site
from panscope.stages import train
from panscope.stages.train import sweep
from panscope.stages.train.objective import Config, Saes, Schedule, Threshold

SITES = (Site("resid_post", 0), Site("mlp_out", 1))
D_IN, N_TRUE, SIZE = 8, 16, 64
N_STEPS = 50
INPUTS = {"stream": "test"}
CONFIG = Config(
    sites=("resid_post.0", "mlp_out.1"),
    widths=(24,),
    target_l0=(2.0,),
    tokens=N_STEPS * SIZE,
    batch_tokens=SIZE,
    checkpoint_steps=8,
    schedule=Schedule(
        learning_rate=4e-3, warmup_steps=5, decay_share=0.3, sparsity_warmup_steps=10
    ),
    threshold=Threshold(initial=0.01, bandwidth=0.02, rate=4.0),
    more=(
        Saes(sites=("mlp_out.1",), widths=(20,), architecture="batch_topk", target_l0=(3.0,)),
        Saes(sites=("mlp_out.1",), widths=(20,), sparsity=(0.01,)),
    ),
)
LONGER = Saes(sites=("resid_post.0",), widths=(16,), target_l0=(2.0,), tokens=(N_STEPS + 11) * SIZE)
PARTS = CONFIG.model_copy(update={"more": (*CONFIG.more, LONGER)})
AT_INSTANTS, AT_TIMES = 7, 3  # folders


def batches_from(first: int, sites: tuple[Site, ...]) -> Iterator[dict[Site, Tensor]]:
    directions = torch.randn(N_TRUE, D_IN, generator=torch.Generator().manual_seed(9))
    for k in itertools.count(first):
        generator = torch.Generator().manual_seed(k)
        present = torch.rand(SIZE, N_TRUE, generator=generator) < 0.1
        x = 5 * torch.rand(SIZE, N_TRUE, generator=generator) * present @ directions + 0.5
        values = {SITES[0]: x, SITES[1]: 3 * x.flip(1)}
        yield {site: values[site] for site in sites}


def banks(config: Config = CONFIG) -> list[tuple[sweep.Spec, ...]]:
    """Two banks, the Saes of each site; a third of those that are trained longer."""
    specs = sorted(sweep.specs(config, n_layers=2), key=lambda spec: spec.n_steps)
    grouped = itertools.groupby(specs, lambda spec: (spec.n_steps, spec.site))
    return [tuple(bank) for _, bank in grouped]


def work(
    out: Path, emit: Emit = silent, config: Config = CONFIG, batches: Any = batches_from
) -> train.Work:
    return train.Work(config, banks(config), batches, INPUTS, out, emit)


def run(
    out: Path, config: Config = CONFIG, emit: Emit = silent, batches: Any = batches_from
) -> None:
    train.run(work(out, emit, config, batches))


class Life:
    """Counts instants and ends at one of them."""

    def __init__(self, fatal: int) -> None:
        self.instants = itertools.count()
        self.fatal = fatal
        self.last = -1

    def passes(self) -> bool:
        self.last = next(self.instants)
        return self.last != self.fatal

    def before(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*args: Any, **kwargs: Any) -> Any:
            if not self.passes():
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*args, **kwargs)

        return acting

    def opening(self, open_: Callable[..., Any]) -> Callable[..., Any]:
        """Make Path.open return files whose every write is an instant, half way through it."""
        life = self

        class Mortal(io.BufferedWriter):
            def write(self, data: Any) -> int:
                if not life.passes():
                    super().write(memoryview(data)[: len(data) // 2])
                    self.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().write(data)

        def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode == "wb":
                return Mortal(io.FileIO(path, "w"))
            return open_(path, mode, *args, **kwargs)

        return opened

    def batches(self, first: int, sites: tuple[Site, ...]) -> Iterator[dict[Site, Tensor]]:
        for batch in batches_from(first, sites):
            if not self.passes():
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


def train_in_child(out: Path, fatal: int = -1, seconds: float | None = None) -> int | None:
    """Train in a fork that is killed at an instant or after a time; return its number of instants.

    None if it did not live to the end.
    """
    child = os.fork()
    if child == 0:
        life = Life(fatal)
        Path.open = life.opening(Path.open)  # type: ignore[method-assign]
        Path.replace = life.before(Path.replace)  # type: ignore[method-assign]
        Path.unlink = life.before(Path.unlink)  # type: ignore[method-assign]
        os.fsync = life.before(lambda _: None)  # a kill loses no cached page
        shutil.rmtree = life.before(shutil.rmtree)  # type: ignore[assignment]
        run(out, PARTS, emit=to_jsonl(out.with_suffix(".jsonl")), batches=life.batches)
        out.with_suffix(".instants").write_text(str(life.last))
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return int(out.with_suffix(".instants").read_text()) if status == 0 else None


def main(folder: Path) -> None:
    chance = random.Random(0)
    started = time.monotonic()
    n_instants = train_in_child(folder / "whole")
    seconds = time.monotonic() - started
    assert n_instants is not None
    killed = {"at instants": 0, "at times": 0}
    for n in range(AT_INSTANTS):
        out = folder / f"instant-{n}"
        for fatal in (chance.randrange(n_instants), chance.randrange(n_instants // 2)):
            killed["at instants"] += train_in_child(out, fatal) is None
        assert train_in_child(out) is not None
    for n in range(AT_TIMES):
        out = folder / f"time-{n}"
        for _ in range(3):
            life = train_in_child(out, seconds=chance.uniform(0.1, 0.4) * seconds)
            killed["at times"] += life is None
        assert train_in_child(out) is not None
    print(json.dumps(killed))  # noqa: T201


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
