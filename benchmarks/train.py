"""Speed of the training step: ours, the dense definition and the peers, against one product.

    python benchmarks/train.py [--short] [--size d512]... [--rounds 7] [--json FILE] [--write]

Batches of 4,096 tokens, fp32 results, weights of L0 32 to start from, all trainers by turns in one
process (`rounds.py`): medians of rounds, ratios taken round by round. The floor is torch's fp32
encoder product. Measured again in processes of their own: with another allocator, and with AVX2
alone. The last line is JSON: the ratios of d512, all sizes under "sizes".
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from contenders import CONTENDERS, L0
from rounds import N_TOKENS
from tables import machine, write_table

ROUNDS_SCRIPT = Path(__file__).with_name("rounds.py")
OURS, FOUR = "panscope", "panscope, four Saes"
OWN = (OURS, FOUR, "floor", "dense")
PEERS = tuple(name for name in CONTENDERS if name not in OWN)
PACKAGES = ("torch", "panscope", "sae-lens", "dictionary-learning", "eai-sparsify")
# glibc's allocator unmaps every block above 32 MiB that is freed, so that a dense step pays a page
# fault for each 4 KiB of each tensor of tokens x latents. Told to keep them, on huge pages, it does
# as well as jemalloc and tcmalloc; it is fair to the dense step to show it so.
TUNED = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
AVX2 = {
    "PANSCOPE_CPU": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


class Size(NamedTuple):
    d: int
    width: int
    at_most_rounds: int


SIZES = {
    "d256": Size(256, 4096, 100),
    "d512": Size(512, 8192, 100),
    "d2304": Size(2304, 16_384, 5),  # a round of all trainers takes a minute
}
HEADLINE = "d512"


class Rounds(NamedTuple):
    """What a process measured."""

    seconds: dict[str, list[float]]
    l0: dict[str, float]
    skipped: dict[str, str]
    threads: int
    instructions: str

    def ratio(self, above: str, below: str) -> float:
        """Return the median over rounds of one's time over the other's."""
        pairs = zip(self.seconds[above], self.seconds[below], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def times_of(self, name: str) -> "Times":
        """Summarise a contender."""
        low, middle, high = (1e3 * q for q in statistics.quantiles(self.seconds[name], n=4))
        return Times(
            ms=middle,
            ms_quartiles=(low, high),
            over_floor=self.ratio(name, "floor"),
            dense_over_it=self.ratio("dense", name),
            it_over_ours=self.ratio(name, OURS),
            l0=self.l0[name],
        )


class Times(NamedTuple):
    """A contender's median step, and medians of its ratios to others."""

    ms: float
    ms_quartiles: tuple[float, float]
    over_floor: float
    dense_over_it: float
    it_over_ours: float
    l0: float


Ratios = dict[str, float | None]
Measured = dict[str, tuple[Ratios, dict[str, Rounds]]]
"""By size: its ratios, and what was measured in each environment."""


