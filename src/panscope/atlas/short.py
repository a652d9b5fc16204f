"""The short columns of a Sae's features: what lists, filters and maps need of all of them at once.

Density, max, mean, ten top and five peak tokens of 65,536 features take 5 MB as arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from panscope.atlas.features import Atlas
from panscope.atlas.records import FeatureRow

Ints = NDArray[np.int64]
Tokens = NDArray[np.int32]
Place = NDArray[np.float32]
TokensAt = Callable[[Ints, Ints], Ints]
N_PEAK_TOKENS = 5
_LEAVES = ("band", "context", "peak")
SHORT = ("density", "max", "mean", "top_tokens", *(f"examples.list.element.{n}" for n in _LEAVES))


@dataclass(frozen=True, slots=True)
class Columns:
    """The short columns of a Sae's features; token lists are padded with -1."""

    density: NDArray[np.float64]
    max: NDArray[np.float32]
    mean: NDArray[np.float32]
    top_tokens: Tokens
    peak_tokens: Tokens

    @property
    def n_bytes(self) -> int:
        """How much memory the columns take."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

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


def read_columns(atlas: Atlas, tokens_at: TokensAt, sae: str) -> Columns:
    """Read the short columns of a Sae; `tokens_at(contexts, positions)` gives examples' tokens."""
    columns = _columns(atlas.column(sae, *SHORT), tokens_at)
    pa.default_memory_pool().release_unused()  # the table was some ten times the arrays
    return columns


def read_row(atlas: Atlas, tokens_at: TokensAt, sae: str, index: int) -> FeatureRow:
    """Read one feature as a line of a table, without the others of its Sae."""
    table, row = atlas.group_of(sae, index, *SHORT)
    return replace(_columns(table, tokens_at).row(row), index=index)


def _columns(table: pa.Table, tokens_at: TokensAt) -> Columns:
    table = table.combine_chunks()
    starts, examples = flat_list(table["examples"])
    band, context, peak = (examples.field(n).to_numpy().astype(np.int64) for n in _LEAVES)
    strongest = band == -1
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))[strongest]
    tokens = tokens_at(context[strongest], peak[strongest])
    return Columns(
        density=table["density"].to_numpy().copy(),
        max=table["max"].to_numpy().copy(),
        mean=table["mean"].to_numpy().copy(),
        top_tokens=_padded(*_flat(table["top_tokens"])),
        peak_tokens=_peak_tokens(rows, tokens, len(starts) - 1),
    )


def read_place(atlas: Atlas, sae: str) -> Place:
    """Read where the features stand on the Sae's map, (features, 2)."""
    table = atlas.column(sae, "x", "y")
    return np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)


def flat_list(column: pa.ChunkedArray) -> tuple[Ints, Any]:
    """Return offsets and Arrow's values of a list column that was combined into one chunk."""
    lists = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    return lists.offsets.to_numpy().astype(np.int64), lists.values


def _flat(column: pa.ChunkedArray) -> tuple[Ints, Ints]:
    """Return offsets and numbers of such a column."""
    starts, values = flat_list(column)
    return starts, values.to_numpy().astype(np.int64)


def _peak_tokens(rows: Ints, tokens: Ints, n_rows: int) -> Tokens:
    """The first few distinct tokens at the peaks of each feature's strongest contexts."""
    pairs = rows * (int(tokens.max(initial=0)) + 1) + tokens
    _, firsts = np.unique(pairs, return_index=True)
    firsts.sort()
    rows, tokens = rows[firsts], tokens[firsts]
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = places < N_PEAK_TOKENS
    out = np.full((n_rows, N_PEAK_TOKENS), -1, np.int32)
    out[rows[kept], places[kept]] = tokens[kept]
    return out


def _padded(starts: Ints, values: Ints) -> Tokens:
    """Lists of different lengths as one array, -1 where a list has ended."""
    lengths = np.diff(starts)
    out = np.full((len(lengths), int(lengths.max(initial=1))), -1, np.int32)
    out[np.arange(out.shape[1]) < lengths[:, None]] = values
    return out
