"""Run the short benchmarks one after another, and print what is asked beside what was reached.

    python benchmarks/bench.py [NAME...]

NAMES are those of `BENCHMARKS`, all unless given. Each runs in a process of its own and ends with a
line of JSON, from which the table at the end is made. What is asked is asked of 2 cores that do
nothing else. Ends with 1 if a benchmark has failed; a number that is missed fails nothing.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from tables import machine

BENCHMARKS = {
    "train": ("train.py", "--short"),
    "store": ("store.py", "--short"),
    "shared": ("shared.py", "--short"),
    "harvest": ("harvest.py", "--short"),
    "tap": ("tap.py", "--short"),
    "describe": ("describe.py", "--tokens", "1000000"),
    "describe_whole": ("describe_whole.py", "--short"),
    "serve": ("serve.py", "--short"),
}
"""How each is run here."""


class Asked(NamedTuple):
    """A number, and the bound that it must reach, if one is asked."""

    what: str
    at: tuple[str, ...]
    """The benchmark, and the keys to the number in its last line."""
    bound: float | None = None
    is_most: bool = True
    """Whether less is better."""

    def in_(self, found: Mapping[str, Any]) -> float | None:
        """Return the number; None where its benchmark did not run, or a peer is missing."""
        value: Any = reduce(lambda tree, key: (tree or {}).get(key), self.at, found)
        return None if value is None else float(value)

    def row(self, found: Mapping[str, Any]) -> str:
        """Say what is asked and what was reached, and whether that misses it."""
        value, sign = self.in_(found), "<=" if self.is_most else ">="
        bound = "" if self.bound is None else f"{sign} {self.bound:g}"
        if value is None:
            return f"{self.what:32}{bound:>10}{'-':>10}"
        is_short = self.bound is not None and (value > self.bound) is self.is_most
        return f"{self.what:32}{bound:>10}{value:>10.3g}{'  missed' if is_short else ''}"


ASKED = (
    Asked("step, of torch's product, d 512", ("train", "sizes", "d512", "step_over_floor"), 0.5),
    Asked("step, of torch's product, d 256", ("train", "sizes", "d256", "step_over_floor"), 0.6),
    Asked("four Saes, of one", ("train", "four_over_one"), 3.5),
    Asked("× faster than a dense step", ("train", "over_dense"), 20, is_most=False),
    Asked("× faster than SAELens", ("train", "over_saelens_jumprelu"), 25, is_most=False),
    Asked("cold reading, of the disk", ("store", "store", "reading, cold"), 0.9, is_most=False),
    Asked("warm reading, of a copy", ("store", "store", "reading, warm"), 0.8, is_most=False),
    Asked(
        "harvest, of a pass, pocket",
        ("harvest", "harvest", "pocket", "of_forward"),
        0.9,
        is_most=False,
    ),
    Asked(
        "harvest, of a pass, d 512",
        ("harvest", "harvest", "random Gemma 2", "of_forward"),
        0.9,
        is_most=False,
    ),
    Asked("18 taps, of a pass", ("tap", "to_plain_without_head", "16 x 128", "18 taps")),
    Asked("describe, beside encoding", ("describe", "beside"), 0.1),
    Asked("× faster than SAEDashboard", ("describe_whole", "times_faster")),
    Asked("serving, up in seconds", ("serve", "start_seconds"), 1),
    Asked("feature page p50, ms", ("serve", "page_p50_ms"), 15),
    Asked("feature page p99, ms", ("serve", "page_p99_ms"), 60),
    Asked("resident, MB", ("serve", "resident_mb"), 400),
    Asked("microscope, 12 sites, ms", ("serve", "microscope_ms"), 150),
)


def run(name: str) -> Any:
    """Run a benchmark, pass on what it prints, and return its last line; None if it has failed."""
    script, *arguments = BENCHMARKS[name]
    print(f"\n== {' '.join((script, *arguments))}\n", flush=True)
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if last:
                print(last, end="", flush=True)
            last = line
    if process.returncode:
        print(f"{last}{script} ended with {process.returncode}", flush=True)
        return None
    return json.loads(last)


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Lay out what is asked of the benchmarks that ran."""
    yield f"{'':32}{'asked':>10}{'reached':>10}"
    yield from (asked.row(found) for asked in ASKED if asked.at[0] in found)


def measured(names: Iterable[str]) -> dict[str, Any]:
    """Run benchmarks and say how long each took."""
    found = {}
    for name in names:
        began = time.monotonic()
        found[name] = run(name)
        print(f"({time.monotonic() - began:.0f} s)", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*BENCHMARKS, []])
    found = measured(parser.parse_args().names or BENCHMARKS)
    print("\n".join(["", machine(), "", *table(found)]))
    sys.exit(None in found.values())


if __name__ == "__main__":
    main()
