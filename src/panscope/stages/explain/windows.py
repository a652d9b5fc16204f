"""What explainers are shown and what labels are scored on: two halves that share no document.

A window is a stretch of a row of the atlas's text with the feature's activations, all of which the
atlas knows. Firing windows lie around the peaks of the feature's examples, silent ones where it
fires nowhere in the rows of those examples. Rows and documents go to one half whole, so that
nothing of what the explainer saw, nor its neighbourhood, is asked about again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from typing import Self

from panscope.atlas.records import Context, Example, Feature

BEFORE = 0.75  # of a window lies before its peak: activations depend on what came before


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a row: the feature's activation at each token, zero where it did not fire.

    `since` counts for each token those before it in its document's part of the row.
    """

    context: int
    start: int
    kind: str
    pieces: tuple[str, ...]
    values: tuple[float, ...]
    since: tuple[int, ...]
    documents: frozenset[int]

    @property
    def fires(self) -> bool:
        """Whether the feature fires anywhere in it."""
        return any(self.values)


@dataclass(frozen=True, slots=True)
class Halves:
    """The windows of a feature; firing ones strongest first, then silent ones."""

    shown: tuple[Window, ...]
    scored: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the atlas's text as windows are cut from it."""

    kind: str
    pieces: tuple[str, ...]
    documents: tuple[int, ...]
    since: tuple[int, ...]

    @classmethod
    def of(cls, context: Context, pieces: Sequence[str]) -> Self:
        """Show a context's tokens and find where its documents begin; the BOS is in none."""
        since: list[int] = []
        for position, document in enumerate(context.documents):
            goes_on = position > 1 and document == context.documents[position - 1]
            since.append(since[-1] + 1 if goes_on else 0)
        shown = tuple(pieces[token] for token in context.tokens)
        return cls(context.kind, shown, context.documents, tuple(since))

    def window(self, example: Example, start: int, n_tokens: int) -> Window:
        """Cut a window, with the activations of an example in this row."""
        span = slice(start, start + n_tokens)
        values = dict(zip(example.positions, example.values, strict=True))
        return Window(
            context=example.context,
            start=start,
            kind=self.kind,
            pieces=self.pieces[span],
            values=tuple(values.get(p, 0.0) for p in range(len(self.pieces))[span]),
            since=self.since[span],
            documents=frozenset(self.documents[span]),
        )


Rows = Callable[[int], Row]


def halves(feature: Feature, rows: Rows, n_tokens: int, n_each: int, seed: int) -> Halves:
    """Deal a feature's examples to the two halves, at most `n_each` firing windows to each.

    As many silent windows go with them, if the rows have so many.
    """
    shown, scored = _dealt(feature.examples, rows, n_each)
    random = Random(f"{seed} {feature.index}")
    return Halves(*(_windows(half, rows, n_tokens, random) for half in (shown, scored)))


def _dealt(
    examples: Sequence[Example], rows: Rows, n_each: int
) -> tuple[list[Example], list[Example]]:
    """Give each example to the half that has its documents, or to the smaller; to none if both.

    A row's documents are those of all its tokens: attention may have seen them.
    """
    dealt: tuple[list[Example], list[Example]] = ([], [])
    known: tuple[set[int], set[int]] = (set(), set())
    for example in _in_turn(examples):
        documents = set(rows(example.context).documents)
        having = [half for half in (0, 1) if documents & known[half]]
        if len(having) == 2:
            continue
        half = having[0] if having else int(len(dealt[1]) < len(dealt[0]))
        if len(dealt[half]) < n_each:
            dealt[half].append(example)
            known[half].update(documents)
    return dealt


def _in_turn(examples: Sequence[Example]) -> Iterator[Example]:
    """Take the examples of the strongest contexts and of each band by turns, in pairs."""
    bands: dict[int, list[Example]] = {}
    for example in examples:
        bands.setdefault(example.band, []).append(example)
    pairs = [[band[i : i + 2] for i in range(0, len(band), 2)] for band in bands.values()]
    for turn in zip_longest(*pairs, fillvalue=[]):
        for pair in turn:
            yield from pair


def _windows(
    examples: Sequence[Example], rows: Rows, n_tokens: int, random: Random
) -> tuple[Window, ...]:
    firing = [_around(e, rows(e.context), n_tokens) for e in examples]
    firing.sort(key=lambda window: -max(window.values))
    places = [
        (e, start) for e in examples for start in _silent_starts(e, rows(e.context), n_tokens)
    ]
    drawn = random.sample(places, min(len(firing), len(places)))
    return (*firing, *(rows(e.context).window(e, start, n_tokens) for e, start in drawn))


def _around(example: Example, row: Row, n_tokens: int) -> Window:
    """Cut the window around an example's peak, without the BOS at position 0."""
    last = len(row.pieces) - n_tokens
    start = max(1, min(example.peak - int(BEFORE * n_tokens), last))
    return row.window(example, start, n_tokens)


def _silent_starts(example: Example, row: Row, n_tokens: int) -> Iterator[int]:
    """Yield where windows begin, one behind another, in which nothing fires."""
    start = 1
    for position in (*sorted(example.positions), len(row.pieces)):
        while start + n_tokens <= position:
            yield start
            start += n_tokens
        start = max(start, position + 1)
