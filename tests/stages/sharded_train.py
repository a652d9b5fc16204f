"""Train Saes whose latents are split over processes; for test_train_shards.

Usage: sharded_train.py FOLDER. Each process is a fork that meets the others in a file. Writes

    FOLDER/trajectories.pt      whole trajectories in float64: alone, in two and in four processes
    FOLDER/suite-1, suite-2     the same recipe by one process and by two, with their events
    FOLDER/killed-<n>           like suite-2, killed at some instant in one process, then finished
    FOLDER/stopped              like suite-2, where one process got SIGTERM, then finished
    FOLDER/found.json           exit codes and messages
"""

import itertools
import json
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from panscope.dist import ALONE, Group
from panscope.errors import PanscopeError
from panscope.events import to_jsonl
from panscope.sae import pieces
from panscope.sites import Site
from panscope.stages import train
from panscope.stages.train import bank, sweep
from panscope.stages.train.member import Member
from panscope.stages.train.objective import Config, Frequency, Revive, Saes, Schedule, Threshold

LIFE = runpy.run_path(str(Path(__file__).with_name("killed_train.py")))["Life"]
SITES = (Site("resid_post", 0), Site("mlp_out", 1))
D_IN, N_TRUE, SIZE, WIDTH = 10, 24, 128, 32
N_DEAD = 8  # latents, the last ones, that are dead from the start: all of the last process's
STEPS = 60
REVIVE = {"dead_after_tokens": 1000, "aux_k": 4}
KILLED = 4  # folders

CASES: dict[str, dict[str, Any]] = {
    "target": {"target_l0": (3.0,)},
    "price": {"sparsity": (0.01,), "frequency": Frequency(strength=0.5)},
    "pulled up": {"target_l0": (3.0,), "revive": Revive(preact_strength=0.1)},
    "matryoshka": {"target_l0": (3.0,), "prefixes": (5, 16, 20)},
    "topk": {"architecture": "topk", "target_l0": (3.0,), "revive": Revive(**REVIVE)},
    "batch_topk": {"architecture": "batch_topk", "target_l0": (3.0,)}
    | {"revive": Revive(**REVIVE), "prefixes": (20,)},
    "gated": {"architecture": "gated", "sparsity": (0.05,)},
    "relu": {"architecture": "relu", "sparsity": (0.05,)},
    "transcoder": {"kind": "transcoder", "writes": ("mlp_out.1",), "target_l0": (3.0,)},
    "skip": {"kind": "skip_transcoder", "writes": ("mlp_out.1",), "sparsity": (0.01,)},
}
SUITE = {
    "target_l0": (3.0,),
    "more": (
        Saes(sites=("mlp_out.1",), widths=(24,), architecture="batch_topk", target_l0=(3.0,)),
        Saes(sites=("mlp_out.1",), widths=(24,), architecture="topk", target_l0=(3.0,)),
        Saes(
            sites=("resid_post.0",),
            writes=("mlp_out.1",),
            kind="skip_transcoder",
            widths=(16,),
            sparsity=(0.01,),
        ),
    ),
}


def batches_from(first: int, sites: object = SITES) -> Iterator[dict[Site, Tensor]]:
    directions = torch.randn(N_TRUE, D_IN, generator=torch.Generator().manual_seed(9))
    for k in itertools.count(first):
        generator = torch.Generator().manual_seed(k)
        present = torch.rand(SIZE, N_TRUE, generator=generator) < 0.1
        x = 5 * torch.rand(SIZE, N_TRUE, generator=generator) * present @ directions + 0.5
        yield {SITES[0]: x, SITES[1]: 3 * x.flip(1)}


def config(shards: int = 1, steps: int = STEPS, **changes: Any) -> Config:
    usual = {
        "sites": ("resid_post.0",),
        "widths": (WIDTH,),
        "tokens": steps * SIZE,
        "batch_tokens": SIZE,
        "checkpoint_steps": 8,
        "latent_shards": shards,
        "schedule": Schedule(
            learning_rate=4e-3, warmup_steps=5, decay_share=0.3, sparsity_warmup_steps=20
        ),
        "threshold": Threshold(initial=0.05, bandwidth=0.1, rate=2.0),
    }
    return Config(**(usual | changes))  # type: ignore[arg-type]


# Trajectories


def trajectory(case: dict[str, Any], group: Group) -> dict[str, Any]:
    """Train in float64, where rounding moves no pair across a threshold; return what was made."""
    settings = config(group.size, **case)
    with torch.inference_mode():
        first = list(itertools.islice(batches_from(0), 1))
        (member,) = bank.begin(settings, sweep.specs(settings, 2), first, group).members
        drawn = group.gathered(member.rows.w_enc)
        in_float64_(member)
        for step, batch in enumerate(itertools.islice(batches_from(0), STEPS)):
            ends = (
                (member.spec.reads, member.scales.read),
                (member.spec.writes, member.scales.written),
            )
            x, target = (batch[sites[0]].double() / scale.double() for sites, scale in ends)
            member.step_(x, target, step)
        common = {"b_dec", "skip", "floor", "least"} & member.vectors.keys()
        own = {name: v for name, v in member.vectors.items() if name not in common}
        rows = {name: getattr(member.rows, name) for name in ("w_enc", "w_dec", "v_dec", "seen")}
        return {
            "drawn": drawn,
            "own": {name: group.gathered(value) for name, value in (rows | own).items()},
            "common": {name: group.gathered(member.vectors[name][None]) for name in sorted(common)},
            "densities": member.meter.histogram(),
            "metrics": member.read(),
        }


