"""Lists and comments in the notes; files of earlier versions, read and brought up."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from panscope.atlas import export
from panscope.atlas.comments import COMMENT_CHARACTERS
from panscope.atlas.labels import AUTHOR_CHARACTERS, HUMAN, Label
from panscope.atlas.lists import NAME_CHARACTERS, REMARK_CHARACTERS, FeatureList
from panscope.atlas.notes import Notes
from panscope.atlas.tables import MIGRATIONS
from panscope.errors import ConfigError, NotFound, PanscopeError

SAE, OTHER = "resid_post.1/w64_l0_20", "mlp_out.0/x"
NO_TEXT = ("a\0b", "\ud800")


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes.open(tmp_path / "notes.sqlite")


def test_a_feature_is_in_a_list_once_with_its_last_remark(notes: Notes):
    notes.lists.put("months", SAE, 3, "clear")
    first = notes.lists.of(SAE, 3)
    notes.lists.put("dates", SAE, 3)
    notes.lists.put(" months\n", SAE, 3, " not May ")
    assert [(one.list, one.remark) for one in notes.lists.of(SAE, 3)] == [
        ("dates", ""),
        ("months", "not May"),
    ]
    assert notes.lists.of(SAE, 3)[1].created == first[0].created
    assert notes.lists.of(SAE, 3, 1)[0].list == "dates"
    assert notes.lists.of(SAE, 4) == notes.lists.of(OTHER, 3) == []


def test_a_list_is_there_as_long_as_a_feature_is_in_it(notes: Notes):
    for index in range(3):
        notes.lists.put("months", SAE, index)
    notes.lists.put("Months", OTHER, 7)
    assert notes.lists.names() == [FeatureList("Months", 1), FeatureList("months", 3)]
    assert (notes.lists.n_names(), notes.lists.names(1, 1)) == (2, [FeatureList("months", 3)])
    for index in (0, 0, 9):
        notes.lists.take("months", SAE, index)
    assert notes.lists.count("months") == 2
    notes.lists.take("Months", OTHER, 7)
    with pytest.raises(NotFound, match="lists: no 'Months'; did you mean months"):
        notes.lists.count("Months")
    notes.lists.remove("months")
    assert notes.lists.names() == [] and notes.lists.n_names() == 0
    with pytest.raises(NotFound, match="no 'months'"):
        notes.lists.remove("months")


def test_the_features_of_a_list_come_in_windows_with_their_labels(notes: Notes):
    for index in range(5):
        notes.lists.put("months", SAE, index)
    notes.lists.put("other", SAE, 3)
    notes.add(Label(SAE, 3, "dates", "Ada", HUMAN))
    notes.add(Label(SAE, 3, "months", "panscope", "rules"))
    windows = [notes.lists.features("months", 2, start) for start in (0, 2, 4, 6)]
    assert [[one.index for one in window] for window in windows] == [[4, 3], [2, 1], [0], []]
    assert [one.label for one in windows[0]] == ["", "dates"], "a person's"
    assert notes.lists.features("months", 10**30, -5) == notes.lists.features("months")


@pytest.mark.parametrize(
    "name", ["", " \n", "\u200b\u202e", "\u00ad", "\x1b", "x" * (NAME_CHARACTERS + 1), *NO_TEXT]
)
def test_what_is_no_name_of_a_list_is_refused(notes: Notes, name: str):
    with pytest.raises(ConfigError, match="the name of a list"):
        notes.lists.put(name, SAE, 3)
    with pytest.raises(ConfigError, match="the name of a list"):
        notes.lists.take(name, SAE, 3)


@pytest.mark.parametrize(
    "name", ["../..", "a/b", ".", "x" * NAME_CHARACTERS, "été 🌧", "'; --", "%"]
)
def test_any_text_is_a_name(notes: Notes, name: str):
    notes.lists.put(name, SAE, 3)
    assert notes.lists.names() == [FeatureList(name, 1)]
    assert notes.lists.features(name)[0].index == 3


@pytest.mark.parametrize("text", ["x" * (REMARK_CHARACTERS + 1), *NO_TEXT])
def test_what_is_no_remark_is_refused(notes: Notes, text: str):
    with pytest.raises(ConfigError, match="a remark"):
        notes.lists.put("months", SAE, 3, text)


def test_comments_come_newest_first_and_are_removed_by_id(notes: Notes):
    first = notes.comments.add(SAE, 3, " fires on May?\nyes ", "Ada ")
    second = notes.comments.add(SAE, 3, "it does", "Ben")
    other = notes.comments.add(OTHER, 4, "unclear", "Ada")
    assert (first.text, first.author) == ("fires on May?\nyes", "Ada")
    assert notes.comments.of(SAE, 3) == [second, first]
    assert notes.comments.of(SAE, 3, 1, 1) == [first]
    assert notes.comments.recent() == [other, second, first]
    assert notes.comments.recent(OTHER) == [other]
    assert notes.comments.counts() == {SAE: 2, OTHER: 1}
    notes.comments.remove(other.id)
    for number in (other.id, 0, -1, 2**63):
        with pytest.raises(NotFound, match="is not in these notes"):
            notes.comments.remove(number)
    assert notes.comments.add(OTHER, 4, "clear", "Ada").id > other.id, "no id means two comments"
    assert notes.comments.of(SAE, 3) == [second, first]


@pytest.mark.parametrize("text", ["", " ", "x" * (COMMENT_CHARACTERS + 1), *NO_TEXT])
def test_what_is_no_comment_is_refused(notes: Notes, text: str):
    with pytest.raises(ConfigError, match="a comment:"):
        notes.comments.add(SAE, 3, text, "Ada")
    author = text and "x" * (AUTHOR_CHARACTERS + 1)
    with pytest.raises(ConfigError, match="a comment's author"):
        notes.comments.add(SAE, 3, "clear", author)
    assert notes.comments.recent() == []


@pytest.mark.parametrize("index", [-1, 2**63])
def test_what_is_no_index_is_refused(notes: Notes, index: int):
    for use in (
        lambda: notes.lists.put("months", SAE, index),
        lambda: notes.lists.of(SAE, index),
        lambda: notes.comments.add(SAE, index, "clear", "Ada"),
    ):
        with pytest.raises(ConfigError, match="no feature's index"):
            use()


def test_an_export_holds_all_that_was_kept_of_a_sae_or_of_all(notes: Notes):
    notes.saved.bookmark(SAE, 3)
    notes.saved.save("rain", "[]")
    notes.lists.put("months", SAE, 3, "clear")
    notes.lists.put("both", SAE, 3)
    notes.lists.put("both", OTHER, 4)
    notes.comments.add(OTHER, 4, "unclear", "Ada")
    whole, part = export.exported(notes), export.exported(notes, SAE)
    assert [(one["name"], len(one["features"])) for one in whole["lists"]] == [
        ("both", 2),
        ("months", 1),
    ]
    assert [len(one["features"]) for one in part["lists"]] == [1, 1]
    assert (
        part["lists"][1]["features"][0].items()
        >= {"sae": SAE, "index": 3, "remark": "clear"}.items()
    )
    assert [one["index"] for one in whole["lists"][0]["features"]] == [4, 3]
    assert export.exported(notes, "none")["lists"] == []
    assert (len(whole["comments"]), part["comments"]) == (1, [])
    assert len(part["bookmarks"]) == len(part["edits"]) == 1


def test_notes_know_saes_that_the_atlas_has_no_more(notes: Notes):
    notes.saved.bookmark("gone/a", 7)
    notes.lists.put("months", "gone/bb", 7)
    notes.comments.add("gone/ccc", 7, "unclear", "Ada")
    for sae in ("", SAE, "gone/a", "gone/bb", "gone/ccc"):
        export.refuse_unknown(notes, sae, [SAE])
    with pytest.raises(NotFound, match="notes: no Sae 'gone/cc'; did you mean gone/ccc"):
        export.refuse_unknown(notes, "gone/cc", [SAE])


def made_by(version: int, path: Path) -> None:
    """Write notes as the panscope of some format did, with a label and a bookmark."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("\n".join(MIGRATIONS[:version]))
        connection.executescript(
            "INSERT INTO labels (sae, latent, text, author, method, created, made_from) VALUES"
            f" ('{SAE}', 3, 'dates', 'Ada', 'human', '2026-01-01T00:00:00Z', '{{}}');"
            f"INSERT INTO bookmarks VALUES ('{SAE}', 3, '2026-01-01T00:00:00Z');"
            f"PRAGMA application_id = {0x70616E73}; PRAGMA user_version = {version};"
        )


