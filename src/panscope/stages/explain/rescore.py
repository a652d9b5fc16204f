"""Labels that people wrote, or that machines found, scored by whoever the recipe names.

On windows that no explainer is shown. A language model reads labels for what they say; the rules
take them to the letter, all but their own. A person may have seen every example on the feature's
page, so these windows were not kept from them as from machines.
"""

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from threading import Event

from panscope.atlas.features import Atlas
from panscope.atlas.labels import HUMAN, Label
from panscope.atlas.notes import Notes
from panscope.events import Advanced, Emit, Finished, Started, Warned
from panscope.stages.explain.group import Case, Manner, case
from panscope.stages.explain.run import (
    STAGE,
    Config,
    chosen,
    explainer_of,
    in_company,
    manner_of,
    named_saes,
    refuse_unknown,
    rows_of,
)
from panscope.stages.explain.score import Reading, scores


def rescore(
    config: Config,
    atlas: Atlas,
    notes: Notes,
    kept: Path,
    emit: Emit,
    closing: Event | None = None,
    method: str = HUMAN,
) -> Mapping[str, int]:
    """Score the newest labels by a method, into `notes`; say how many became what.

    Raises as `run` does.
    """
    refuse_unknown(config, atlas)
    started, counts = time.monotonic(), Counter[str]()
    labels = [
        label
        for sae in named_saes(config, atlas)
        for label in _labels(config, atlas, sae, notes.current(sae, method))
    ]
    rows = rows_of(atlas)
    emit(Started(STAGE, len(labels), "labels"))
    with explainer_of(config, kept, closing) as asked:
        manner = manner_of(config, atlas, asked.explainer)
        for label in labels:
            company = in_company(config, atlas, label.sae, [label.index])
            cases = [case(manner, feature, rows) for feature in atlas.features(label.sae, company)]
            counts[scored(manner, label, cases, notes)] += 1
            emit(Advanced(STAGE, counts.total(), asked.spent()))
    if n := counts["without windows"]:
        text = f"not scored, for want of examples in different documents: {n:,} of the labels"
        emit(Warned(STAGE, text))
    for text in asked.in_vain():
        emit(Warned(STAGE, text))
    emit(Finished(STAGE, time.monotonic() - started))
    return counts


def _labels(config: Config, atlas: Atlas, sae: str, current: Mapping[int, Label]) -> list[Label]:
    """List the labels of those features that are named."""
    asked = set(chosen(config.model_copy(update={"at_most": None}), atlas, sae))
    return [current[index] for index in sorted(asked & current.keys())]


def scored(manner: Manner, label: Label, cases: list[Case], notes: Notes) -> str:
    """Write the scores of a label of one of the cases; say what became of it."""
    own = next(case for case in cases if case.index == label.index)
    if not own.has_windows:
        return "without windows"
    other = next((one for one in cases if one is not own and one.has_windows), None)
    readings = _readings(manner, label, own, other)
    author = manner.explainer.author
    found = scores(manner.scorers, *readings, own.halves.scored, manner.seed, author)
    notes.add_scores(label, found)
    return "scored"


def _readings(
    manner: Manner, label: Label, own: Case, other: Case | None
) -> tuple[Reading, Reading | None]:
    """Read a label and, beside it, that of another feature.

    What the rules have found is told by their tables, as it was then, if they find it again.
    """
    explainer = manner.explainer
    beside = None if other is None else explainer.explain(other.halves.shown)
    if label.method == explainer.method == "rules":
        found = explainer.explain(own.halves.shown)
        if found is not None and found.text == label.text:
            return found, beside
    return explainer.read(label.text), beside and explainer.read(beside.text)
