"""The contexts that examples refer to, packed: 250,000 of 128 tokens take 75 MB.

Token ids take two bytes where they fit; of documents only the places are kept where one begins.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from panscope.atlas.features import Atlas
from panscope.atlas.records import Context
from panscope.atlas.short import Ints
from panscope.errors import Corrupt
from panscope.files import checked

BATCH = 4_096  # contexts that are packed at a time
Numbers = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Packed:
    """Contexts one after another: `lengths` and `kinds` a context, the rest flat.

    `runs` are the lengths of the stretches of one document, whose numbers are `documents`; a
    stretch ends with its context.
    """

    numbers: Numbers
    lengths: Numbers
    tokens: Numbers
    runs: Numbers
    documents: Numbers
    kinds: Numbers


class Contexts:
    """All contexts of an atlas in memory."""

    def __init__(self, atlas: Atlas) -> None:
        path = checked(atlas.folder, atlas.manifest, "contexts.parquet")
        self._where = str(path)
        self._kinds: dict[str, int] = {}
        batches = pq.ParquetFile(path).iter_batches(BATCH, use_threads=False)
        parts = [_pack(batch, self._kinds) for batch in batches]
        self._all = Packed(*(_joined(parts, name) for name in Packed.__slots__))
        self._starts, self._run_starts = _starts(self._all.lengths), _starts(self._all.runs)
        pa.default_memory_pool().release_unused()  # what was packed

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest context, BOS included."""
        return int(self._all.lengths.max(initial=0))

    @property
    def bos(self) -> int:
        """The token id with which contexts begin."""
        return int(self._all.tokens[0])

    def tokens_at(self, numbers: Ints, positions: Ints) -> Ints:
        """Token ids at positions of contexts."""
        tokens = self._all.tokens[self._starts[self._rows(numbers)] + positions]
        return np.asarray(tokens, np.int64)

    def get(self, number: int) -> Context:
        """One context by its number."""
        return self.some([number])[0]

    def some(self, numbers: list[int]) -> tuple[Context, ...]:
        """Several contexts by their numbers."""
        rows = self._rows(np.array(numbers, np.int64))
        ends = zip(self._starts[rows].tolist(), self._starts[rows + 1].tolist(), strict=True)
        kinds = list(self._kinds)
        return tuple(
            Context(
                number,
                tuple(self._all.tokens[start:stop].tolist()),
                self._documents(start, stop),
                kinds[kind],
            )
            for number, (start, stop), kind in zip(
                numbers, ends, self._all.kinds[rows].tolist(), strict=True
            )
        )

    def one_of_each_kind(self) -> tuple[Context, ...]:
        """The first context of each kind of text, in order of kind."""
        firsts = [int(np.argmax(self._all.kinds == self._kinds[k])) for k in sorted(self._kinds)]
        return self.some(self._all.numbers[firsts].tolist())

    def of_kind(self, kind: str, limit: int) -> tuple[Context, ...]:
        """Some contexts of a kind of text, evenly spread over all of them."""
        rows = np.flatnonzero(self._all.kinds == self._kinds.get(kind, -1))
        spread = np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(int)
        return self.some(self._all.numbers[rows[spread]].tolist())

    def _documents(self, start: int, stop: int) -> tuple[int, ...]:
        """The document of each token of a context, given where its tokens lie."""
        first, last = np.searchsorted(self._run_starts, [start, stop]).tolist()
        documents = np.repeat(self._all.documents[first:last], self._all.runs[first:last])
        return tuple(documents.tolist())

    def _rows(self, numbers: Ints) -> Ints:
        here = self._all.numbers
        rows = np.searchsorted(here, numbers)
        known = rows < len(here)
        known[known] = here[rows[known]] == numbers[known]
        if not known.all():
            found = f"has no context {numbers[~known][0]}, to which an example refers"
            raise Corrupt(self._where, found, "run describe again")
        return rows


def _pack(batch: pa.RecordBatch, kinds: dict[str, int]) -> Packed:
    """Pack some contexts; kinds that are new get the next number."""
    lengths = batch["tokens"].value_lengths().to_numpy()
    tokens, documents = (batch[name].flatten().to_numpy() for name in ("tokens", "documents"))
    begins = np.zeros(len(documents) + 1, bool)
    begins[_starts(lengths)] = True
    begins[1:-1] |= documents[1:] != documents[:-1]
    places = np.flatnonzero(begins)
    named = batch["kind"].dictionary_encode()
    codes = np.array([kinds.setdefault(k, len(kinds)) for k in named.dictionary.to_pylist()])
    return Packed(
        numbers=batch["context"].to_numpy().astype(np.int64),
        lengths=lengths,
        tokens=tokens.astype(np.uint16 if tokens.max(initial=0) < 1 << 16 else np.int32),
        runs=np.diff(places).astype(np.int32),
        documents=documents[places[:-1]],
        kinds=codes[named.indices.to_numpy()].astype(np.uint16),
    )


def _joined(parts: list[Packed], name: str) -> Numbers:
    return np.concatenate([np.zeros(0, np.uint16), *(getattr(part, name) for part in parts)])


def _starts(lengths: Numbers) -> Ints:
    """Where parts of these lengths begin, and the end of the last."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