def empty(notes: Notes) -> bool:
    """Whether there is neither a list nor a comment, however they are asked for."""
    with pytest.raises(NotFound):
        notes.lists.count("months")
    kept = (notes.lists.names(), notes.lists.features("months"), notes.lists.of(SAE, 3))
    said = (notes.comments.of(SAE, 3), notes.comments.recent(), notes.comments.counts())
    return not any((*kept, *said, notes.lists.saes(), notes.lists.n_names()))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_earlier_files_are_read_without_writing_and_brought_up(tmp_path: Path, version: int):
    path = tmp_path / "notes.sqlite"
    made_by(version, path)
    before = path.read_bytes()
    with closing(Notes.reading(path)) as reader:
        assert empty(reader)
        assert reader.saved.bookmarks()[0].label == "dates"
        for write in (
            lambda: reader.lists.put("months", SAE, 3),
            lambda: reader.comments.add(SAE, 3, "clear", "Ada"),
        ):
            with pytest.raises(PanscopeError):
                write()
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with closing(Notes.open(path)) as writer:
        assert empty(writer)
        writer.lists.put("months", SAE, 3)
        writer.comments.add(SAE, 3, "clear", "Ada")
        assert writer.saved.bookmarks()[0].label == "dates"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


@pytest.mark.parametrize("version", [1, 3])
def test_a_reader_sees_what_is_written_once_its_file_is_brought_up(tmp_path: Path, version: int):
    path = tmp_path / "notes.sqlite"
    made_by(version, path)
    with closing(Notes.reading(path)) as reader:
        assert empty(reader)
        with closing(Notes.open(path)) as writer:
            assert empty(reader)
            writer.lists.put("months", SAE, 3)
            assert [one.list for one in reader.lists.of(SAE, 3)] == ["months"]
            writer.comments.add(SAE, 3, "clear", "Ada")
        assert [one.text for one in reader.comments.of(SAE, 3)] == ["clear"]


