import json
import shutil
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panscope.atlas import database
from panscope.atlas.labels import HUMAN, LABEL_CHARACTERS, Average, Label, Score
from panscope.atlas.notes import Notes
from panscope.atlas.tables import MIGRATIONS
from panscope.atlas.words import words_of
from panscope.errors import ConfigError, Corrupt, NotFound, PanscopeError, Unsupported

SAE = "resid_post.1/w64_l0_20"

SCORED = st.lists(
    st.builds(
        Score,
        st.sampled_from(["detection", "fuzzing"]),
        st.sampled_from([None, 0.0, 0.25, 0.5, 1.0]),
        st.none(),
        st.just(9),
        author=st.sampled_from(["", "judge"]),
    ),
    max_size=3,
)


def label(text: str = "months of the year", index: int = 3, method: str = "rules") -> Label:
    return Label(SAE, index, text, "panscope", method)


def found(notes: Notes, *asked: Any) -> list[int]:
    return sorted(notes.scored(*asked).tolist())


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes.open(tmp_path / "notes.sqlite")


def test_a_label_comes_back_as_it_was_written(notes: Notes):
    scores = (Score("detection", 0.91, 0.52, 40, 2, "rules", '[{"context": 3}]'),)
    made_from = '{"shown": [1, 2]}'
    written = notes.add(replace(label(" months "), scores=scores, made_from=made_from))
    assert written.text == "months"
    assert written.id and written.created.endswith("Z")
    assert notes.labels(SAE, 3) == (written,)
    assert notes.shown(SAE)[3].scores == (replace(scores[0], details="[]"),)
    assert Notes.open(notes.path).labels(SAE, 3) == (written,)


def test_nothing_is_written_over(notes: Notes):
    texts = ["months", "names of months", "dates"]
    for text in texts:
        notes.add(label(text))
    assert [one.text for one in notes.labels(SAE, 3)] == texts[::-1]
    assert notes.labels(SAE, 4) == notes.labels("mlp_out.1/x", 3) == ()


def test_what_a_person_wrote_is_shown_before_what_a_machine_did(notes: Notes):
    assert notes.label_of(SAE, 3) is None
    first = notes.add(label("months"))
    assert notes.label_of(SAE, 3) == first
    human = notes.add(replace(label("spring months"), method="human", author="Ada"))
    notes.add(label("dates"))
    assert notes.label_of(SAE, 3) == human
    assert notes.shown(SAE) == {3: human}
    assert notes.methods(SAE) == {3: {"rules", "human"}}


def test_a_newer_score_of_a_scorer_replaces_the_one_that_is_read(notes: Notes):
    written = notes.add(replace(label(), scores=(Score("detection", 0.5, 0.5, 10),)))
    notes.add_scores(written, [Score("detection", 0.8, 0.5, 20), Score("fuzzing", 0.7, 0.5, 20)])
    (read,) = notes.labels(SAE, 3)
    assert [(s.scorer, s.value) for s in read.scores] == [("detection", 0.8), ("fuzzing", 0.7)]
    with pytest.raises(NotFound, match="label 99"):
        notes.add_scores(replace(written, id=99), [Score("detection", 0.8, 0.5, 20)])


def test_texts_and_scores_are_those_of_the_labels_that_are_shown(notes: Notes):
    notes.add(replace(label("months"), scores=(Score("detection", 0.9, 0.5, 10),)))
    human = notes.add(replace(label("spring months"), method="human"))
    notes.add(replace(label("dates", index=4), scores=(Score("detection", 0.7, 0.5, 10),)))
    notes.add(replace(label("other"), sae="mlp_out.1/x", scores=(Score("fuzzing", 1.0, 0.5, 9),)))
    assert notes.texts(SAE, [5, 3]) == {3: "spring months"}
    assert notes.texts(SAE, range(9)) == {3: "spring months", 4: "dates"}
    assert notes.texts(SAE, []) == notes.texts("no such Sae", [3]) == {}
    assert (found(notes, SAE, 0.7, 1.0), found(notes, SAE, 0.8, 1.0)) == ([4], [])
    notes.add_scores(human, [Score("detection", 0.95, 0.5, 10), Score("detection", 0.6, 0.5, 20)])
    assert (found(notes, SAE, 0.5, 1.0), found(notes, SAE, 0.61, 1.0)) == ([3, 4], [4])
    notes.add_scores(human, [Score("fuzzing", 0.8, 0.5, 10), Score("detection", None, 0.5, 0, 9)])
    assert found(notes, SAE, 0.8, 1.0) == [3]


