"""What a label's score was judged on, found again in the atlas: the score follows from it."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from tests.stages import planted

from panscope.atlas.contexts import Contexts
from panscope.atlas.features import Atlas
from panscope.atlas.judgements import JudgedScore, judged
from panscope.atlas.labels import Label
from panscope.atlas.notes import Notes
from panscope.errors import Corrupt
from panscope.events import silent
from panscope.stages import explain
from panscope.stages.explain import score
from panscope.stages.explain.agreement import balanced_accuracy, correlation

SAE = planted.SAES[0]
CONFIG = explain.Config(saes=(SAE,), windows=8)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return planted.build(tmp_path_factory.mktemp("runs") / "planted")


@pytest.fixture(scope="module")
def labels(atlas: Atlas) -> dict[int, Label]:
    return explained(atlas, CONFIG)


def explained(atlas: Atlas, config: explain.Config) -> dict[int, Label]:
    with closing(Notes.open(atlas.folder.parent / f"{config.seed}.sqlite")) as notes:
        explain.run(config, atlas, notes, atlas.folder.parent, silent)
        return {index: notes.labels(SAE, index)[0] for index in range(5)}


def looked_up(atlas: Atlas, label: Label) -> tuple[JudgedScore, ...]:
    return judged(label, atlas.feature(SAE, label.index), Contexts(atlas))


def noted_otherwise(label: Label, change: Callable[[dict[str, Any]], None]) -> Label:
    """The label as if its scores' answers had been written down in another way."""
    scores = []
    for one in label.scores:
        details = json.loads(one.details)
        for detail in details:
            change(detail)
        scores.append(replace(one, details=json.dumps(details)))
    return replace(label, scores=tuple(scores))


@pytest.mark.parametrize("index", range(5))
def test_scores_follow_from_what_they_were_judged_on(
    atlas: Atlas, labels: dict[int, Label], index: int
):
    rows = planted.rows()
    for one in looked_up(atlas, labels[index]):
        assert one.n == len(one.judgements) > 6 and one.n_lost == 0
        for window in one.judgements:
            row, places = rows[window.context], range(window.start, window.start + 24)
            assert window.tokens == tuple(row.tokens[place] for place in places)
            values = [planted.value(index, row, place) for place in places]
            assert window.values == pytest.approx(values, rel=1e-6)
        if one.scorer == "simulation":
            told = [value for window in one.judgements for value in window.foretold or ()]
            true = [value for window in one.judgements for value in window.values]
            assert one.value == pytest.approx(correlation(told, true) or 0, abs=1e-3)
        else:
            pairs = [(w.true, w.told) for w in one.judgements if w.told is not None]
            assert one.value == balanced_accuracy(pairs)
            wrong = [w.true is not w.told for w in one.judgements]
            assert wrong == sorted(wrong, reverse=True), "wrong answers first"


def test_what_was_marked_is_kept(atlas: Atlas, labels: dict[int, Label]):
    fuzzing = looked_up(atlas, labels[0])[1]
    for window in fuzzing.judgements:
        firing = {place for place, value in enumerate(window.values) if value}
        assert (set(window.marked) == firing) is window.true
        assert len(window.marked) == len(firing)


def test_older_notes_have_windows_of_the_usual_length(atlas: Atlas, labels: dict[int, Label]):
    def forget(detail: dict[str, Any]) -> None:
        detail.pop("tokens")
        detail.pop("marked", None)

    new, old = (looked_up(atlas, one) for one in (labels[1], noted_otherwise(labels[1], forget)))
    assert (old[0], old[2]) == (new[0], new[2])
    assert old[1].judgements == tuple(replace(w, marked=()) for w in new[1].judgements)


@pytest.mark.parametrize("change", [{"context": 10**6}, {"start": 47}])
def test_windows_of_another_atlas_are_not_shown(
    atlas: Atlas, labels: dict[int, Label], change: dict[str, int]
):
    scores = looked_up(atlas, noted_otherwise(labels[0], lambda detail: detail.update(change)))
    assert all(one.judgements == () and one.n_lost == one.n for one in scores)


@pytest.mark.parametrize("details", ["{", "[1]", '[{"start": 1}]', '[{"context": "x"}]', "3"])
def test_answers_that_cannot_be_read_are_named(
    atlas: Atlas, labels: dict[int, Label], details: str
):
    broken = replace(labels[0].scores[0], details=details)
    with pytest.raises(Corrupt, match="the score by detection"):
        looked_up(atlas, replace(labels[0], scores=(broken,)))


def test_no_more_answers_are_kept_than_there_is_room_for(
    atlas: Atlas, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(score, "KEPT", 5)
    label = explained(atlas, CONFIG.model_copy(update={"seed": 1}))[0]
    assert [len(json.loads(one.details)) for one in label.scores] == [5, 5, 5]
    assert all(one.n > 5 for one in label.scores)
