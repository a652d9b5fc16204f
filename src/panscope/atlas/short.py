"""The short columns of a Sae's features: what lists, filters and maps need of all of them at once.

Density, max, mean, top and peak tokens of 65,536 features take about 5 MB as arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from panscope.atlas.features import Atlas
from panscope.atlas.records import FeatureRow

Ints = NDArray[np.int64]
Place = NDArray[np.float32]
N_PEAK_TOKENS = 5


@dataclass(frozen=True, slots=True)
class Columns:
    """The short columns of a Sae's features; token lists are padded with -1."""

    density: NDArray[np.float64]
    max: NDArray[np.float32]
    mean: NDArray[np.float32]
    top_tokens: Ints
    peak_tokens: Ints

    def row(self, index: int) -> FeatureRow:
        """One feature as a line of a table."""
        return FeatureRow(
            index=int(index),
            density=float(self.density[index]),
            max=float(self.max[index]),
            mean=float(self.mean[index]),
            top_tokens=tuple(t for t in self.top_tokens[index].tolist() if t >= 0),
            peak_tokens=tuple(t for t in self.peak_tokens[index].tolist() if t >= 0),
        )


def read_columns(atlas: Atlas, tokens_at: Callable[[Ints, Ints], Ints], sae: str) -> Columns:
    """Read the short columns; `tokens_at(contexts, positions)` gives the tokens of examples."""
    leaves = [f"examples.list.element.{leaf}" for leaf in ("band", "context", "peak")]
    table = atlas.column(sae, "density", "max", "mean", "top_tokens", *leaves).combine_chunks()
    starts, examples = _flat_list(table["examples"])
    names = ("band", "context", "peak")
    band, context, peak = (examples.field(n).to_numpy().astype(np.int64) for n in names)
    strongest = band == -1
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))[strongest]
    tokens = tokens_at(context[strongest], peak[strongest])
    return Columns(
        density=table["density"].to_numpy(),
        max=table["max"].to_numpy(),
        mean=table["mean"].to_numpy(),
        top_tokens=_padded(*flat(table["top_tokens"])),
        peak_tokens=_peak_tokens(rows, tokens, len(starts) - 1),
    )


def read_place(atlas: Atlas, sae: str) -> Place | None:
    """Read where the features stand on the Sae's map, (features, 2); None if there is no map."""
    if not atlas.has_column(sae, "x"):
        return None
    table = atlas.column(sae, "x", "y")
    return np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)


def flat(column: pa.ChunkedArray) -> tuple[Ints, Ints]:
    """Return offsets and numbers of a list column that was combined into one chunk."""
    starts, values = _flat_list(column)
    return starts, values.to_numpy().astype(np.int64)


def _flat_list(column: pa.ChunkedArray) -> tuple[Ints, Any]:
    lists = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    return lists.offsets.to_numpy().astype(np.int64), lists.values


def _peak_tokens(rows: Ints, tokens: Ints, n_rows: int) -> Ints:
    """The first few distinct tokens at the peaks of each feature's strongest contexts."""
    pairs = np.stack([rows, tokens], axis=1)
    _, firsts = np.unique(pairs, axis=0, return_index=True)
    firsts.sort()
    rows, tokens = rows[firsts], tokens[firsts]
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = places < N_PEAK_TOKENS
    out = np.full((n_rows, N_PEAK_TOKENS), -1)
    out[rows[kept], places[kept]] = tokens[kept]
    return out


def _padded(starts: Ints, values: Ints) -> Ints:
    """Lists of different lengths as one array, -1 where a list has ended."""
    lengths = np.diff(starts)
    out = np.full((len(lengths), int(lengths.max(initial=1))), -1)
    out[np.arange(out.shape[1]) < lengths[:, None]] = values
    return out