def in_float64_(member: Member) -> None:
    """Change a member's numbers, and let its last latents be dead: they never fired, nor will."""
    for name in ("w_enc", "w_dec", "v_enc", "v_dec", "m_enc", "m_dec"):
        setattr(member.rows, name, getattr(member.rows, name).double())
    for vectors in (member.vectors, member.moments, member.means):
        vectors |= {name: vector.double() for name, vector in vectors.items()}
    if member.group.rank == member.group.size - 1:
        member.vectors["b_enc"][-N_DEAD:] = -0.3
        member.meter.idle_tokens[-N_DEAD:] = member.spec.saes.revive.dead_after_tokens


# Processes


def together(size: int, folder: Path, work: Callable[[Group], object]) -> list[int]:
    """Let `size` forks do a work; return how they ended. What they have to say is in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    meeting = folder / f"meeting-{len(list(folder.iterdir()))}"
    children = [os.fork() or _work(rank, size, meeting, work) for rank in range(size)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _work(rank: int, size: int, meeting: Path, work: Callable[[Group], object]) -> int:
    code = 1
    try:
        where = f"file://{meeting}"
        distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=size)
        work(Group(rank, size))
        distributed.destroy_process_group()
        code = 0
    except PanscopeError as error:
        meeting.with_name(f"said-{rank}").write_text(str(error))
        code = error.exit_code
    finally:
        os._exit(code)


def suite(out: Path, group: Group, batches: Any = batches_from, **changes: Any) -> None:
    settings = config(group.size, steps=30, **(SUITE | changes))
    specs = sweep.specs(settings, n_layers=2)
    banks = [[spec for spec in specs if spec.site == site] for site in SITES]
    events = to_jsonl(out.with_suffix(".jsonl"))
    train.run(train.Work(settings, banks, batches, {"stream": "test"}, out, events), group)


def until(fatal: int, victim: int, out: Path) -> Callable[[Group], None]:
    """Train until one process is killed at an instant: before a batch, within a file, ..."""

    def work(group: Group) -> None:
        life = LIFE(fatal if group.rank == victim else -1)
        Path.open = life.opening(Path.open)  # type: ignore[method-assign]
        Path.replace = life.before(Path.replace)  # type: ignore[method-assign]
        Path.unlink = life.before(Path.unlink)  # type: ignore[method-assign]

        def stream(first: int, _: object) -> Iterator[dict[Site, Tensor]]:
            for batch in batches_from(first):
                if not life.passes():
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

        suite(out, group, stream)
        out.with_name(f"instants-{group.rank}").write_text(str(life.last))

    return work


def stopping(out: Path) -> Callable[[Group], None]:
    """Train until one process gets a signal."""

    def work(group: Group) -> None:
        def stream(first: int, _: object) -> Iterator[dict[Site, Tensor]]:
            for step, batch in enumerate(batches_from(first), first + 1):
                if step == 21 and group.rank == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        suite(out, group, stream)

    return work


def unlike(out: Path) -> Callable[[Group], None]:
    """Train where one process reads something a little different."""

    def work(group: Group) -> None:
        def stream(first: int, _: object) -> Iterator[dict[Site, Tensor]]:
            for batch in batches_from(first):
                yield {site: x * (1 + 1e-7 * group.rank) for site, x in batch.items()}

        suite(out, group, stream)

    return work


def main(folder: Path) -> None:
    made: dict[str, Any] = {name: {1: trajectory(case, ALONE)} for name, case in CASES.items()}

    def trajectories(group: Group) -> None:
        cases = CASES if group.size == 2 else {"batch_topk": CASES["batch_topk"]}
        found = {name: trajectory(case, group) for name, case in cases.items()}
        if group.is_first:
            torch.save(found, folder / f"of-{group.size}.pt")

    for size in (2, 4):
        assert together(size, folder / "met", trajectories) == [0] * size
        for name, found in torch.load(folder / f"of-{size}.pt").items():
            made[name][size] = found
    torch.save(made, folder / "trajectories.pt")

    suite(folder / "suite-1", ALONE)
    whole = folder / "suite-2"
    found: dict[str, Any] = {"whole": together(2, folder / "met", until(-1, 0, whole))}
    instants = [int((folder / f"instants-{rank}").read_text()) for rank in (0, 1)]
    found["killed"] = []
    for n in range(KILLED):
        out, victim = folder / f"killed-{n}", n % 2
        fatal = (2 * n + 1) * instants[victim] // (2 * KILLED)
        codes = together(2, folder / "met", until(fatal, victim, out))
        found["killed"].append([victim, *codes, (folder / f"met/said-{1 - victim}").read_text()])
        assert together(2, folder / "met", until(-1, 0, out)) == [0, 0]
    out = folder / "stopped"
    found["stopped"] = together(2, folder / "met", stopping(out))
    found["stopped said"] = [(folder / f"met/said-{rank}").read_text() for rank in (0, 1)]
    four = {"latent_shards": 4}
    found["four"] = together(4, folder / "met", lambda group: suite(out, group, **four))
    found["four said"] = (folder / "met/said-0").read_text()
    assert together(2, folder / "met", lambda group: suite(out, group)) == [0, 0]
    found["unlike"] = together(2, folder / "met", unlike(folder / "unlike"))
    found["unlike said"] = (folder / "met/said-0").read_text()
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    pieces.PIECE_NUMBERS = 64  # many pieces a Sae
    main(Path(sys.argv[1]))