def run(size: Size, n_rounds: int, names: tuple[str, ...], environment: dict[str, str]) -> Rounds:
    """Measure in a process of its own, whose environment is set before it starts."""
    rounds = str(min(n_rounds, size.at_most_rounds))
    command = [sys.executable, str(ROUNDS_SCRIPT), str(size.d), str(size.width), rounds, *names]
    done = subprocess.run(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    return Rounds(**json.loads(done.stdout.splitlines()[-1]))


def summary(stock: Rounds, allocated: Rounds, avx2: Rounds) -> Ratios:
    """Return the ratios of one size; None for what is not installed here."""
    peers = {name: stock.ratio(name, OURS) for name in PEERS if name in stock.seconds}
    return {
        "step_over_floor": stock.ratio(OURS, "floor"),
        "over_dense": stock.ratio("dense", OURS),
        "over_best_peer": min(peers.values(), default=None),
        "four_over_one": stock.ratio(FOUR, OURS),
        "over_saelens_jumprelu": peers.get("SAELens JumpReLU"),
        "over_dense_tuned_allocator": allocated.ratio("dense", OURS),
        "over_dense_avx2": avx2.ratio("dense", OURS),
        "step_over_floor_avx2": avx2.ratio(OURS, "floor"),
    }


def measure(size: Size, n_rounds: int) -> tuple[Ratios, dict[str, Rounds]]:
    """Measure one size in all environments."""
    runs = {
        "stock allocator": run(size, n_rounds, (*OWN, *PEERS), {}),
        "tuned allocator": run(size, n_rounds, OWN, TUNED),
        "AVX2 alone": run(size, n_rounds, OWN, AVX2),
    }
    return summary(*runs.values()), runs


def table(size: Size, runs: dict[str, Rounds]) -> str:
    """Lay out one size: a row for each contender in each environment."""
    title = f"d = {size.d}, width {size.width:,}: {N_TOKENS:,} tokens a step, L0 {L0}"
    head = "| | ms (quartiles) | share of floor | × faster than dense | ours is × faster | L0 |"
    rows = [title, "", head, "|---|---:|---:|---:|---:|---:|"]
    for environment, rounds in runs.items():
        about = f"{environment}, {rounds.instructions}, {rounds.threads} threads"
        rows.append(f"| *{about}* | | | | | |")
        rows += [_row(contender, rounds.times_of(contender)) for contender in rounds.seconds]
    return "\n".join(rows)


def _row(name: str, times: Times) -> str:
    low, high = times.ms_quartiles
    spread = f"{times.ms:.1f} ({low:.1f}–{high:.1f})"
    ratios = (times.over_floor, times.dense_over_it, times.it_over_ours)
    l0 = f"{times.l0:.1f}" if name != "floor" else ""
    return f"| {' | '.join([name, spread, *(f'{ratio:.2f}' for ratio in ratios), l0])} |"


def versions() -> dict[str, str]:
    """Name the versions of what is installed."""
    installed = {found.metadata["Name"]: found.version for found in metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


def report(measured: Measured) -> str:
    """Lay out all sizes under the machine's name, and say what was left out."""
    about = ", ".join(f"{name} {version}" for name, version in versions().items())
    pages = [table(SIZES[name], runs) for name, (_, runs) in measured.items()]
    runs = [run for _, by_environment in measured.values() for run in by_environment.values()]
    skipped = sorted({text for run in runs for text in run.skipped.values()})
    return "\n\n".join([f"{machine()}, {date.today()}; {about}", *pages, *skipped])


def as_json(measured: Measured, ratios: dict[str, object]) -> str:
    """Write everything down: the ratios, and each contender's times in each environment."""
    times: dict[str, dict[str, dict[str, object]]] = {}
    for name, (_, runs) in measured.items():
        times[name] = {
            environment: {c: run.times_of(c)._asdict() for c in run.seconds}
            for environment, run in runs.items()
        }
    about = {"machine": machine(), "date": str(date.today()), "versions": versions()}
    return json.dumps({**about, "ratios": ratios, "times": times}, indent=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="d256 and d512, fewer rounds")
    parser.add_argument("--size", action="append", choices=SIZES)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="into benchmarks/README.md")
    asked = parser.parse_args()
    names = asked.size or (["d256", "d512"] if asked.short else list(SIZES))
    n_rounds = asked.rounds or (5 if asked.short else 7)
    measured = {name: measure(SIZES[name], n_rounds) for name in names}
    page = report(measured)
    sizes = {name: ratios for name, (ratios, _) in measured.items()}
    line = {**sizes.get(HEADLINE, sizes[names[0]]), "sizes": sizes}
    if asked.write:
        write_table("train", page)
    else:
        print(page)
    if asked.json:
        asked.json.write_text(as_json(measured, line), encoding="utf-8")
    print(json.dumps(line))


if __name__ == "__main__":
    main()
