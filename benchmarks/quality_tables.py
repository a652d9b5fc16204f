"""Tables of what `quality.py` found: means over seeds, ± half of a 95 % interval (Student's t)."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tables import machine, write_table

T_975 = {1: math.inf, 2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}
"""Quantiles of Student's distribution by the number of values."""

Row = dict[str, Any]
Frontier = tuple[Sequence[float], Sequence[float]]
"""L0 and FVU of fits that differ in sparsity."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and half-width; infinite for one value."""
    n = len(values)
    spread = statistics.stdev(values) / math.sqrt(n) if n > 1 else 1.0
    return statistics.mean(values), T_975[n] * spread


def cell(values: Sequence[float], digits: int = 3) -> str:
    """Show mean and half-width, or the one value there is."""
    mean, half = interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}" if len(values) > 1 else f"{mean:.{digits}f}"


def grouped(rows: Iterable[Row], part: str, *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Group the rows of a part by what was asked."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["asked"]["part"] == part:
            groups[tuple(row["asked"][key] for key in keys)].append(row)
    return groups


def found(rows: Iterable[Row], name: str) -> list[float]:
    """Return one number of each row."""
    return [row["found"][name] for row in rows]


def worlds_table(rows: Iterable[Row]) -> str:
    """Lay out recovery: a row for each world and trainer."""
    columns = ("mcc", "f1", "precision", "recall", "fvu")
    lines = [
        "| world | trainer | seeds | L0 (true) | MCC | F1 | precision | recall | FVU | dead |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (world, trainer), group in grouped(rows, "worlds", "world", "trainer").items():
        l0 = f"{cell(found(group, 'l0'), 2)} ({found(group, 'true_l0')[0]:.2f})"
        cells = [cell(found(group, column)) for column in columns]
        dead = f"{statistics.mean(found(group, 'dead')):.0f}"
        lines.append(f"| {' | '.join([world, trainer, str(len(group)), l0, *cells, dead])} |")
    return "\n".join(lines)


def fvu_at(frontier: Frontier, l0: float) -> float:
    """Read FVU at an L0: log FVU is linear in log L0 between neighbours, and beyond the ends."""
    order = np.argsort(frontier[0])
    x, y = (np.log(np.asarray(values)[order]) for values in frontier)
    i = int(np.clip(np.searchsorted(x, math.log(l0)), 1, len(x) - 1))
    slope = (y[i] - y[i - 1]) / (x[i] - x[i - 1])
    return float(np.exp(y[i - 1] + slope * (math.log(l0) - x[i - 1])))


def sites_table(rows: Iterable[Row], ours: str = "panscope") -> str:
    """Lay out FVU at equal L0, and ours over the better of the others."""
    frontiers = {
        key: (found(group, "l0"), found(group, "fvu"))
        for key, group in grouped(rows, "sites", "site", "trainer", "seed").items()
    }
    targets = sorted({row["asked"]["target"] for row in rows if row["asked"]["part"] == "sites"})
    trainers = sorted({trainer for _, trainer, _ in frontiers}, key=lambda name: name != ours)
    head = " | ".join(trainers)
    lines = [
        f"| site | L0 | {head} | ours over the better | dead, ours |",
        f"|---|---:|{'---:|' * len(trainers)}---:|---:|",
    ]
    dead = grouped(rows, "sites", "site", "trainer", "target")
    for site in dict.fromkeys(site for site, _, _ in frontiers):
        for target in targets:
            at = {t: _seeds_at(frontiers, site, t, target) for t in trainers}
            better = min((t for t in trainers if t != ours), key=lambda t: statistics.mean(at[t]))
            best = statistics.mean(at[better])
            ratio = cell([fvu / best for fvu in at[ours]])
            share = statistics.mean(found(dead[site, ours, target], "dead"))
            cells = [cell(at[trainer]) for trainer in trainers]
            lines.append(f"| {' | '.join([site, f'{target:g}', *cells, ratio, f'{share:.1%}'])} |")
    return "\n".join(lines)


def _seeds_at(
    frontiers: Mapping[tuple[Any, ...], Frontier], site: str, trainer: str, l0: float
) -> list[float]:
    return [
        fvu_at(frontier, l0)
        for (s, t, _), frontier in frontiers.items()
        if (s, t) == (site, trainer) and len(frontier[0]) > 1
    ]


def short_table(rows: Iterable[Row]) -> str:
    """Lay out FVU (dead share) by learning rate and number of steps."""
    groups = grouped(rows, "short", "steps", "rate")
    steps = sorted({key[0] for key in groups})
    rates = sorted({key[1] for key in groups}, key=lambda rate: rate or 0)
    lines = [
        f"| learning rate | {' | '.join(f'{n:,} steps' for n in steps)} |",
        f"|---|{'---:|' * len(steps)}",
    ]
    for rate in rates:
        cells = [_short_cell(groups.get((n, rate), [])) for n in steps]
        lines.append(f"| {rate or 'by the rule'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _short_cell(group: Sequence[Row]) -> str:
    if not group:
        return ""
    return f"{cell(found(group, 'fvu'))} ({statistics.mean(found(group, 'dead')):.0%} dead)"


def write(rows: list[Row]) -> None:
    """Write the tables of the parts that have rows."""
    tables = {"worlds": worlds_table, "sites": sites_table, "short": short_table}
    for name, table in tables.items():
        if any(row["asked"]["part"] == name for row in rows):
            write_table(name, f"{machine()}\n\n{table(rows)}")
