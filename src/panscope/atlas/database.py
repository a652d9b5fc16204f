"""The SQLite file under the notes: its tables, versions and failures."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any

from panscope.errors import Corrupt, NotFound, PanscopeError, Unsupported
from panscope.kept import marks

WAIT_SECONDS = 30.0  # for another writer
HAS_STANDING = 3  # the first version whose file keeps how labels score
APPLICATION = 0x70616E73  # "pans": tells our files from other databases

# Of the labels of a feature by one method, all but the newest are history.
IS_CURRENT = """
    NOT EXISTS (
        SELECT 1 FROM labels AS newer WHERE newer.sae = labels.sae
        AND newer.latent = labels.latent AND newer.method = labels.method
        AND newer.id > labels.id
    )
"""
# Of all labels of a feature the newest that a person wrote is shown, or else the newest.
IS_SHOWN = """
    NOT EXISTS (
        SELECT 1 FROM labels AS other WHERE other.sae = labels.sae AND other.latent = labels.latent
        AND (other.method = 'human', other.id) > (labels.method = 'human', labels.id)
    )
"""
SHOWN_FIRST = "labels.method = 'human' DESC, labels.id DESC"  # the same, among a feature's labels
# Of the scores of a label by one scorer and author, all but the newest are history.
IS_NEWEST = """
    NOT EXISTS (
        SELECT 1 FROM scores AS newer WHERE newer.label = scores.label AND newer.id > scores.id
        AND newer.scorer = scores.scorer AND newer.author = scores.author
    )
"""
# How the labels that are shown score: a row a scorer, and one of no name for the best of all.
# Files keep it as a table; another meaning needs a script that fills that anew.
STANDING = f"""
    SELECT sae, latent, scorer, max(value) AS value
    FROM labels JOIN scores ON scores.label = labels.id
    WHERE value IS NOT NULL AND {IS_SHOWN} AND {IS_NEWEST}
    GROUP BY sae, latent, scorer
    UNION ALL
    SELECT sae, latent, '' AS scorer, max(value) AS value
    FROM labels JOIN scores ON scores.label = labels.id
    WHERE value IS NOT NULL AND {IS_SHOWN} AND {IS_NEWEST}
    GROUP BY sae, latent
"""
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
    """
    CREATE TABLE meanings (
        label INTEGER NOT NULL REFERENCES labels (id), model TEXT NOT NULL, vector BLOB NOT NULL,
        PRIMARY KEY (label, model)
    ) WITHOUT ROWID;
    """,
    f"""
    CREATE VIEW standing_now AS {STANDING};
    CREATE TABLE standing (
        sae TEXT NOT NULL, latent INTEGER NOT NULL, scorer TEXT NOT NULL, value REAL NOT NULL,
        PRIMARY KEY (sae, latent, scorer)
    ) WITHOUT ROWID;
    CREATE INDEX standing_by_value ON standing (sae, scorer, value);
    INSERT INTO standing SELECT * FROM standing_now;
    """,
)


class Database:
    """A file, opened when it is first asked for, and again once another stands in its place.

    Threads may share it.
    """

    def __init__(self, path: Path, connect: Callable[[Path], sqlite3.Connection | None]) -> None:
        self.path = path
        self.lock = RLock()
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, ...] = ()

    def rows(self, sql: str, *values: str | float) -> list[Any]:
        """Return what a question finds; half a surrogate pair, which no text has, becomes "?"."""
        bound = [v.encode(errors="replace").decode() if isinstance(v, str) else v for v in values]
        with self.lock, explained(self.path):
            connection = self._connected()
            return [] if connection is None else connection.execute(sql, bound).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection within a transaction that ends whole or not at all."""
        with self.lock, explained(self.path):
            connection = self._connected()
            if connection is None:
                raise PanscopeError(str(self.path), "is open for reading", "open it for writing")
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                yield connection

    def close(self) -> None:
        """Let go of the file."""
        with self.lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _connected(self) -> sqlite3.Connection | None:
        known = self._connection
        # A checkpoint of the WAL changes the file too: to connect again takes 1 ms.
        if known is not None and not known.in_transaction and self._opened != marks(self.path):
            self.close()
        if self._connection is None:
            self._connection = self._connect(self.path)
            self._opened = marks(self.path)
        return self._connection


def connected(path: Path) -> sqlite3.Connection:
    """Connect for writing; bring the file to this version. NotFound where its folder is not."""
    if not path.parent.is_dir():  # a run that was moved away is not begun anew by a bookmark
        raise NotFound(str(path.parent), "no such folder", "check the path")
    connection = _opened(f"{path.resolve().as_uri()}?mode=rwc")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # a lost power supply may cost the last write
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
    if (version := _version(path, connection)) == 0:
        connection.close()
        return None
    if version < HAS_STANDING:
        connection.execute(f"CREATE TEMP VIEW standing AS {STANDING}")
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


def now() -> str:
    """Return the time as notes keep it: UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