def test_averages_are_those_of_current_labels_and_scores(notes: Notes):
    notes.add(replace(label(), scores=(Score("detection", 0.1, 0.1, 9),)))
    newer = notes.add(replace(label(), scores=(Score("detection", 0.2, 0.2, 9),)))
    notes.add_scores(newer, [Score("detection", 0.6, 0.4, 9), Score("fuzzing", None, 0.5, 0, 9)])
    notes.add(replace(label(index=4), scores=(Score("detection", 0.8, None, 9),)))
    notes.add(replace(label(method="model"), scores=(Score("detection", 0.9, 0.5, 9),)))
    assert notes.averages(SAE) == [
        Average("model", "detection", 1, 0.9, 0.5),
        Average("rules", "detection", 2, 0.7, 0.4),
        Average("rules", "fuzzing", 1, None, 0.5),
    ]


def test_features_are_found_by_the_score_of_the_label_that_is_shown(notes: Notes):
    low, high = Score("detection", 0.2, 0.5, 9), Score("detection", 0.9, 0.5, 9)
    fuzzing = Score("fuzzing", 0.4, 0.5, 9)
    notes.add(replace(label(index=1), scores=(low, fuzzing)))
    rescored = notes.add(replace(label(index=2), scores=(low, fuzzing)))
    notes.add_scores(rescored, [high])
    notes.add(replace(label(index=3), scores=(high,)))
    notes.add(replace(label(index=3, method=HUMAN), scores=(low,)))
    notes.add(replace(label(index=3), scores=(high,)))  # newer, but a person's is shown
    notes.add(replace(label(index=4), scores=(Score("detection", None, None, 0, 9),)))
    notes.add(label(index=5))
    assert found(notes, SAE, -1, 1) == [1, 2, 3]
    assert found(notes, SAE, 0.4, 0.5) == [1]  # its best
    assert found(notes, SAE, 0.9, 1, "detection") == [2]
    assert found(notes, SAE, 0.2, 0.2, "detection") == [1, 3]
    assert found(notes, SAE, -1, 1, "simulation") == found(notes, "another", -1, 1) == []


