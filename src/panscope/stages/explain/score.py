"""Scores: what a label foretells of windows that its author was not shown.

detection   in which windows the feature fires: balanced accuracy
fuzzing     whether the marked tokens of a firing window are those it fires on; in half of them as
            many others are marked: balanced accuracy
simulation  its activation at every token: Pearson's correlation

(Bills et al. 2023; Paulo et al., arXiv:2410.13928, section 4.) Beside each stands the same score
with the label of another feature. What could not be answered is counted, and is neither right nor
wrong.
"""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from panscope.atlas.labels import Score
from panscope.stages.explain.agreement import balanced_accuracy, correlation
from panscope.stages.explain.windows import Window

Scorer = Literal["detection", "fuzzing", "simulation"]
Strengths = Sequence[float]
KEPT = 64  # answers of a score that the notes keep: twenty are asked unless the recipe says more


@runtime_checkable
class Reading(Protocol):
    """A label and someone who foretells by it; None for what they could not answer."""

    @property
    def text(self) -> str:
        """The label."""

    def fires_in(self, windows: Sequence[Window]) -> Sequence[bool | None]:
        """Foretell in which windows the feature fires."""

    def fires_at(
        self, windows: Sequence[Window], marked: Sequence[Sequence[int]]
    ) -> Sequence[bool | None]:
        """Foretell whether the feature fires at the marked tokens of each window."""

    def strengths(self, windows: Sequence[Window]) -> Sequence[Strengths | None]:
        """Foretell the activation at each token of each window, on any scale."""


class Outcome(NamedTuple):
    """A score on the way: its value, how much was answered, and each answer."""

    value: float | None
    n: int
    n_failed: int
    details: list[dict[str, object]]


def scores(
    scorers: Sequence[Scorer],
    own: Reading,
    other: Reading | None,
    windows: Sequence[Window],
    seed: int,
    author: str,
) -> tuple[Score, ...]:
    """Score a label on windows, beside the label of another feature."""
    return tuple(_score(scorer, own, other, windows, seed, author) for scorer in scorers)


def _score(
    scorer: Scorer,
    own: Reading,
    other: Reading | None,
    windows: Sequence[Window],
    seed: int,
    author: str,
) -> Score:
    measure = MEASURES[scorer]
    found = measure(own, windows, seed)
    baseline = None if other is None else measure(other, windows, seed).value
    details = json.dumps(_some(found.details, seed), separators=(",", ":"))
    return Score(scorer, found.value, baseline, found.n, found.n_failed, author, details)


def _detection(reading: Reading, windows: Sequence[Window], seed: int) -> Outcome:
    asked = _shuffled(windows, seed)
    truth = [window.fires for window in asked]
    details = [_detail(window, fires) for window, fires in zip(asked, truth, strict=True)]
    return _judged(details, truth, reading.fires_in(asked))


def _fuzzing(reading: Reading, windows: Sequence[Window], seed: int) -> Outcome:
    firing = [window for window in windows if window.fires and not all(window.values)]
    asked = _shuffled(firing, seed)
    marks = [_marks(window, seed, right=i % 2 == 0) for i, window in enumerate(asked)]
    truth = [i % 2 == 0 for i in range(len(asked))]
    details = [
        _detail(window, right, marked=marked)
        for window, right, marked in zip(asked, truth, marks, strict=True)
    ]
    return _judged(details, truth, reading.fires_at(asked, marks))


def _simulation(reading: Reading, windows: Sequence[Window], seed: int) -> Outcome:
    told = list(zip(windows, reading.strengths(windows), strict=True))
    answered = [(window, values) for window, values in told if values is not None]
    expected = [value for _, values in answered for value in values]
    true = [value for window, _ in answered for value in window.values]
    details = [_detail(w, w.fires, told=_sparse(values)) for w, values in told]
    n_failed = len(told) - len(answered)
    return Outcome(correlation(expected, true), len(answered), n_failed, details)


MEASURES: dict[Scorer, Callable[[Reading, Sequence[Window], int], Outcome]] = {
    "detection": _detection,
    "fuzzing": _fuzzing,
    "simulation": _simulation,
}


def _judged(
    details: Sequence[dict[str, object]], truth: Sequence[bool], told: Sequence[bool | None]
) -> Outcome:
    """Compare answers with the truth, and note them beside it."""
    answered = [(t, a) for t, a in zip(truth, told, strict=True) if a is not None]
    noted = [{**one, "told": a} for one, a in zip(details, told, strict=True)]
    return Outcome(balanced_accuracy(answered), len(answered), len(told) - len(answered), noted)


def _detail(window: Window, true: bool, **more: object) -> dict[str, object]:
    """Say which window was asked about, and what is true of it."""
    place = {"context": window.context, "start": window.start, "tokens": len(window.pieces)}
    return {**place, "true": true, **more}


def _sparse(values: Strengths | None) -> dict[int, float] | None:
    """Keep what was foretold, without the zeros."""
    return None if values is None else {i: round(v, 3) for i, v in enumerate(values) if v}


def _some(details: list[dict[str, object]], seed: int) -> list[dict[str, object]]:
    """Keep no more than the notes should hold, drawn by chance and left in their order."""
    kept = Random(seed).sample(range(len(details)), min(len(details), KEPT))
    return [details[place] for place in sorted(kept)]


def _shuffled(windows: Sequence[Window], seed: int) -> list[Window]:
    return Random(seed).sample(list(windows), len(windows))


def _marks(window: Window, seed: int, right: bool) -> list[int]:
    """Choose the tokens to mark: those it fires on, or as many others."""
    firing = [i for i, value in enumerate(window.values) if value > 0]
    if right:
        return firing
    silent = [i for i, value in enumerate(window.values) if value == 0]
    random = Random(f"{seed} {window.context} {window.start}")
    return sorted(random.sample(silent, min(len(firing), len(silent))))
