"""Labels that people wrote: read to the letter or by a language model, scored, kept."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.stages import planted
from tests.stages.loopback import Reply, serving
from tests.stages.test_explain_endpoint import config as asking

from panscope.atlas.features import Atlas
from panscope.atlas.labels import Label, Score
from panscope.atlas.notes import Notes
from panscope.cli import main
from panscope.events import Event, Warned, silent
from panscope.stages.explain import Config, rescore
from panscope.stages.explain import run as explain_run
from panscope.stages.explain.letter import Letter
from panscope.stages.explain.windows import Window

SAE = planted.SAES[0]
RULES = Config(saes=(SAE,), windows=6)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return planted.build(tmp_path_factory.mktemp("runs") / "planted")


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes.open(tmp_path / "notes.sqlite")


def window(*pieces: str) -> Window:
    zeros = (0.0,) * len(pieces)
    return Window(0, 1, "prose", pieces, zeros, tuple(range(len(pieces))), frozenset([0]))


def scored(notes: Notes, index: int) -> dict[str, Score]:
    (label,) = (one for one in notes.labels(SAE, index) if one.method == "human")
    return {score.scorer: score for score in label.scores}


@pytest.mark.parametrize(
    ("text", "pieces", "told"),
    [
        ("names of months", (" Names", " of", " the", " month"), [1, 1, 0, 0]),
        ("the token “May”", (" the", " M", "ay", " Mayor"), [0, 1, 1, 0]),
        ('"." and “of the”', ("of", " the", " hill", "."), [1, 1, 0, 1]),
        ("“…ay”", (" M", "ay", " ay", "s"), [0, 1, 0, 0]),
        ("!?", ("!", "?"), [0, 0]),
    ],
)
def test_a_label_is_taken_to_the_letter(text: str, pieces: tuple[str, ...], told: list[int]):
    own = Letter(text)
    assert own.strengths([window(*pieces)]) == [told]
    assert own.fires_in([window(*pieces)]) == [any(told)]
    sides = [[i for i, value in enumerate(told) if value == side] for side in (1, 0)]
    assert own.fires_at([window(*pieces)] * 2, sides) == [any(told), False]


def test_a_right_label_scores_high_and_a_wrong_one_like_others(atlas: Atlas, notes: Notes):
    notes.add(Label(SAE, 0, "the word “may”", "Ada"))
    notes.add(Label(SAE, 1, "“lamp”", "Ada"))
    notes.add(Label(SAE, 2, "the", "rules", "rules"))
    assert rescore(RULES, atlas, notes, Path(), silent) == {"scored": 2}
    right, wrong = scored(notes, 0), scored(notes, 1)
    assert right.keys() == {"detection", "fuzzing", "simulation"}
    assert right["simulation"].value > 0.9 > 0.3 > wrong["simulation"].value
    assert right["simulation"].value > right["simulation"].baseline
    assert {score.author for score in right.values()} == {"panscope"}
    assert not notes.labels(SAE, 2)[0].scores  # a machine's is left alone


def test_a_language_model_reads_what_a_person_wrote(atlas: Atlas, notes: Notes, tmp_path: Path):
    """Every fourth answer is useless: counted, and neither right nor wrong."""

    def misbehave(number: int, request: dict[str, object]) -> Reply | None:
        return None if number % 4 else Reply(body=b'{"choices": [{"message": {"content": "?"}}]}')

    notes.add(Label(SAE, 0, "it may", "Ada"))
    with serving(misbehave) as model:
        config = asking(model).model_copy(update={"features": (0,)})
        rescore(config, atlas, notes, tmp_path / "answers", silent)
        asked = len(model.requests)
        rescore(config, atlas, notes, tmp_path / "answers", silent)
        assert len(model.requests) == asked  # answers are kept
    scores = scored(notes, 0)
    assert {score.author for score in scores.values()} == {"tiny-judge"}
    assert scores["simulation"].value == pytest.approx(1, abs=0.05)
    assert sum(score.n_failed for score in scores.values()) > 0


def test_a_machine_s_labels_are_read_by_another_judge(atlas: Atlas, notes: Notes, tmp_path: Path):
    explain_run(RULES, atlas, notes, tmp_path, silent)
    before = notes.current(SAE, "rules")[0]
    notes.add(Label(SAE, 0, "never mind", "Ada"))
    with serving() as model:
        config = asking(model).model_copy(update={"features": (0,)})
        done = rescore(config, atlas, notes, tmp_path / "answers", silent, method="rules")
    assert done == {"scored": 1}
    after = notes.current(SAE, "rules")[0]
    assert after.scores[:3] == before.scores and after.text == before.text
    assert [score.author for score in after.scores] == ["panscope"] * 3 + ["tiny-judge"] * 3
    assert not notes.label_of(SAE, 0).scores  # the person's


def test_what_cannot_be_scored_is_told(atlas: Atlas, notes: Notes):
    notes.add(Label(SAE, 5, "never", "Ada"))
    events: list[Event] = []
    of_it = RULES.model_copy(update={"features": (5,)})
    assert rescore(of_it, atlas, notes, Path(), events.append) == {"without windows": 1}
    said = [event.text for event in events if isinstance(event, Warned)]
    assert said == ["not scored, for want of examples in different documents: 1 of the labels"]


def test_the_command_scores_labels_of_people(atlas: Atlas, tmp_path: Path):
    (tmp_path / "atlas").symlink_to(atlas.folder)
    notes = Notes.open(tmp_path / "notes.sqlite")
    notes.add(Label(SAE, 0, "may", "Ada"))
    command = ["explain", "demo", "--output", str(tmp_path), "--rescore"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert scored(notes, 0)["detection"].n > 4
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["Started", "Advanced", "Finished"]
    wrong = CliRunner().invoke(main, [*command, "--features", "77"])
    assert wrong.exit_code == 3
