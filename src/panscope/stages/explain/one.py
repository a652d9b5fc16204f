"""One feature while somebody waits: explained, or one of its labels scored."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

from panscope.atlas.features import Atlas
from panscope.atlas.labels import Label
from panscope.atlas.notes import Notes
from panscope.errors import ConfigError
from panscope.stages.explain.group import Case, Explainer, Manner, case, known, labels
from panscope.stages.explain.rescore import scored
from panscope.stages.explain.run import Config, explainer_of, in_company, manner_of, rows_of
from panscope.stages.explain.score import Scorer


@dataclass(frozen=True, slots=True)
class Desk:
    """What explaining one feature needs besides the feature.

    `scorers` are those that were chosen; the configuration has the recipe's, since its digest tells
    which labels were found before in the same way. Answers are kept in the folder `kept`; once
    `closing` is set, no more is asked.
    """

    config: Config
    scorers: tuple[Scorer, ...]
    atlas: Atlas
    notes: Notes
    kept: Path
    closing: Event


def explain_one(desk: Desk, sae: str, index: int) -> Label:
    """Label a feature as the configuration says, and score the label.

    A label that was found before in the same way is kept, whatever it was scored by: it gets the
    scores that it lacks.

    Raises ConfigError for a feature with too few windows, or for want of a usable answer.
    """
    config, notes = desk.config, desk.notes
    with (
        ThreadPoolExecutor(config.at_once) as pool,
        explainer_of(config, desk.kept, desk.closing) as asked,
    ):
        manner = _manner(desk, asked.explainer)
        own, cases = _cases(desk, manner, sae, index)
        if (found := known(own, sae, notes)) is not None:
            return _completed(found, manner, cases, notes)
        made, _ = labels(manner, sae, cases, [index], notes, pool)
        if not made:
            do = "try again, or see to the server that explain.endpoint names"
            raise ConfigError(f"feature {index}", "got no usable answer", do)
        return notes.add_all(made)[0]


def score_one(desk: Desk, label: Label) -> Label:
    """Score a label that is in the notes, whoever it is by; older scores stay in its history.

    Raises ConfigError for a feature with too few windows.
    """
    with explainer_of(desk.config, desk.kept, desk.closing) as asked:
        manner = _manner(desk, asked.explainer)
        _, cases = _cases(desk, manner, label.sae, label.index)
        scored(manner, label, cases, desk.notes)
    return _again(label, desk.notes)


def _manner(desk: Desk, explainer: Explainer) -> Manner:
    return replace(manner_of(desk.config, desk.atlas, explainer), scorers=desk.scorers)


def _cases(desk: Desk, manner: Manner, sae: str, index: int) -> tuple[Case, list[Case]]:
    """Cut the windows of a feature and, where it is scored, of one that keeps it company."""
    rows, indices = rows_of(desk.atlas), [index]
    if manner.scorers:
        indices = [*in_company(desk.config, desk.atlas, sae, indices)]
    cases = [case(manner, feature, rows) for feature in desk.atlas.features(sae, indices)]
    own = next(one for one in cases if one.index == index)
    if not own.has_windows:
        found = "has too few examples in different documents"
        raise ConfigError(f"feature {index}", found, "describe more text, or pick another feature")
    return own, cases


def _completed(label: Label, manner: Manner, cases: list[Case], notes: Notes) -> Label:
    """Add the scores that a label lacks by this explainer."""
    there = {score.scorer for score in label.scores if score.author == manner.explainer.author}
    lacking = tuple(scorer for scorer in manner.scorers if scorer not in there)
    if lacking:
        scored(replace(manner, scorers=lacking), label, cases, notes)
    return _again(label, notes) if lacking else label


def _again(label: Label, notes: Notes) -> Label:
    """Read a label again, with the scores it has now."""
    return next(one for one in notes.labels(label.sae, label.index) if one.id == label.id)
