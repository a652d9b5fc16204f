"""Questions a reader asks of an Atlas, answered from columns kept in memory.

A Sae's short columns are read once (`short.py`); sorting or filtering 65,536 features then takes
milliseconds. Examples are long: they are read from their row group when one feature is asked for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from threading import RLock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from panscope.atlas.alive import DensityHistogram, density_histogram, step
from panscope.atlas.contexts import Contexts
from panscope.atlas.features import Atlas
from panscope.atlas.records import Feature, FeatureRow
from panscope.atlas.short import Columns, Ints, Place, read_columns, read_place, read_row
from panscope.atlas.views import FeatureView, kind_shares, tokens_in
from panscope.errors import Unsupported, nearest
from panscope.kept import Kept

COLUMNS_BYTES = 128 << 20  # of 1.7 million features
PLACES_BYTES = 32 << 20  # of four million
Sort = Literal["index", "density", "max", "mean"]
Hit = tuple[str, int]
Only = Mapping[str, Ints] | None
Corner = tuple[float | None, float | None]
_NO_INDICES = np.array([], np.int64)


@dataclass(frozen=True, slots=True)
class Query:
    """Which features to list and in what order; bounds are inclusive, ties go by index.

    `low` and `high` bound the density, `max_low` and `max_high` the maximum; `left`, `right`,
    `bottom` and `top` are the sides of a box on the Sae's map.
    """

    sort: Sort = "density"
    descending: bool = True
    text: str = ""
    low: float = 0.0
    high: float = 1.0
    max_low: float = 0.0
    max_high: float | None = None
    left: float | None = None
    right: float | None = None
    bottom: float | None = None
    top: float | None = None
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


class Catalogue:
    """An atlas opened for questions; threads may share it."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self._columns = Kept[Columns](COLUMNS_BYTES, lambda columns: columns.n_bytes)
        self._places = Kept[Place](PLACES_BYTES, lambda place: place.nbytes)
        self._densities: dict[str, DensityHistogram] = {}
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
            return self._columns.get(sae, lambda: self._read_columns(sae))

    def _read_columns(self, sae: str) -> Columns:
        return read_columns(self.atlas, self.contexts.tokens_at, sae)

    def densities(self, sae: str) -> DensityHistogram:
        """How dense the features of a Sae are, counted on first use: every page shows it."""
        if sae not in self._densities:
            self._densities[sae] = density_histogram(self.columns(sae))
        return self._densities[sae]

    def place(self, sae: str) -> Place:
        """Where the features of a Sae stand on its map, read on first use.

        Raises Unsupported for an atlas that was made without maps.
        """
        if not self.has_place(sae):
            raise Unsupported(f"Sae {sae}", "has no map in this atlas", "run describe again")
        with self._lock:
            return self._places.get(sae, lambda: read_place(self.atlas, sae))

    def has_place(self, sae: str) -> bool:
        """Whether the atlas has a map of a Sae."""
        with self._lock:
            return self.atlas.has_column(sae, "x")

    def check(self, sae: str, index: int) -> None:
        """Raise NotFound, with what there is, for a Sae or a feature that is not in the atlas."""
        self.atlas.check(sae, index)

    def row(self, sae: str, index: int) -> FeatureRow:
        """One feature as a line of a table; the rest of its Sae is not read for it."""
        with self._lock:
            if sae in self._columns:
                return self.columns(sae).row(index)
            return read_row(self.atlas, self.contexts.tokens_at, sae, index)

    def record(self, sae: str, index: int) -> Feature:
        """One feature as the atlas has it."""
        with self._lock:
            return self.atlas.feature(sae, index)

    def feature(self, sae: str, index: int) -> FeatureView:
        """One feature, its examples joined to contexts, tokens to their pieces."""
        feature, columns = self.record(sae, index), self.columns(sae)
        view = FeatureView(
            sae=self.atlas.sae(sae),
            feature=feature,
            contexts=self.contexts.some(sorted({example.context for example in feature.examples})),
            neighbours=tuple(map(columns.row, feature.neighbours)),
            encoder_neighbours=tuple(map(columns.row, feature.encoder_neighbours)),
            companions=tuple(map(columns.row, feature.companions)),
            kinds=kind_shares(self.atlas, feature),
            previous=step(columns, index, -1),
            next=step(columns, index, 1),
            pieces={},
        )
        return replace(view, pieces=self.pieces(tokens_in(view)))

    def pieces(self, ids: Iterable[int]) -> dict[int, str]:
        """The text of token ids."""
        return {token: self.atlas.pieces[token] for token in ids}

    def select(self, sae: str, query: Query) -> Ints:
        """Indices of the features that answer a query, in its order."""
        found = self._found(sae, query)
        return found[self._order([sae], [found], query, len(found))]

    def _found(self, sae: str, query: Query) -> Ints:
        """Indices of the features that answer a query, from the first unless it says otherwise."""
        found = np.flatnonzero(self._keep(sae, self.columns(sae), query))
        return found[::-1] if query.sort == "index" and query.descending else found

    def page(self, sae: str, query: Query, offset: int, limit: int) -> FeaturePage:
        """A window on the features that answer a query."""
        found = self.select(sae, query)
        columns = self.columns(sae)
        rows = tuple(columns.row(index) for index in found[offset : offset + limit].tolist())
        hint = self._nearest_piece(columns, query.text) if query.text and not found.size else ""
        pieces = self.pieces(t for row in rows for t in row.top_tokens + row.peak_tokens)
        return FeaturePage(int(found.size), offset, rows, pieces, hint)

    def across(
        self, saes: Sequence[str], query: Query, offset: int, limit: int, only: Only = None
    ) -> tuple[int, list[Hit]]:
        """Count the features of several Saes that answer a query; list a window in its order.

        Ties go by Sae and index. `only` are the features of each Sae that may be found at all.
        """
        found = [self._found(sae, query) for sae in saes]
        if only is not None:
            found = [self._among(sae, f, only[sae]) for f, sae in zip(found, saes, strict=True)]
        of_sae = np.repeat(np.arange(len(saes)), [len(f) for f in found])
        indices = np.concatenate([_NO_INDICES, *found])
        order = self._order(saes, found, query, offset + limit)[offset:]
        window = zip(of_sae[order].tolist(), indices[order].tolist(), strict=True)
        return len(indices), [(saes[place], index) for place, index in window]

    def _among(self, sae: str, found: Ints, allowed: Ints) -> Ints:
        """Keep those features of a Sae that are allowed."""
        is_allowed = np.zeros(self.atlas.sae(sae).width, bool)
        is_allowed[allowed[allowed < len(is_allowed)]] = True  # notes may be of a wider Sae
        return found[is_allowed[found]]

    def _order(self, saes: Sequence[str], found: Sequence[Ints], query: Query, n: int) -> Ints:
        """Say which features come first in a query's order, `n` of them."""
        if query.sort == "index":
            return np.arange(min(n, sum(map(len, found))))
        columns = (getattr(self.columns(sae), query.sort) for sae in saes)
        keys = np.concatenate([c[f] for c, f in zip(columns, found, strict=True)])
        return smallest(-keys if query.descending else keys, n)

    def _keep(self, sae: str, columns: Columns, query: Query) -> NDArray[np.bool_]:
        keep = (columns.density >= query.low) & (columns.density <= query.high)
        # As float64, since a bound may be larger than float32 can tell.
        keep &= columns.max >= np.float64(query.max_low)
        if query.max_high is not None:
            keep &= columns.max <= np.float64(query.max_high)
        if query.alive:
            keep &= columns.density > 0
        if query.text:
            keep &= self._mentions(columns, query.text)
        sides = (query.left, query.bottom), (query.right, query.top)
        if any(side is not None for corner in sides for side in corner):
            keep &= self._inside(sae, *sides)
        return keep

    def _inside(self, sae: str, least: Corner, most: Corner) -> NDArray[np.bool_]:
        place = self.place(sae)
        low = np.array([-np.inf if side is None else side for side in least])
        high = np.array([np.inf if side is None else side for side in most])
        return np.asarray(((place >= low) & (place <= high)).all(axis=1))

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


def smallest(keys: NDArray[Any], n: int) -> Ints:
    """Return the places of the `n` smallest keys in their order, of equal ones by place.

    >>> smallest(np.array([3.0, 1.0, 2.0, 1.0, 2.0]), 3)
    array([1, 3, 2])
    """
    if not 0 < n < len(keys):
        return np.argsort(keys, kind="stable")[:n]
    # To sort 200,000 takes 25 ms, to find the last that is wanted 2.
    near = np.flatnonzero(~(keys > np.partition(keys, n - 1)[n - 1]))
    return near[np.argsort(keys[near], kind="stable")][:n]


def fold(text: str) -> str:
    """Fold case, and take the signs by which pages show blanks for the blanks themselves.

    >>> fold("·The")
    ' the'
    """
    return text.replace("·", " ").replace("↵", "\n").casefold()
