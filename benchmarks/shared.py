"""Time trainers that read one store from a cold disk, each by itself and through one window.

    python benchmarks/shared.py [--short] [--folder FOLDER] [--write]

Each trainer is a process that copies every batch of an epoch and does nothing else. *together* they
start at once; *apart* each starts when the one before it is a quarter of the epoch ahead, and a
reader drops what it has read from the page cache, as it is lost when the store is larger than
memory. Reads are counted by the kernel (`/proc/self/io`). The long form gives medians of three
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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from tables import machine, write_table

from panscope.sites import Site
from panscope.store.layout import Facts, shard_name
from panscope.store.reader import Store
from panscope.store.shared import Reader, reading
from panscope.store.shuffle import Batch, Bucket, Tokens
from panscope.store.writer import seal_store, write_shard

SITE, D, SHARD_TOKENS, BATCH_TOKENS = Site("resid_post", 12), 2304, 16_384, 4096
WINDOW_SHARDS = 6
SETTINGS = (("together", 1), ("together", 2), ("together", 4), ("apart", 2))
SEED = 0


class Result(NamedTuple):
    how: str
    n_trainers: int
    shared: bool
    seconds: float
    """Of the slowest trainer, without its start."""
    read_bytes: int
    """Of all trainers together, from the disk."""


def make_store(folder: Path, n_shards: int) -> int:
    """Write a store of random vectors; return its bytes."""
    ids = torch.arange(SHARD_TOKENS)
    seals = {}
    for number in range(n_shards):
        generator = torch.Generator().manual_seed(number)
        values = torch.randn(SHARD_TOKENS, D, generator=generator).bfloat16()
        bucket = Bucket({SITE: values}, Tokens(ids, ids, ids), ids)
        seals[number] = write_shard(folder, number, bucket, 1, "key")
    sizes = (SHARD_TOKENS,) * n_shards
    facts = Facts(sites={str(SITE): D}, dtype="bfloat16", shards=sizes, rows=n_shards)
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


class Trainer:
    """What runs in a process of its own: reads an epoch when it is told to."""

    def __init__(self, folder: Path, forgetful: bool) -> None:
        self.store = Store.open(folder)
        self.forgetful = forgetful
        self.before: int | None = None

    def run(self, shared: bool) -> None:
        budget = WINDOW_SHARDS * SHARD_TOKENS * (2 * D + 12)
        if not shared:
            self._read(self.store.batches([SITE], BATCH_TOKENS, SEED, read=self._alone))
            return
        with reading(self.store, [SITE], SEED, budget) as reader:
            read = self._with(reader)
            self._read(self.store.batches([SITE], BATCH_TOKENS, SEED, read=read))

    def _read(self, batches: Iterator[Batch]) -> None:
        n_batches = self.store.batches_per_epoch(BATCH_TOKENS)
        print("ready", flush=True)
        sys.stdin.readline()
        at_first, started = read_bytes(), time.perf_counter()
        for number, _ in enumerate(itertools.islice(batches, n_batches), 1):
            if number == n_batches // 4:
                print("a quarter", flush=True)
        print(json.dumps([time.perf_counter() - started, read_bytes() - at_first]), flush=True)

    def _alone(self, visit: int, number: int, sites: tuple[Site, ...]) -> Bucket:
        self._forget_the_last(number)
        return self.store.shard(number, sites)

    def _with(self, reader: Reader):  # type: ignore[no-untyped-def]
        def read(visit: int, number: int, sites: tuple[Site, ...]) -> Bucket:
            self._forget_the_last(number)
            return reader.shard(visit, number, sites)

        return read

    def _forget_the_last(self, number: int) -> None:
        if self.forgetful and self.before is not None:
            forget(self.store.folder / shard_name(self.before))
        self.before = number


def measure(folder: Path, how: str, n_trainers: int, shared: bool) -> Result:
    """Let trainers read an epoch from a cold disk."""
    forget(folder)
    command = [sys.executable, __file__, "--trainer", str(folder), how, str(int(shared))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    trainers = [subprocess.Popen(command, **pipes) for _ in range(n_trainers)]
    for trainer in trainers:
        assert trainer.stdout.readline() == "ready\n"
    for trainer in trainers:
        trainer.stdin.write("go\n")
        trainer.stdin.flush()
        if how == "apart":
            assert trainer.stdout.readline() == "a quarter\n"
    told = [json.loads(trainer.communicate()[0].splitlines()[-1]) for trainer in trainers]
    seconds, n_bytes = zip(*told, strict=True)
    return Result(how, n_trainers, shared, max(seconds), sum(n_bytes))


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
    parser.add_argument("--trainer", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.trainer:
        folder, how, shared = asked.trainer
        Trainer(Path(folder), how == "apart").run(shared == "1")
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as temporary:
        folder = Path(temporary) / "store"
        store_bytes = make_store(folder, 8 if asked.short else 16)
        rounds = [
            [measure(folder, *setting, shared) for setting in SETTINGS for shared in (False, True)]
            for _ in range(1 if asked.short else 3)
        ]
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