def test_notes_of_an_earlier_version_are_searched_by_score_and_brought_up(notes: Notes):
    wanted = []
    for index in range(9):
        scores = (Score("detection", index / 10, 0.5, 9), Score("fuzzing", 0.35, 0.5, 9))
        wanted.append(max(0.35, index / 10))
        notes.add(replace(label(index=index), scores=scores))
    notes.close()
    with closing(sqlite3.connect(notes.path)) as connection:
        later = (
            "DROP TABLE standing; DROP VIEW standing_now; DROP TABLE listed; DROP TABLE comments"
        )
        connection.executescript(later)
        connection.execute("PRAGMA user_version = 2")
    for opening in (Notes.reading, Notes.open, Notes.reading):
        with closing(opening(notes.path)) as again:
            assert found(again, SAE, 0.5, 1, "detection") == [5, 6, 7, 8]
            for least in (0.0, 0.35, 0.4, 0.8, 0.9):
                best = [index for index, value in enumerate(wanted) if value >= least]
                assert found(again, SAE, least, 1) == best


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), SCORED, SCORED), max_size=8))
def test_how_labels_stand_is_what_their_scores_say(
    notes: Notes, written: list[tuple[int, bool, list[Score], list[Score]]]
):
    sae = f"mlp_out.0/{token_hex(8)}"  # the file is the same each time
    for index, is_human, scores, more in written:
        method = HUMAN if is_human else "rules"
        new = label(index=index, method=method)
        notes.add(replace(new, sae=sae, scores=tuple(scores)))
        notes.add_scores(notes.labels(sae, index)[-1], more)  # of its oldest
    for scorer in ("", "detection", "fuzzing"):
        best = {}
        for index, one in notes.shown(sae).items():
            asked = [s.value for s in one.scores if scorer in ("", s.scorer)]
            best[index] = max((value for value in asked if value is not None), default=-9)
        for least, most in ((-1, 1), (0.5, 1), (0.25, 0.75)):
            wanted = [index for index, value in sorted(best.items()) if least <= value <= most]
            assert found(notes, sae, least, most, scorer) == wanted


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("rivers", [1]),
        ("river", [1]),
        ("dark riv", [1]),
        ('"dark river"', [1]),
        ('"river dark"', []),
        ("blue", [2, 1]),
        ("Étés", [4]),
        ("ete", [4]),
        ("mont", [3]),
        ("months AND", []),
        ("text:blue", []),
        ("", []),
        ('"', []),
        ("*", []),
        ("NEAR(blue river)", []),
        ("'; DROP TABLE labels; --", []),
    ],
)
def test_labels_are_found_by_their_words(notes: Notes, typed: str, found: list[int]):
    texts = ["dark rivers, blue mud and many other things", "blue", "months", "été, the summer"]
    for index, text in enumerate(texts, start=1):
        notes.add(label(text, index))
    assert [hit.label.index for hit in notes.search(typed)] == found


def test_replaced_labels_are_not_found_and_saes_can_be_told_apart(notes: Notes):
    notes.add(label("rivers"))
    notes.add(label("lakes"))
    notes.add(replace(label("rivers"), sae="mlp_out.0/w64"))
    assert [hit.label.sae for hit in notes.search("rivers")] == ["mlp_out.0/w64"]
    assert notes.search("rivers", sae=SAE) == []
    assert len(notes.search("lakes", sae=SAE)) == 1


def test_a_search_comes_in_windows(notes: Notes):
    for index in range(7):
        notes.add(label("rain", index))
    pages = [[hit.label.index for hit in notes.search("rain", 3, start)] for start in (0, 3, 6, 9)]
    assert pages == [[0, 1, 2], [3, 4, 5], [6], []]
    assert notes.search("rain", -1) == notes.search("rain", 0) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.text(st.characters(categories=None), max_size=30))
def test_no_text_is_syntax(notes: Notes, typed: str):
    notes.search(typed)
    notes.labels(typed, 0)
    assert notes.search('nothing"' + typed) == []


@pytest.mark.parametrize("text", ["", "  ", "a\0b", "\ud800", "x" * (LABEL_CHARACTERS + 1)])
def test_what_is_no_label_is_refused(notes: Notes, text: str):
    with pytest.raises(ConfigError, match="a label's text"):
        notes.add(label(text))


@pytest.mark.parametrize("index", [-1, 2**63])
def test_what_is_no_index_is_refused(notes: Notes, index: int):
    for use in (lambda: notes.labels(SAE, index), lambda: notes.add(label(index=index))):
        with pytest.raises(ConfigError, match="no feature's index"):
            use()


def test_bookmarks_are_kept_once(notes: Notes):
    for index in (3, 5, 3):
        notes.saved.bookmark(SAE, index)
    assert [mark.index for mark in notes.saved.bookmarks()] == [5, 3]
    notes.add(Label(SAE, 5, "months", "Ada"))
    assert [mark.label for mark in notes.saved.bookmarks()] == ["months", ""]
    assert notes.saved.is_bookmarked(SAE, 3) and not notes.saved.is_bookmarked(SAE, 4)
    notes.saved.forget(SAE, 3)
    notes.saved.forget(SAE, 4)
    assert [mark.index for mark in notes.saved.bookmarks()] == [5]


