"""Time trainers that read one store from a cold disk, each by itself and through one window.

    python benchmarks/shared.py [--short] [--folder FOLDER] [--write]

Each trainer is a process that copies every batch of an epoch and does nothing else. *together* they
start at once; *apart* each starts when the one before it is a quarter of the epoch ahead, and a
reader drops what it has read from the page cache, as it is lost when the store is larger than
memory. Reads are counted by the kernel (`/proc/self/io`). The long form gives medians of five
rounds. The last line is JSON; `--write` puts the table into benchmarks/README.md.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from tables import machine, write_table

from panscope.sites import Site
from panscope.store.layout import Facts, shard_name
from panscope.store.reader import Read, Store
from panscope.store.shared import reading
from panscope.store.shuffle import Bucket, Tokens
from panscope.store.writer import seal_store, write_shard

SITE, D, SHARD_TOKENS, BATCH_TOKENS = Site("resid_post", 12), 2304, 16_384, 4096
N_SHARDS, WINDOW_SHARDS = 8, 6
SETTINGS = (("together", 1), ("together", 2), ("together", 4), ("apart", 2))
SEED = 0

Process = subprocess.Popen[str]


class Result(NamedTuple):
    how: str
    n_trainers: int
    shared: bool
    seconds: float
    """Of the slowest trainer, without its start."""
    read_bytes: int
    """Of all trainers together, from the disk."""


def make_store(folder: Path) -> int:
    """Write a store of random vectors; return its bytes."""
    ids = torch.arange(SHARD_TOKENS)
    seals = {}
    for number in range(N_SHARDS):
        generator = torch.Generator().manual_seed(number)
        values = torch.randn(SHARD_TOKENS, D, generator=generator).bfloat16()
        bucket = Bucket({SITE: values}, Tokens(ids, ids, ids))
        seals[number] = write_shard(folder, number, bucket, 1, "key")
    sizes = (SHARD_TOKENS,) * N_SHARDS
    facts = Facts(sites={str(SITE): D}, dtype="bfloat16", shards=sizes, rows=N_SHARDS)
    seal_store(folder, seals, {}, {}, facts)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def read_bytes() -> int:
    """Return how much this process has had the kernel fetch from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def trainer(folder: Path) -> None:
    """Read an epoch whenever a line says how; this runs in a process of its own."""
    for line in sys.stdin:
        how, shared = json.loads(line)
        store = Store.open(folder)
        with ExitStack() as stack:
            read = lambda visit, number, sites: store.shard(number, sites)  # noqa: E731, B023
            if shared:
                budget = WINDOW_SHARDS * SHARD_TOKENS * (2 * D + 12)
                read = stack.enter_context(reading(store, [SITE], SEED, budget)).shard
            say("ready")
            sys.stdin.readline()
            say(json.dumps(epoch(store, forgetting(folder, read) if how == "apart" else read)))


def epoch(store: Store, read: Read) -> tuple[float, int]:
    """Copy every batch of an epoch, and say when a quarter is done; return seconds and bytes."""
    n_batches = store.batches_per_epoch(BATCH_TOKENS)
    batches = store.batches([SITE], BATCH_TOKENS, SEED, read=read)
    at_first, started = read_bytes(), time.perf_counter()
    for number, _ in enumerate(itertools.islice(batches, n_batches), 1):
        if number == n_batches // 4:
            say("a quarter")
    return time.perf_counter() - started, read_bytes() - at_first


def forgetting(folder: Path, read: Read) -> Read:
    """Make the page cache lose a shard when the next one is read."""
    before: list[int] = []

    def reading_the_next(visit: int, number: int, sites: tuple[Site, ...]) -> Bucket:
        for last in before:
            forget(folder / shard_name(last))
        before[:] = [number]
        return read(visit, number, sites)

    return reading_the_next


def say(line: str) -> None:
    print(line, flush=True)


def tell(process: Process, line: str) -> None:
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def measure(
    folder: Path, trainers: Sequence[Process], how: str, n_trainers: int, shared: bool
) -> Result:
    """Let trainers read an epoch from a cold disk."""
    forget(folder)
    asked = trainers[:n_trainers]
    for process in asked:
        tell(process, json.dumps([how, shared]))
        assert process.stdout.readline() == "ready\n"
    for process in asked:
        tell(process, "go")
        if how == "apart":
            assert process.stdout.readline() == "a quarter\n"
    lines = (iter(process.stdout.readline, "") for process in asked)
    told = [json.loads(next(line for line in said if line != "a quarter\n")) for said in lines]
    return Result(how, n_trainers, shared, max(t[0] for t in told), sum(t[1] for t in told))


def table(results: list[Result], store_bytes: int) -> str:
    """A row for each setting: GB/s of the slowest trainer, and how often the store was read."""
    columns = ("GB/s, alone", "GB/s, shared", "× faster", "read, alone", "read, shared")
    head = [f"| start | trainers | {' | '.join(columns)} |", "|---|" + "---:|" * 6]
    rows = []
    for alone, shared in zip(results[::2], results[1::2], strict=True):
        rates = [store_bytes / r.seconds / 1e9 for r in (alone, shared)]
        read = [r.read_bytes / store_bytes for r in (alone, shared)]
        rows.append(
            f"| {alone.how} | {alone.n_trainers} | {rates[0]:.2f} | {rates[1]:.2f} "
            f"| {rates[1] / rates[0]:.2f} | {read[0]:.2f} | {read[1]:.2f} |"
        )
    return "\n".join([machine(), "", *head, *rows])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--folder", type=Path, help="a folder on the disk to be measured")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--trainer", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.trainer:
        trainer(asked.trainer)
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as temporary, ExitStack() as stack:
        folder = Path(temporary) / "store"
        store_bytes = make_store(folder)
        command = [sys.executable, __file__, "--trainer", str(folder)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        trainers = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(4)]
        rounds = [
            [measure(folder, trainers, *setting, s) for setting in SETTINGS for s in (False, True)]
            for _ in range(1 if asked.short else 5)
        ]
        for process in trainers:
            process.stdin.close()
    results = [
        sorted(same, key=lambda r: r.seconds)[len(same) // 2] for same in zip(*rounds, strict=True)
    ]
    shown = table(results, store_bytes)
    if asked.write:
        write_table("shared", shown)
    else:
        print(shown)
    print(json.dumps({"store_bytes": store_bytes, "results": [r._asdict() for r in results]}))


if __name__ == "__main__":
    main()
