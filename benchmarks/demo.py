"""Time the demo's stages, each in a process of its own: seconds, tokens a second, peak memory.

    python benchmarks/demo.py [OUTPUT]

Writes the table between the markers of benchmarks/README.md, with the machine it was made on.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tables import machine, write_table

from panscope.recipe import read_recipe


class Cost(NamedTuple):
    stage: str
    tokens: int
    seconds: float
    peak_bytes: int


def measure(stage: str, tokens: int, output: Path) -> Cost:
    """Run one verb of the demo's recipe and wait for it."""
    command = [sys.executable, "-m", "panscope", stage, "demo", "--output", str(output)]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} ended with {status}")
    return Cost(stage, tokens, time.perf_counter() - started, usage.ru_maxrss * 1024)


def table(costs: list[Cost]) -> str:
    rows = [
        f"| {c.stage} | {c.tokens:,} | {c.seconds:.0f} | {c.tokens / c.seconds:,.0f} "
        f"| {c.peak_bytes / 1e9:.1f} |"
        for c in costs
    ]
    total = sum(c.seconds for c in costs)
    head = ["| stage | tokens | seconds | tokens/s | peak GB |", "|---|---|---|---|---|"]
    peak = max(c.peak_bytes for c in costs) / 1e9
    return "\n".join([machine(), "", *head, *rows, f"| all | | {total:.0f} | | {peak:.1f} |"])


def main() -> None:
    recipe = read_recipe("demo")
    stages = {"train": recipe.train, "evaluate": recipe.evaluate, "describe": recipe.describe}
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        costs = [measure(name, stage.tokens, output) for name, stage in stages.items()]
    write_table("demo", table(costs))


if __name__ == "__main__":
    main()
