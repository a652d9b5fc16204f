"""The windows on which a label was scored: what was foretold of each, beside what is true.

Notes keep of a window where it lies and what was said of it; its tokens and activations are looked
up in the atlas. Notes made before lengths and marks were kept have windows of 24 tokens, and of a
fuzzed window no marks.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from panscope.atlas.contexts import Contexts
from panscope.atlas.labels import Label, Score
from panscope.atlas.records import Example, Feature
from panscope.errors import Corrupt

WINDOW_TOKENS = 24  # of a window whose length was not kept


@dataclass(frozen=True, slots=True)
class Judgement:
    """A window, the feature's activation at each token, and what was foretold.

    `true` is what was to be told: that the feature fires in the window, or at the `marked` places
    of it. `told` is None for an answer that could not be used, and of a simulation, whose answer is
    `foretold`: an activation a token, on a scale of its own.
    """

    context: int
    start: int
    tokens: tuple[int, ...]
    values: tuple[float, ...]
    true: bool
    told: bool | None
    marked: tuple[int, ...] = ()
    foretold: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class JudgedScore:
    """A score and what it was judged on, wrong answers first; as many as the notes have kept.

    `n_lost` counts windows that this atlas does not have: they are of one made before.
    """

    scorer: str
    author: str
    value: float | None
    baseline: float | None
    n: int
    n_failed: int
    judgements: tuple[Judgement, ...]
    n_lost: int = 0


def judged(label: Label, feature: Feature, contexts: Contexts) -> tuple[JudgedScore, ...]:
    """Join the scores of a feature's label to the windows they were judged on."""
    return tuple(_judged(score, feature, contexts) for score in label.scores)


def _judged(score: Score, feature: Feature, contexts: Contexts) -> JudgedScore:
    details = _details(score)
    rows = {one.context: one for one in feature.examples}
    known = [one for one in details if one["context"] in rows]
    found = [_judgement(one, rows[one["context"]], contexts) for one in known]
    # One window of an unknown row, or with other activations, and all are of another atlas.
    is_ours = len(known) == len(details) and all(map(_holds, found))
    shown = tuple(sorted(found, key=_order)) if is_ours else ()
    numbers = (score.value, score.baseline, score.n, score.n_failed)
    return JudgedScore(score.scorer, score.author, *numbers, shown, len(details) - len(shown))


def _details(score: Score) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(score.details)
        for one in found:
            one["context"], one["start"] = int(one["context"]), int(one["start"])
        return found
    except (ValueError, LookupError, TypeError) as error:
        where, do = f"the score by {score.scorer}", "run explain again"
        raise Corrupt(where, f"has answers that cannot be read ({error!r})", do) from error


def _judgement(detail: Mapping[str, Any], row: Example, contexts: Contexts) -> Judgement:
    """Look up what a window says, and what the feature does in it."""
    number, start, told = detail["context"], detail["start"], detail.get("told")
    tokens = contexts.get(number).tokens[start : start + detail.get("tokens", WINDOW_TOKENS)]
    at = dict(zip(row.positions, row.values, strict=True))
    values = tuple(at.get(start + place, 0.0) for place in range(len(tokens)))
    return Judgement(
        context=number,
        start=start,
        tokens=tokens,
        values=values,
        true=bool(detail.get("true", any(values))),
        told=told if isinstance(told, bool) else None,
        marked=tuple(detail.get("marked", ())),
        foretold=_unfolded(told, len(tokens)) if isinstance(told, dict) else None,
    )


def _unfolded(told: Mapping[str, float], n_tokens: int) -> tuple[float, ...]:
    return tuple(float(told.get(str(place), 0.0)) for place in range(n_tokens))


def _holds(one: Judgement) -> bool:
    """Whether what was true when a window was judged is true in this atlas."""
    firing = {place for place, value in enumerate(one.values) if value > 0}
    if one.marked:
        return firing.issuperset(one.marked) if one.true else firing.isdisjoint(one.marked)
    return not one.true or bool(firing)


def _order(one: Judgement) -> tuple[int, bool]:
    """Put what was told wrong first, then what was not told; of each what is true first."""
    grade = 1 if one.told is None else 2 * (one.told is one.true)
    return grade, not one.true
