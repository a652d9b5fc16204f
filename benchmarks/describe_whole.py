"""Describe one Sae whole by panscope and by SAEDashboard: features a second, memory, agreement.

    python benchmarks/describe_whole.py [--short] [--rounds 3] [--tokens N] [--width N] [--write]

The same model, Sae and text (`describers.py`), each run in a process of its own, by turns; medians
of rounds, ratios taken round by round, of the processor's seconds, so that other work beside it
counts little. Both must count the same firings and find the same maxima,
or nothing is printed. `make dashboard` installs SAEDashboard into an environment of its own;
without it, panscope runs alone. The last line is JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch
from describers import DESCRIBERS, prepare
from tables import machine, write_table
from torch import Tensor

OURS, PEER = DESCRIBERS
SCRIPT = Path(__file__).with_name("describers.py")
PEER_PYTHON = Path(__file__).parent.parent / ".dashboard" / "bin" / "python"
MAY_DIFFER = 1e-4
"""Of firings, and of a maximum: the two models' sums round apart, and some values lie at the
threshold."""

Run = dict[str, float]
"""Seconds, by the clock and of the processor; bytes, at the peak and when all was loaded."""


def pythons() -> dict[str, str]:
    """Name who can run here, and by which Python."""
    if PEER_PYTHON.exists():
        return {OURS: sys.executable, PEER: str(PEER_PYTHON)}
    print(f"{PEER} is not installed here: `make dashboard` installs it", file=sys.stderr)
    return {OURS: sys.executable}


def measure(name: str, python: str, given: Path) -> tuple[Run, dict[str, Tensor]]:
    """Run a library once; return what it took and what it told."""
    with tempfile.TemporaryDirectory() as folder:
        for path in given.iterdir():
            (Path(folder) / path.name).symlink_to(path)
        command = [python, "-W", "ignore", str(SCRIPT), name, folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        run: Run = json.loads(done.stdout.splitlines()[-1])
        return run, torch.load(Path(folder) / f"{name}.pt")


def differences(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """Say which share of firings one has and the other lacks, and how far maxima lie apart.

    Maxima are compared in units of the largest: those of latents that never fire are 0.
    """
    firings = (ours["density"] - theirs["density"]).abs().sum() / ours["density"].sum()
    maxima = (ours["maximum"] - theirs["maximum"]).abs().max() / ours["maximum"].max()
    return {"firings": float(firings), "maxima": float(maxima)}


def median(runs: list[Run], what: str) -> float:
    return statistics.median(run[what] for run in runs)


def faster_by(runs: dict[str, list[Run]]) -> float:
    """Return the median over rounds of the peer's processor time over ours."""
    pairs = zip(runs[OURS], runs[PEER], strict=True)
    return round(statistics.median(b["processor"] / a["processor"] for a, b in pairs), 2)


def table_of(runs: dict[str, list[Run]], tokens: int, width: int) -> str:
    """Lay out a row a library."""
    about = f"{width:,} features, {tokens:,} tokens, rounds: {len(runs[OURS])}"
    lines = [f"{machine()}, {date.today().isoformat()}; {about}", ""]
    lines += ["| | seconds | of the processor | features in one | peak GB | of which loaded |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for name, mine in runs.items():
        seconds, processor, peak, loaded = (median(mine, key) for key in mine[0])
        rates = f"{seconds:.1f} | {processor:.1f} | {width / processor:,.0f}"
        lines.append(f"| {name} | {rates} | {peak / 1e9:.2f} | {loaded / 1e9:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--width", type=int, default=1_024)
    parser.add_argument("--write", action="store_true", help="into benchmarks/README.md")
    asked = parser.parse_args()
    running = pythons()
    runs: dict[str, list[Run]] = {name: [] for name in running}
    told: dict[str, dict[str, Tensor]] = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), asked.tokens, asked.width)
        for _ in range(1 if asked.short else asked.rounds):
            for name, python in running.items():
                run, told[name] = measure(name, python, Path(folder))
                runs[name].append(run)
    apart = differences(told[OURS], told[PEER]) if PEER in told else {}
    if not all(share <= MAY_DIFFER for share in apart.values()):
        sys.exit(f"the two do not describe the same: {apart}")
    table = table_of(runs, asked.tokens, asked.width)
    write_table("describe_whole", table) if asked.write else print(table)
    found = {name: {key: median(mine, key) for key in mine[0]} for name, mine in runs.items()}
    faster = {"times_faster": faster_by(runs)} if PEER in runs else {}
    print(json.dumps({"describe_whole": found, "apart": apart, **faster}))


if __name__ == "__main__":
    main()
