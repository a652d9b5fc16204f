"""Windows, rules, scores and the run of them; what endpoints do is in test_explain_endpoint.py."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests.stages import planted

from panscope.atlas.features import Atlas
from panscope.atlas.notes import Notes
from panscope.atlas.records import Context, Example
from panscope.cli import main, verbs
from panscope.errors import ConfigError, Corrupt, NotFound
from panscope.events import Event, Warned, silent
from panscope.stages.explain import Config, rules, run
from panscope.stages.explain.score import scores
from panscope.stages.explain.windows import Row, Rows, Window, halves


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return planted.build(tmp_path_factory.mktemp("runs") / "planted")


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes.open(tmp_path / "notes.sqlite")


def text_of(contexts: list[Context]) -> Rows:
    by_number = {c.context: Row.of(c, planted.PIECES) for c in contexts}
    return by_number.__getitem__


DRAWN_ROW = st.tuples(
    st.lists(st.integers(0, 9), min_size=4, max_size=20),  # the documents of its tokens
    st.sets(st.integers(1, 3), min_size=1),  # where it fires
    st.integers(-1, 3),  # the band of its example
)


@given(st.lists(DRAWN_ROW, max_size=12), st.integers(2, 8), st.integers(1, 5), st.integers(0, 3))
def test_the_halves_share_no_row_and_no_document(
    drawn: list[tuple[list[int], set[int], int]], n_tokens: int, n_each: int, seed: int
):
    contexts, examples = [], []
    for number, (documents, fired, band) in enumerate(drawn):
        tokens = (0, *[1] * (len(documents) - 1))
        contexts.append(Context(number, tokens, tuple(documents), "prose"))
        values = tuple(float(p) for p in fired)
        examples.append(Example(band, number, max(fired), tuple(fired), values))
    feature = replace(planted.feature(5, []), examples=tuple(examples))
    cut = halves(feature, text_of(contexts), n_tokens, n_each, seed)
    shown, scored = ({w.context for w in half} for half in (cut.shown, cut.scored))
    assert shown.isdisjoint(scored)
    documents = [{d for n in half for d in contexts[n].documents} for half in (shown, scored)]
    assert documents[0].isdisjoint(documents[1])
    true = {e.context: dict(zip(e.positions, e.values, strict=True)) for e in examples}
    for window in (*cut.shown, *cut.scored):
        assert window.start >= 1, "a BOS is in no window"
        span = range(window.start, window.start + len(window.pieces))
        assert window.values == tuple(true[window.context].get(p, 0.0) for p in span)
    for half in (cut.shown, cut.scored):
        n_firing = sum(window.fires for window in half)
        assert n_firing <= n_each and len(half) <= 2 * n_firing
        assert half == tuple(sorted(half, key=lambda w: -max(w.values)))


def test_windows_come_out_alike_each_time(atlas: Atlas):
    text = text_of(planted.rows())
    feature = atlas.feature(planted.SAES[0], 0)
    assert halves(feature, text, 12, 8, 0) == halves(feature, text, 12, 8, 0)
    assert halves(feature, text, 12, 8, 0) != halves(feature, text, 12, 8, 1)


def test_tokens_are_counted_from_the_beginning_of_their_document():
    row = Row.of(Context(0, (0, 1, 1, 1, 1, 1), (4, 4, 4, 5, 5, 4), "prose"), planted.PIECES)
    assert row.since == (0, 0, 1, 0, 1, 0)


@pytest.mark.parametrize(
    ("index", "label"),
    [
        (0, "the token “may”"),
        (1, "the tokens “snow”, “river”|the tokens “river”, “snow”"),
        (2, "what comes after “the”"),
        (3, "what comes after “of”"),
    ],
)
def test_planted_rules_are_found_and_score_high(atlas: Atlas, notes: Notes, index: int, label: str):
    run(Config(saes=("resid*",)), atlas, notes, Path("unused"), silent)
    (found,) = notes.labels(planted.SAES[1], index)
    assert found.text in label.split("|")
    assert (found.method, found.author) == ("rules", "panscope")
    assert [score.scorer for score in found.scores] == ["detection", "fuzzing", "simulation"]
    for score in found.scores:
        assert score.value is not None and score.value > 0.9, score.scorer
        assert score.n_failed == 0 and score.n >= 8


def test_a_feature_without_a_rule_scores_like_chance(atlas: Atlas, notes: Notes):
    run(Config(saes=("resid*",)), atlas, notes, Path("unused"), silent)
    by_scorer = {s.scorer: s for s in notes.labels(planted.SAES[1], 4)[0].scores}
    assert by_scorer["simulation"].value == pytest.approx(0, abs=0.2)
    assert by_scorer["detection"].value == pytest.approx(0.5, abs=0.2)


def test_the_labels_of_other_features_score_like_chance(atlas: Atlas, notes: Notes):
    run(Config(), atlas, notes, Path("unused"), silent)
    found = [s for sae in planted.SAES for label in notes.shown(sae).values() for s in label.scores]
    for scorer, chance in {"detection": 0.5, "fuzzing": 0.5, "simulation": 0.0}.items():
        values = [s.baseline for s in found if s.scorer == scorer and s.baseline is not None]
        assert len(values) == 10
        assert sum(values) / 10 == pytest.approx(chance, abs=0.1)


def test_the_same_command_again_changes_nothing(atlas: Atlas, notes: Notes):
    first = run(Config(), atlas, notes, Path("unused"), silent)
    before = [notes.shown(sae) for sae in planted.SAES]
    second = run(Config(), atlas, notes, Path("unused"), silent)
    assert (first["labelled"], second["labelled"], second["known"]) == (10, 0, 10)
    assert [notes.shown(sae) for sae in planted.SAES] == before
    third = run(Config(window_tokens=12), atlas, notes, Path("unused"), silent)
    assert third["labelled"] == 10, "other windows make other labels"
    assert len(notes.labels(planted.SAES[0], 0)) == 2


def test_features_are_chosen_by_name_number_and_lot(atlas: Atlas, notes: Notes):
    run(Config(saes=("mlp*",), features=(0, 2)), atlas, notes, Path("unused"), silent)
    assert {sae: set(notes.shown(sae)) for sae in planted.SAES} == {
        planted.SAES[0]: {0, 2},
        planted.SAES[1]: set(),
    }
    run(Config(saes=("resid*",), at_most=3), atlas, notes, Path("unused"), silent)
    assert len(notes.shown(planted.SAES[1])) == 3
    with pytest.raises(NotFound, match=r"did you mean resid_post\.0/w6"):
        run(Config(saes=("resid_pst.0/w6",)), atlas, notes, Path("unused"), silent)
    with pytest.raises(NotFound, match="has no feature 6; give indices from 0 to 5"):
        run(Config(features=(6,)), atlas, notes, Path("unused"), silent)


def test_dead_features_are_told_and_one_alone_is_given_company(atlas: Atlas, notes: Notes):
    events: list[Event] = []
    config = Config(saes=("mlp*",), features=(0, 5))
    counts = run(config, atlas, notes, Path("unused"), events.append)
    assert (counts["labelled"], counts["without windows"]) == (1, 1)
    assert any(isinstance(e, Warned) and "documents: 1 of" in e.text for e in events)
    assert [s.baseline for s in notes.labels(planted.SAES[0], 0)[0].scores] == [None] * 3
    counts = run(Config(saes=("mlp*",), features=(2,)), atlas, notes, Path("unused"), silent)
    assert counts["labelled"] == 1 and set(notes.shown(planted.SAES[0])) == {0, 2}
    assert None not in [s.baseline for s in notes.labels(planted.SAES[0], 2)[0].scores]


def test_a_label_that_says_nothing_scores_nothing():
    never = rules.Rule("token", {}, math.inf)
    window = Window(0, 1, "prose", (" may", " on"), (1.0, 0.0), (0, 1), frozenset([0]))
    silent_one = replace(window, values=(0.0, 0.0), context=1)
    found = scores(["detection", "simulation"], never, None, [window, silent_one], 0, "x")
    assert [score.value for score in found] == [0.5, 0.0]


class Sulking:
    """Reads labels, but answers only of the first windows it is asked about."""

    text = "may"

    def fires_in(self, windows):
        return [True if w.fires else None for w in windows]

    def fires_at(self, windows, marked):
        return [None] * len(windows)

    def strengths(self, windows):
        return [None if i else w.values for i, w in enumerate(windows)]


def test_what_has_no_answer_is_neither_right_nor_wrong(atlas: Atlas):
    cut = halves(atlas.feature(planted.SAES[0], 0), text_of(planted.rows()), 12, 8, 0)
    names = ["detection", "fuzzing", "simulation"]
    detection, fuzzing, simulation = scores(names, Sulking(), None, cut.scored, 0, "x")
    n_firing = sum(window.fires for window in cut.scored)
    assert detection.value is None, "one side alone says nothing"
    assert (detection.n, detection.n_failed) == (n_firing, len(cut.scored) - n_firing)
    assert (fuzzing.value, fuzzing.n, fuzzing.n_failed) == (None, 0, n_firing)
    assert simulation.value == pytest.approx(1)
    assert (simulation.n, simulation.n_failed) == (1, len(cut.scored) - 1)


def test_a_damaged_atlas_is_named(atlas: Atlas, notes: Notes, tmp_path: Path):
    copy = tmp_path / "atlas"
    shutil.copytree(atlas.folder, copy)
    path = copy / "contexts.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=r"contexts\.parquet"):
        run(Config(), Atlas(copy), notes, Path("unused"), silent)


def test_the_recipe_is_strict():
    with pytest.raises(ConfigError, match="did you mean window_tokens"):
        Config.parse({"windows_tokens": 3}, "recipe")
    with pytest.raises(ConfigError, match="by is 'gpt'"):
        Config.parse({"by": "gpt"}, "recipe")


def test_the_command_labels_what_is_named(atlas: Atlas, tmp_path: Path):
    shutil.copytree(atlas.folder, tmp_path / "atlas")
    command = ["explain", "demo", "--output", str(tmp_path)]
    result = CliRunner().invoke(main, [*command, "--sae", "mlp*", "--features", "0, 2-3"])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-3].split() == ["Sae", "by", "labels", *Config().scorers]
    (row,) = (line for line in result.output.splitlines() if line.startswith("mlp_out.0/w6"))
    assert row.split()[1:3] == ["rules", "3"]
    notes = Notes.reading(tmp_path / "notes.sqlite")
    assert set(notes.shown(planted.SAES[0])) == {0, 2, 3}
    assert notes.search("token may")[0].label.index == 0
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["Started", "Advanced", "Finished"]
    assert json.loads((tmp_path / "recipe.json").read_text())["explain"]["features"] == [0, 2, 3]


@pytest.mark.parametrize(
    ("args", "exit_code", "message"),
    [
        (["--features", "3,x"], 2, "'x' is no index; write such as 3,7,100-199"),
        (["--features", "9-3"], 2, "'9-3' is no index"),
        (["--features", "77"], 3, "has no feature 77; give indices from 0 to 5"),
        (["--sae", "mlp_out.0/w7"], 3, "did you mean mlp_out.0/w6"),
        (["--sae", "mlp_oot.0/*"], 3, "did you mean mlp_out.0/w6"),
        (["explain.by=llm"], 2, "explain.by is 'llm'"),
        (["explain.by=endpoint"], 2, "no model at http://localhost:8000/v1 is named"),
        (["explain.endpoint.key=x"], 2, "unknown key explain.endpoint.key; known: base_url"),
    ],
)
def test_wrong_names_are_answered(
    atlas: Atlas, tmp_path: Path, args: list[str], exit_code: int, message: str
):
    shutil.copytree(atlas.folder, tmp_path / "atlas")
    result = CliRunner().invoke(main, ["explain", "demo", *args, "--output", str(tmp_path)])
    assert result.exit_code == exit_code
    assert message in result.stderr


def test_a_run_without_an_atlas_is_named_before_a_recipe_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(verbs, "crew_of", lambda *_: pytest.fail("a recipe is read"))
    result = CliRunner().invoke(main, ["explain", "demo", "--output", str(tmp_path)])
    assert result.exit_code == 3
    assert "atlas: no such folder; check the path; panscope describe makes one" in result.stderr