def test_notes_that_are_not_there_are_empty(tmp_path: Path):
    with closing(Notes.reading(tmp_path / "notes.sqlite")) as reader:
        assert empty(reader)
        assert export.exported(reader) == {
            "bookmarks": [],
            "edits": [],
            "lists": [],
            "comments": [],
        }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        ("SELECT 1 FROM listed WHERE sae = ? AND latent = ? ORDER BY id DESC", "listed_by_feature"),
        ("SELECT 1 FROM comments WHERE sae = ? AND latent = ? ORDER BY id DESC", "comments_by_fe"),
        ("SELECT remark FROM listed WHERE list = ? ORDER BY id DESC LIMIT 9", "listed_by_list"),
    ],
)
def test_what_pages_ask_is_in_an_index(notes: Notes, sql: str, index: str):
    with closing(sqlite3.connect(notes.path)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", ("x",) * sql.count("?")).fetchall()
    said = " ".join(row[-1] for row in plan)
    assert index in said and "SCAN" not in said and "TEMP" not in said


def test_names_that_look_alike_in_two_spellings_are_one_list(notes: Notes):
    notes.lists.put("e\u0301te\u0301", SAE, 3)
    notes.lists.put("\u00e9t\u00e9", SAE, 4)
    assert notes.lists.names() == [FeatureList("\u00e9t\u00e9", 2)]
    assert notes.lists.count("e\u0301te\u0301") == 2
