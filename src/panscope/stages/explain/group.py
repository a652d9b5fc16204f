"""Features of one Sae that are explained together: the label of each is another's baseline."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from random import Random

from panscope.atlas.labels import Label
from panscope.atlas.notes import Notes
from panscope.atlas.records import Feature
from panscope.stages.explain.score import Reading, Scorer, scores
from panscope.stages.explain.windows import Halves, Rows, Window, halves

LEAST = 2  # firing windows that each half must have


@dataclass(frozen=True, slots=True)
class Explainer:
    """Someone who finds labels, and who reads them; `author` and `method` stand in the notes."""

    author: str
    method: str
    explain: Callable[[Sequence[Window]], Reading | None]
    read: Callable[[str], Reading]


@dataclass(frozen=True, slots=True)
class Manner:
    """All that a label and its scores depend on besides the feature; `digest` names it."""

    explainer: Explainer
    scorers: tuple[Scorer, ...]
    window_tokens: int
    n_windows: int
    seed: int
    digest: str


@dataclass(frozen=True, slots=True)
class Case:
    """A feature, its windows, and what a label of it is made from."""

    index: int
    halves: Halves
    made_from: str

    @property
    def has_windows(self) -> bool:
        """Whether both halves have enough of them."""
        counts = [sum(w.fires for w in half) for half in (self.halves.shown, self.halves.scored)]
        return min(counts) >= LEAST


def case(manner: Manner, feature: Feature, rows: Rows) -> Case:
    """Cut a feature's windows."""
    cut = halves(feature, rows, manner.window_tokens, manner.n_windows, manner.seed)
    shown = [(window.context, window.start) for window in cut.shown]
    return Case(feature.index, cut, json.dumps({"manner": manner.digest, "shown": shown}))


def labels(
    manner: Manner,
    sae: str,
    cases: Iterable[Case],
    wanted: Iterable[int],
    notes: Notes,
    pool: Executor,
) -> tuple[list[Label], Counter[str]]:
    """Explain the cases, and score the labels of the wanted ones; say how many became what.

    What has a label in the notes that was made in the same manner is left as it is.
    """
    fit = [case for case in cases if case.has_windows]
    asked = {case.index for case in fit} & set(wanted)
    open_ones = {
        case.index for case in fit if case.index in asked and known(case, sae, notes) is None
    }
    counts = Counter({"without windows": len(set(wanted)) - len(asked)})
    counts["known"] = len(asked) - len(open_ones)
    if not open_ones:
        return [], counts
    readings = pool.map(lambda case: manner.explainer.explain(case.halves.shown), fit)
    pairs = [(case, own) for case, own in zip(fit, readings, strict=True) if own is not None]
    others = _others([own for _, own in pairs], manner.seed)
    beside = [
        (case, own, other)
        for (case, own), other in zip(pairs, others, strict=True)
        if case.index in open_ones
    ]
    found = list(pool.map(lambda triple: _label(manner, sae, *triple), beside))
    counts["labelled"], counts["without answer"] = len(found), len(open_ones) - len(found)
    return found, counts


def _label(manner: Manner, sae: str, case: Case, own: Reading, other: Reading | None) -> Label:
    explainer = manner.explainer
    return Label(
        sae=sae,
        index=case.index,
        text=own.text,
        author=explainer.author,
        method=explainer.method,
        scores=scores(
            manner.scorers, own, other, case.halves.scored, manner.seed, explainer.author
        ),
        made_from=case.made_from,
    )


def known(case: Case, sae: str, notes: Notes) -> Label | None:
    """Return the label that the notes have of a feature in the same manner, the newest if many."""
    labels = notes.labels(sae, case.index)
    return next((label for label in labels if label.made_from == case.made_from), None)


def _others(readings: Sequence[Reading], seed: int) -> list[Reading | None]:
    """Give each label another's for comparison; None to one that is alone."""
    if len(readings) < 2:
        return [None] * len(readings)
    by = Random(seed).randrange(1, len(readings))
    return [*readings[by:], *readings[:by]]
