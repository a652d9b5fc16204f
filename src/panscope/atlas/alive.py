"""Which features of a Sae are alive, and how dense they are: from its short columns."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from panscope.atlas.short import Columns

BIN_DECADES = 0.25  # width of a bin of the density histogram


@dataclass(frozen=True, slots=True)
class DensityHistogram:
    """Alive features by log10 of their density; one edge more than counts."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    n_dead: int


def step(columns: Columns, index: int, by: Literal[1, -1]) -> int | None:
    """The nearest alive feature after or before `index`; None at the end."""
    density = columns.density
    others = density[index + 1 :] if by == 1 else density[:index][::-1]
    alive = others > 0
    return index + by * (1 + int(alive.argmax())) if alive.any() else None


def random_alive(columns: Columns, random: np.random.Generator) -> int:
    """Any alive feature; any at all in a Sae whose features are all dead."""
    alive = np.flatnonzero(columns.density > 0)
    return int(random.choice(alive) if alive.size else random.integers(len(columns.density)))


def density_histogram(columns: Columns) -> DensityHistogram:
    """Count alive features in bins of a quarter of a decade of density."""
    alive = np.log10(columns.density[columns.density > 0])
    low = min(-1, math.floor(float(alive.min(initial=0))))
    edges = np.arange(low, BIN_DECADES / 2, BIN_DECADES)
    counts, _ = np.histogram(np.clip(alive, low, 0), edges)
    n_dead = len(columns.density) - alive.size
    return DensityHistogram(tuple(edges.tolist()), tuple(counts.tolist()), n_dead)