def test_bookmarks_are_listed_by_sae_and_in_windows(notes: Notes):
    assert notes.saved.counts() == {} and notes.saved.bookmarks(SAE) == []
    for index in range(5):
        notes.saved.bookmark(SAE, index)
    notes.saved.bookmark("mlp_out.0/x", 7)
    notes.add(label("dates", 3, HUMAN))
    notes.add(label("months", 3))
    assert notes.saved.counts() == {SAE: 5, "mlp_out.0/x": 1}
    windows = [notes.saved.bookmarks(SAE, 2, start) for start in (0, 2, 4, 6)]
    assert [[one.index for one in window] for window in windows] == [[4, 3], [2, 1], [0], []]
    assert windows[0][1].label == "dates", "a person's"
    assert [one.index for one in notes.saved.bookmarks("mlp_out.0/x")] == [7]


def test_edits_are_kept_under_a_name(notes: Notes):
    edits = [json.dumps([{"action": "add", "value": value}]) for value in (3.0, 4.0)]
    first, second = (notes.saved.save(" more rain", one) for one in edits)
    other = notes.saved.save("less", "[]")
    assert first.key != second.key
    assert notes.saved.edits("more rain") == second, "the last that was saved"
    assert notes.saved.all_edits() == [other, second]
    assert notes.saved.exported()["edits"][1]["edits"] == [{"action": "add", "value": 4.0}]
    for use in (notes.saved.edits, notes.saved.remove):
        with pytest.raises(NotFound, match="saved edits: no 'mor rain'; did you mean more rain"):
            use("mor rain")
    with pytest.raises(ConfigError, match="not JSON"):
        notes.saved.save("x", "[")
    with pytest.raises(ConfigError, match="characters"):
        notes.saved.save("x", " " * 70_000 + "[]")


def test_removed_edits_leave_nothing_behind_their_name(notes: Notes):
    for name in ("rain", "snow", "rain"):
        notes.saved.save(name, "[]")
    assert notes.saved.n_names() == 2
    assert [one.name for one in notes.saved.all_edits(1, 1)] == ["snow"]
    notes.saved.remove("rain")
    assert [one.name for one in notes.saved.all_edits()] == ["snow"]
    with pytest.raises(NotFound, match="no 'rain'"):
        notes.saved.edits("rain")


def test_reading_makes_nothing_and_sees_what_others_write(tmp_path: Path):
    path = tmp_path / "notes.sqlite"
    reader = Notes.reading(path)
    assert reader.labels(SAE, 3) == () and reader.search("rain") == []
    assert reader.saved.exported() == {"bookmarks": [], "edits": []}
    assert reader.saved.n_names() == 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PanscopeError, match="open for reading"):
        reader.add(label())
    writer = Notes.open(path)
    written = writer.add(label())
    assert reader.labels(SAE, 3) == (written,)
    with pytest.raises(PanscopeError, match="readonly"):
        reader.add(label())
    writer.close()
    reader.close()
    assert Notes.reading(path).labels(SAE, 3) == (written,)
    assert Notes.reading(path).search("months")[0].label == written


def _add_twenty(path: Path, first: int) -> None:
    notes = Notes.open(path)
    for index in range(first, first + 20):
        notes.add(label("rain", index))


def test_threads_and_processes_write_at_once(notes: Notes):
    threads = [threading.Thread(target=_add_twenty, args=(notes.path, 20 * n)) for n in range(3)]
    process = get_context("fork").Process(target=_add_twenty, args=(notes.path, 60))
    shared = threading.Thread(target=lambda: [notes.add(label("rain", 80)) for _ in range(20)])
    process.start()
    for thread in (*threads, shared):
        thread.start()
    for worker in (*threads, shared, process):
        worker.join()
    assert len(notes.search("rain", 200)) == 81
    assert len(notes.labels(SAE, 80)) == 20


