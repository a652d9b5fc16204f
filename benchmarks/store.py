"""Speed of the store against the disk's and the memory's, and beside the peers' buffers.

    python benchmarks/store.py [--short] [--rounds 5] [--write]

Four shards of one site in bfloat16. A round is one of each, by turns; medians of rounds,
ratios taken round by round. Writing: against the same bytes written to files of the same sizes, and
synced. Cold reading (the files' pages dropped): against the same files read in order. Warm reading:
against a copy of the same batches from memory. Every batch that is read is copied to one place, as
to a device. The peers read the same activations, in float32 as they keep them. The last line is
JSON.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import torch
from peers import missing
from store_peers import dictionary_learning_batches, saelens_batches, write_for_saelens
from tables import machine, write_table
from torch import Tensor

from panscope import files
from panscope.sites import Site
from panscope.store.layout import Facts, Seal
from panscope.store.reader import Store
from panscope.store.shuffle import Bucket, Tokens
from panscope.store.writer import seal_store, write_shard

SITE, D, BATCH_TOKENS, CONTEXT = Site("resid_post", 0), 1024, 4096, 128
N_SHARDS, PEER_TOKENS, BLOCK_BYTES = 4, 8192, 1 << 23


def bucket(n_tokens: int, seed: int) -> Bucket:
    ids = torch.arange(n_tokens, dtype=torch.int32)
    values = torch.randn(n_tokens, D, generator=torch.Generator().manual_seed(seed)).bfloat16()
    return Bucket({SITE: values}, Tokens(ids, ids, ids))


def write_ours(folder: Path, shards: list[Bucket]) -> None:
    seals: dict[int, Seal] = {n: write_shard(folder, n, s, 1, "key") for n, s in enumerate(shards)}
    sizes = tuple(seal.n_tokens for seal in seals.values())
    facts = Facts(sites={str(SITE): D}, dtype="bfloat16", shards=sizes, rows=len(sizes))
    seal_store(folder, seals, {}, {}, facts)


def write_plainly(folder: Path, shards: list[Bucket]) -> None:
    for number, shard in enumerate(shards):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / str(number)).open("wb", buffering=0) as file:
            file.write(raw(shard))
            os.fsync(file.fileno())


def raw(shard: Bucket) -> memoryview:
    return shard.values[SITE].view(-1).view(torch.uint8).numpy().data


def clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def drop_pages(folder: Path) -> None:
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_plainly(folder: Path) -> None:
    block = bytearray(BLOCK_BYTES)
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass


def copy_all(batches: Iterator[Tensor], n_batches: int, to: Tensor) -> object:
    """Copy so many batches; return their source, to be closed when the time has been taken."""
    for batch in islice(batches, n_batches):
        to.copy_(batch)
    return batches


def copy_epoch(store: Store, to: Tensor) -> object:
    batches = (batch.values[SITE] for batch in store.batches([SITE], BATCH_TOKENS, seed=0))
    return copy_all(batches, store.batches_per_epoch(BATCH_TOKENS), to)


def copy_from_memory(shards: list[Bucket], to: Tensor) -> object:
    batches = [part for shard in shards for part in shard.values[SITE].split(BATCH_TOKENS)]
    return copy_all(iter(batches), len(batches), to)


def anonymous_bytes() -> int:
    """Return how much memory of this process is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def memory_of_reading(folder: Path) -> int:
    """Return by how much a first epoch, checks included, lets the process grow at most."""
    to = torch.zeros(BATCH_TOKENS, D).bfloat16()
    before, most = anonymous_bytes(), 0
    store = Store.open(folder)
    batches = store.batches([SITE], BATCH_TOKENS, seed=0)
    for batch in islice(batches, store.batches_per_epoch(BATCH_TOKENS)):
        to.copy_(batch.values[SITE])
        most = max(most, anonymous_bytes())
    return most - before


class Contender(NamedTuple):
    """What is timed, how many vectors it handles, and what comes before."""

    n_vectors: int
    act: Callable[[], object]
    prepare: Callable[[], object] = int


class Rounds(NamedTuple):
    """Seconds of every contender in every round."""

    contenders: dict[str, Contender]
    seconds: dict[str, list[float]]

    def vectors_per_second(self, name: str) -> float:
        return self.contenders[name].n_vectors / statistics.median(self.seconds[name])

    def speed(self, name: str, than: str) -> float:
        """Return the median over rounds of one's speed over another's."""
        share = self.contenders[name].n_vectors / self.contenders[than].n_vectors
        pairs = zip(self.seconds[name], self.seconds[than], strict=True)
        return statistics.median(share * b / a for a, b in pairs)


