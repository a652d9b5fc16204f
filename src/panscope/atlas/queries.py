"""Questions a reader asks of an Atlas, answered from columns kept in memory.

A Sae's short columns (density, max, mean, top and peak tokens) are read once and kept as arrays:
65,536 features take about 5 MB, and sorting or filtering them takes milliseconds. Examples are
long, so they are read from their row group when one feature is asked for.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from threading import RLock
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from panscope.atlas.features import Atlas
from panscope.atlas.records import Context, Feature, FeatureRow, SaeRecord
from panscope.errors import Corrupt, nearest
from panscope.files import checked

Ints = NDArray[np.int64]
Sort = Literal["index", "density", "max", "mean"]
N_PEAK_TOKENS = 5
BIN_DECADES = 0.25  # width of a bin of the density histogram


@dataclass(frozen=True, slots=True)
class Query:
    """Which features to list and in what order; bounds are inclusive, ties go by index."""

    sort: Sort = "density"
    descending: bool = True
    text: str = ""
    low: float = 0.0
    high: float = 1.0
    alive: bool = True


@dataclass(frozen=True, slots=True)
class FeaturePage:
    """A window on the features a query found, and the text of their tokens.

    `nearest` offers other texts when none was found.
    """

    total: int
    offset: int
    rows: tuple[FeatureRow, ...]
    pieces: dict[int, str]
    nearest: str


@dataclass(frozen=True, slots=True)
class DensityHistogram:
    """Alive features by log10 of their density; one edge more than counts."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    n_dead: int


@dataclass(frozen=True, slots=True)
class FeatureView:
    """One feature with what its numbers refer to: contexts, pieces, neighbours, next and previous.

    `pieces` holds the text of every token id that occurs in the rest.
    """

    sae: SaeRecord
    feature: Feature
    contexts: tuple[Context, ...]
    neighbours: tuple[FeatureRow, ...]
    previous: int | None
    next: int | None
    pieces: dict[int, str]


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


class Contexts:
    """The contexts that examples refer to, as flat arrays in Arrow's memory: 8 bytes a token."""

    def __init__(self, atlas: Atlas) -> None:
        self._where = str(atlas.folder / "contexts.parquet")
        table = pq.read_table(checked(atlas.folder, atlas.manifest, "contexts.parquet"))
        table = table.combine_chunks()
        self._numbers = table["context"].to_numpy()
        self._starts, tokens = _flat_list(table["tokens"])
        _, documents = _flat_list(table["documents"])
        self._tokens, self._documents = tokens.to_numpy(), documents.to_numpy()
        self._kinds = table["kind"]
        pa.default_memory_pool().release_unused()  # the pieces that were combined

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest context, BOS included."""
        return int(np.diff(self._starts).max(initial=0))

    @property
    def bos(self) -> int:
        """The token id with which contexts begin."""
        return int(self._tokens[0])

    def tokens_at(self, numbers: Ints, positions: Ints) -> Ints:
        """Token ids at positions of contexts."""
        tokens = self._tokens[self._starts[self._rows(numbers)] + positions]
        return np.asarray(tokens, np.int64)

    def get(self, number: int) -> Context:
        """One context by its number."""
        row = int(self._rows(np.array([number]))[0])
        span = slice(self._starts[row], self._starts[row + 1])
        tokens, documents = self._tokens[span].tolist(), self._documents[span].tolist()
        return Context(number, tuple(tokens), tuple(documents), self._kinds[row].as_py())

    def one_of_each_kind(self) -> list[Context]:
        """The first context of each kind of text, in order of kind."""
        _, first = np.unique(self._kinds.to_numpy(), return_index=True)
        return [self.get(int(self._numbers[row])) for row in first]

    def _rows(self, numbers: Ints) -> Ints:
        rows = np.searchsorted(self._numbers, numbers)
        known = self._numbers[np.minimum(rows, len(self._numbers) - 1)] if rows.size else numbers
        if (missing := numbers[known != numbers]).size:
            found = f"has no context {missing[0]}, to which an example refers"
            raise Corrupt(self._where, found, "run describe again")
        return rows


class Catalogue:
    """An atlas opened for questions; threads may share it."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self._columns: dict[str, Columns] = {}
        self._lock = RLock()  # a ParquetFile's reader keeps a position

    @cached_property
    def contexts(self) -> Contexts:
        """The contexts that examples refer to."""
        return Contexts(self.atlas)

    @cached_property
    def folded_pieces(self) -> list[str]:
        """Every piece in the form in which a filter looks for text."""
        return [fold(piece) for piece in self.atlas.pieces]

    def columns(self, sae: str) -> Columns:
        """The short columns of a Sae, read on first use."""
        with self._lock:
            if sae not in self._columns:
                self._columns[sae] = _read_columns(self.atlas, self.contexts, sae)
            return self._columns[sae]

    def feature(self, sae: str, index: int) -> FeatureView:
        """One feature, its examples joined to contexts, tokens to their pieces."""
        with self._lock:
            feature = self.atlas.feature(sae, index)
        columns = self.columns(sae)
        numbers = sorted({example.context for example in feature.examples})
        contexts = tuple(self.contexts.get(number) for number in numbers)
        neighbours = tuple(columns.row(neighbour) for neighbour in feature.neighbours)
        ids = set(_tokens_of(feature, contexts, neighbours))
        return FeatureView(
            sae=self.atlas.sae(sae),
            feature=feature,
            contexts=contexts,
            neighbours=neighbours,
            previous=step(columns, index, -1),
            next=step(columns, index, 1),
            pieces=self.pieces(ids),
        )

    def pieces(self, ids: Iterable[int]) -> dict[int, str]:
        """The text of token ids."""
        return {token: self.atlas.pieces[token] for token in ids}

    def select(self, sae: str, query: Query) -> Ints:
        """Indices of the features that answer a query, in its order."""
        columns = self.columns(sae)
        keep = (columns.density >= query.low) & (columns.density <= query.high)
        if query.alive:
            keep &= columns.density > 0
        if query.text:
            keep &= self._mentions(columns, query.text)
        found = np.flatnonzero(keep)
        if query.sort == "index":
            return found[::-1] if query.descending else found
        keys = getattr(columns, query.sort)[found]
        return found[np.argsort(-keys if query.descending else keys, kind="stable")]

    def page(self, sae: str, query: Query, offset: int, limit: int) -> FeaturePage:
        """A window on the features that answer a query."""
        found = self.select(sae, query)
        columns = self.columns(sae)
        rows = tuple(columns.row(index) for index in found[offset : offset + limit].tolist())
        hint = self._nearest_piece(columns, query.text) if query.text and not found.size else ""
        pieces = self.pieces(t for row in rows for t in row.top_tokens + row.peak_tokens)
        return FeaturePage(int(found.size), offset, rows, pieces, hint)

    def _mentions(self, columns: Columns, text: str) -> NDArray[np.bool_]:
        wanted = fold(text)
        has_text = np.array([*(wanted in piece for piece in self.folded_pieces), False])
        return np.asarray(
            has_text[columns.top_tokens].any(axis=1) | has_text[columns.peak_tokens].any(axis=1)
        )

    def _nearest_piece(self, columns: Columns, text: str) -> str:
        used = np.union1d(columns.top_tokens, columns.peak_tokens)
        pieces = dict.fromkeys(self.folded_pieces[t].strip() for t in used.tolist() if t >= 0)
        wanted = fold(text).strip()
        # difflib takes 0.1 s for 4,000 candidates, so only those that begin alike are compared
        hint = nearest(wanted, (piece for piece in pieces if piece[:1] == wanted[:1]))
        return hint if hint.startswith("did") else ""