def test_a_label_is_written_with_all_its_scores_or_not(notes: Notes):
    broken = Score("detection", 0.9, 0.5, 2**70)
    with pytest.raises(OverflowError):
        notes.add(replace(label(), scores=(Score("fuzzing", 0.9, 0.5, 3), broken)))
    assert notes.labels(SAE, 3) == () and notes.search("months") == []
    notes.add(label())


def test_files_that_are_not_notes_are_named(tmp_path: Path):
    torn = tmp_path / "torn.sqlite"
    torn.write_bytes(b"no database, but long enough to have a header " * 30)
    with pytest.raises(Corrupt, match=r"torn\.sqlite: is damaged"):
        Notes.open(torn)
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(Unsupported, match="another program's"):
        Notes.open(tmp_path / "other.sqlite")
    with pytest.raises(NotFound, match="no such folder"):
        Notes.open(torn / "below" / "a" / "file")
    with pytest.raises(PanscopeError, match="could not be used"):
        Notes.open(tmp_path)


def test_notes_of_a_later_format_are_refused(notes: Notes):
    notes.close()
    connection = sqlite3.connect(notes.path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    for opening in (Notes.open, lambda path: Notes.reading(path).labels(SAE, 3)):
        with pytest.raises(Unsupported, match="upgrade panscope"):
            opening(notes.path)


def test_a_damaged_page_is_named(notes: Notes):
    for index in range(300):
        notes.add(label("rain " * 20, index))
    notes.close()
    data = bytearray(notes.path.read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 100] = b"\xff" * 100
    notes.path.write_bytes(data)
    with pytest.raises(Corrupt, match="is damaged"):
        Notes.open(notes.path).labels(SAE, 3)


@pytest.mark.parametrize(
    ("old", "new"), [(b"AUTOINC", b"AUT\xcfINC"), (b"rainfall", b"r\xffinfall")]
)
def test_damage_that_is_no_text_is_named(notes: Notes, old: bytes, new: bytes):
    """In the tables' definitions SQLite's complaint repeats it, in a label it is what is read."""
    notes.add(label("rainfall"))
    notes.close()
    notes.path.write_bytes(notes.path.read_bytes().replace(old, new))
    with closing(Notes.reading(notes.path)) as reader, pytest.raises(Corrupt, match="is damaged"):
        reader.labels(SAE, 3)


@pytest.mark.parametrize("nth", [2, 3])
def test_a_file_that_is_being_made_is_not_another_programs(tmp_path: Path, nth: int):
    """Who asks for more than one thing would see one from before and one from after."""
    path, asked = tmp_path / "notes.sqlite", []

    class Connection(sqlite3.Connection):
        def execute(self, *question):
            asked.append(question)
            if len(asked) == nth:
                Notes.open(path).close()
            return super().execute(*question)

    path.touch()
    with closing(sqlite3.connect(path, factory=Connection)) as connection:
        assert database._version(path, connection) == 0
        while len(asked) < nth:
            version = database._version(path, connection)
    assert version == len(MIGRATIONS)


def test_what_a_killed_writer_left_half_done_is_read_as_it_was_before(notes: Notes, tmp_path: Path):
    """Its journal must be played back, which SQLite lets no reader do."""
    notes.add(label("before"))
    notes.close()
    left = tmp_path / "left.sqlite"
    with closing(sqlite3.connect(notes.path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = DELETE")
        writer.execute("PRAGMA cache_size = 1")  # so that it reaches the file before its end
        writer.execute("BEGIN")
        writer.execute("UPDATE labels SET text = 'half'")
        for _ in range(12):
            writer.execute("INSERT INTO edits VALUES (hex(randomblob(9)), 'a', zeroblob(9999), '')")
        for end in ("", "-journal"):
            shutil.copy(f"{notes.path}{end}", f"{left}{end}")
    with closing(Notes.reading(left)) as reader:
        assert [one.text for one in reader.labels(SAE, 3)] == ["before"]
        assert reader.saved.n_names() == 0


def test_words_keep_their_order_and_quotes():
    assert words_of('a "b cd') == '"a" "b" "cd" *'
    assert words_of('"a b"') == '"a b"'