def contenders(folder: Path, shards: list[Bucket]) -> dict[str, Contender]:
    """Name what is measured, in the order of a round."""
    ours, plain = folder / "ours", folder / "plain"
    n, to = sum(len(shard.tokens.ids) for shard in shards), torch.empty(BATCH_TOKENS, D).bfloat16()
    known: list[Store] = []  # opened by the cold reading, its files checked by the warm one

    def open_cold() -> None:
        drop_pages(ours)
        known[:] = [Store.open(ours)]

    return {
        "plain writing": Contender(n, lambda: write_plainly(plain, shards), lambda: clear(plain)),
        "writing": Contender(n, lambda: write_ours(ours, shards), lambda: clear(ours)),
        "plain reading, cold": Contender(n, lambda: read_plainly(ours), lambda: drop_pages(ours)),
        "reading, cold": Contender(n, lambda: copy_epoch(known[0], to), open_cold),
        "reading, warm": Contender(n, lambda: copy_epoch(known[0], to)),
        "memory copy": Contender(n, lambda: copy_from_memory(shards, to)),
        "reading, first check": Contender(n, lambda: copy_epoch(Store.open(ours), to)),
        "BLAKE3": Contender(n, lambda: [files.blake3_in([raw(shard)]) for shard in shards]),
    } | {name: make(folder, shards[0]) for name, make in PEERS.items() if is_here(name)}


def saelens(folder: Path, shard: Bucket) -> Contender:
    """Read 8,192 vectors, of which it does some thousand a second."""
    rows, to = shard.values[SITE][:PEER_TOKENS].float(), torch.empty(BATCH_TOKENS, D)
    write_for_saelens(folder / "saelens", rows.view(-1, CONTEXT, D))
    batches = lambda: saelens_batches(folder / "saelens", CONTEXT, D, BATCH_TOKENS)  # noqa: E731
    n_batches = PEER_TOKENS // BATCH_TOKENS
    return Contender(PEER_TOKENS, lambda: copy_all(batches(), n_batches, to))


def dictionary_learning(folder: Path, shard: Bucket) -> Contender:
    """Draw the batches of a shard from memory."""
    exact, to = shard.values[SITE].float(), torch.empty(BATCH_TOKENS, D)
    n_batches = len(exact) // BATCH_TOKENS
    batches = lambda: dictionary_learning_batches(exact, BATCH_TOKENS)  # noqa: E731
    n_vectors = n_batches * BATCH_TOKENS
    return Contender(n_vectors, lambda: copy_all(batches(), n_batches, to))


PEERS = {"SAELens, cached": saelens, "dictionary_learning, in memory": dictionary_learning}
LIBRARIES = {"SAELens, cached": "sae_lens", "dictionary_learning, in memory": "dictionary_learning"}


def is_here(peer: str) -> bool:
    """Say on standard error if a peer is not installed."""
    text = missing(LIBRARIES[peer])
    if text:
        print(text, file=sys.stderr)
    return text is None


def measure(folder: Path, n_tokens: int, n_rounds: int) -> Rounds:
    running = contenders(folder, [bucket(n_tokens, seed) for seed in range(N_SHARDS)])
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(n_rounds):
        for name, contender in running.items():
            contender.prepare()
            began = time.perf_counter()
            source = contender.act()
            seconds[name].append(time.perf_counter() - began)
            del source  # what has been read ahead of the epoch ends here
    return Rounds(running, seconds)


AGAINST = {
    "writing": "plain writing",
    "reading, cold": "plain reading, cold",
    "reading, warm": "memory copy",
    "reading, first check": "memory copy",
}


def table_of(rounds: Rounds, memory: int) -> str:
    lines = [f"{machine()}, {date.today().isoformat()}; {N_SHARDS} shards of one site, d {D:,}", ""]
    lines += ["| | vectors/s | GB/s | speed |", "|---|---:|---:|---|"]
    for name in rounds.seconds:
        rate = rounds.vectors_per_second(name)
        width = 4 if name in PEERS else 2
        than = AGAINST.get(name)
        ratio = f"{rounds.speed(name, than):.2f} of {than}" if than else ""
        lines.append(f"| {name} | {rate:,.0f} | {rate * D * width / 1e9:.2f} | {ratio} |")
    lines += ["", f"Memory that reading adds: {memory / 1e6:.0f} MB."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="about a minute")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="into benchmarks/README.md")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        rounds = measure(Path(folder), 65_536 if asked.short else 262_144, asked.rounds)
        memory = memory_of_reading(Path(folder) / "ours")
    table = table_of(rounds, memory)
    write_table("store", table) if asked.write else print(table)
    ratios = {name: round(rounds.speed(name, than), 3) for name, than in AGAINST.items()}
    peers = {n: round(rounds.speed("reading, warm", n), 2) for n in PEERS if n in rounds.seconds}
    print(json.dumps({"store": ratios, "times_faster_than": peers, "memory_bytes": memory}))


if __name__ == "__main__":
    main()