def fold(text: str) -> str:
    """Fold case, and take the signs by which pages show blanks for the blanks themselves.

    >>> fold("·The")
    ' the'
    """
    return text.replace("·", " ").replace("↵", "\n").casefold()


def step(columns: Columns, index: int, by: Literal[1, -1]) -> int | None:
    """The nearest alive feature after or before `index`; None at the end."""
    alive = np.flatnonzero(columns.density > 0)
    others = alive[alive > index] if by == 1 else alive[alive < index][::-1]
    return int(others[0]) if others.size else None


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


def _read_columns(atlas: Atlas, contexts: Contexts, sae: str) -> Columns:
    leaves = [f"examples.list.element.{leaf}" for leaf in ("band", "context", "peak")]
    table = atlas.column(sae, "density", "max", "mean", "top_tokens", *leaves).combine_chunks()
    starts, examples = _flat_list(table["examples"])
    names = ("band", "context", "peak")
    band, context, peak = (examples.field(n).to_numpy().astype(np.int64) for n in names)
    tokens = contexts.tokens_at(context, peak)
    return Columns(
        density=table["density"].to_numpy(),
        max=table["max"].to_numpy(),
        mean=table["mean"].to_numpy(),
        top_tokens=_padded(*_flat(table["top_tokens"])),
        peak_tokens=_peak_tokens(starts, band, tokens),
    )


def _peak_tokens(starts: Ints, band: Ints, tokens: Ints) -> Ints:
    """The first few distinct tokens at the peaks of each feature's strongest contexts."""
    out = np.full((len(starts) - 1, N_PEAK_TOKENS), -1)
    strongest = [tokens[a:b][band[a:b] == -1].tolist() for a, b in _spans(starts)]
    for row, peaks in zip(out, strongest, strict=True):
        distinct = list(dict.fromkeys(peaks))[:N_PEAK_TOKENS]
        row[: len(distinct)] = distinct
    return out


def _spans(starts: Ints) -> Iterator[tuple[int, int]]:
    edges = starts.tolist()
    return itertools.pairwise(edges)


def _flat_list(column: pa.ChunkedArray) -> tuple[Ints, Any]:
    """Offsets and values of a list column that was combined into one chunk."""
    lists = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    return lists.offsets.to_numpy().astype(np.int64), lists.values


def _flat(column: pa.ChunkedArray) -> tuple[Ints, Ints]:
    starts, values = _flat_list(column)
    return starts, values.to_numpy().astype(np.int64)


def _padded(starts: Ints, values: Ints) -> Ints:
    """Lists of different lengths as one array, -1 where a list has ended."""
    lengths = np.diff(starts)
    out = np.full((len(lengths), int(lengths.max(initial=1))), -1)
    out[np.arange(out.shape[1]) < lengths[:, None]] = values
    return out


def _tokens_of(
    feature: Feature, contexts: tuple[Context, ...], neighbours: tuple[FeatureRow, ...]
) -> Iterator[int]:
    yield from feature.top_tokens + feature.bottom_tokens
    for context in contexts:
        yield from context.tokens
    for row in neighbours:
        yield from row.top_tokens + row.peak_tokens
