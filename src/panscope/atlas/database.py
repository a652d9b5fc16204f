"""The SQLite file under the notes: its tables, versions and failures, and how it is searched."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from panscope.errors import Corrupt, PanscopeError, Unsupported

WAIT_SECONDS = 30.0  # for another writer
APPLICATION = 0x70616E73  # "pans": tells our files from other databases

# Each script takes a file from one version to the next; a script that was released stays as it is.
MIGRATIONS = (
    """
    CREATE TABLE labels (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        sae TEXT NOT NULL, latent INTEGER NOT NULL, text TEXT NOT NULL,
        author TEXT NOT NULL, method TEXT NOT NULL, created TEXT NOT NULL,
        made_from TEXT NOT NULL
    );
    CREATE INDEX labels_by_feature ON labels (sae, latent, id);
    CREATE TABLE scores (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        label INTEGER NOT NULL REFERENCES labels (id),
        scorer TEXT NOT NULL, value REAL, baseline REAL,
        n INTEGER NOT NULL, n_failed INTEGER NOT NULL, author TEXT NOT NULL, details TEXT NOT NULL
    );
    CREATE INDEX scores_by_label ON scores (label, id);
    CREATE TABLE bookmarks (
        sae TEXT NOT NULL, latent INTEGER NOT NULL, created TEXT NOT NULL,
        PRIMARY KEY (sae, latent)
    );
    CREATE TABLE edits (
        key TEXT PRIMARY KEY, name TEXT NOT NULL, edits TEXT NOT NULL, created TEXT NOT NULL
    );
    CREATE VIRTUAL TABLE words USING fts5 (
        text, content = 'labels', content_rowid = 'id',
        tokenize = 'porter unicode61 remove_diacritics 2', prefix = '2 3'
    );
    CREATE TRIGGER words_of_labels AFTER INSERT ON labels BEGIN
        INSERT INTO words (rowid, text) VALUES (new.id, new.text);
    END;
    """,
)


def connected(path: Path) -> sqlite3.Connection:
    """Connect for writing; bring the file to this version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = _opened(f"{path.resolve().as_uri()}?mode=rwc")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        version = _version(path, connection)
        for script in MIGRATIONS[version:]:
            _run(connection, script)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    return connection


def connected_for_reading(path: Path) -> sqlite3.Connection | None:
    """Connect for reading if there is a file that someone has finished making."""
    if not path.is_file():
        return None
    connection = _opened(f"{path.resolve().as_uri()}?mode=ro")
    if _version(path, connection) == 0:
        connection.close()
        return None
    return connection


def _opened(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(
        uri, WAIT_SECONDS, isolation_level=None, check_same_thread=False, uri=True
    )


def _version(path: Path, connection: sqlite3.Connection) -> int:
    """Return how many migrations a file has seen; refuse what is not ours, or is of later days."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (n_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if n_tables and application != APPLICATION:
        raise Unsupported(str(path), "is another program's database", "move it away")
    if version > len(MIGRATIONS):
        found = f"has format {version}, this panscope reads {len(MIGRATIONS)}"
        raise Unsupported(str(path), found, "upgrade panscope")
    return int(version)


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Run the statements of a script within the transaction that is open."""
    statement = ""
    for line in script.splitlines():
        statement += f"{line}\n"
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into one sentence."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if type(error) is sqlite3.DatabaseError:
            do = "move it away, or restore a copy"
            raise Corrupt(str(path), f"is damaged ({error})", do) from error
        found = f"could not be used ({error})"
        raise PanscopeError(
            str(path), found, "check space, permissions and other writers"
        ) from error


def words_of(text: str) -> str:
    """Turn what a reader typed into a query of FTS5 in which nothing of it is syntax.

    >>> words_of('blue "dark river" OR na')
    '"blue" "dark river" "OR" "na" *'
    >>> words_of("-- * ()")
    ''
    """
    parts = re.findall(r'"([^"]*)"|([^\s"]+)', text.replace("\0", " "))
    kept = [(phrase or word, bool(word)) for phrase, word in parts if _has_word(phrase or word)]
    open_end = " *" if kept and kept[-1][1] else ""
    return " ".join(f'"{part}"' for part, _ in kept) + open_end


def _has_word(text: str) -> bool:
    return any(character.isalnum() for character in text)
