"""The SQLite file under the notes: how it is opened, its versions and failures."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any

from panscope.atlas.tables import EARLIER, MIGRATIONS
from panscope.errors import Corrupt, NotFound, PanscopeError, Unsupported
from panscope.kept import marks

WAIT_SECONDS = 30.0  # for another writer
APPLICATION = 0x70616E73  # "pans": tells our files from other databases


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
        self._is_earlier = False

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
        if known is not None and not known.in_transaction and self._is_other(known):
            self.close()
        if self._connection is None:
            self._connection = self._connect(self.path)
            self._opened = marks(self.path)
            self._is_earlier = self._connection is not None and _has_views(self._connection)
        return self._connection

    def _is_other(self, known: sqlite3.Connection) -> bool:
        """Whether the file is another, or was brought to this version (in its WAL alone)."""
        if self._opened != marks(self.path):
            return True
        return self._is_earlier and _format(known) >= len(MIGRATIONS)


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
    connection = _readable(path.resolve().as_uri())
    if (version := _version(path, connection)) == 0:
        connection.close()
        return None
    for since, name, rows in EARLIER:
        if version < since:
            connection.execute(f"CREATE TEMP VIEW {name} AS {rows}")
    return connection


def _readable(uri: str) -> sqlite3.Connection:
    """Open for reading; what a killed writer left half done is taken back, as only a writer can."""
    connection = _opened(f"{uri}?mode=ro")
    try:
        _format(connection)
    except sqlite3.OperationalError as error:
        connection.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise
        with closing(_opened(f"{uri}?mode=rw")) as writer:
            _format(writer)
        connection = _opened(f"{uri}?mode=ro")
    return connection


def _opened(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(
        uri, WAIT_SECONDS, isolation_level=None, check_same_thread=False, uri=True
    )


def _version(path: Path, connection: sqlite3.Connection) -> int:
    """Return how many migrations a file has seen; refuse what is not ours, or is of later days."""
    # In one question: another process may be making the file between two.
    row: tuple[int, int, int] = connection.execute(
        "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master)"
        " FROM pragma_user_version, pragma_application_id"
    ).fetchone()
    version, application, n_tables = row
    if n_tables and application != APPLICATION:
        raise Unsupported(str(path), "is another program's database", "move it away")
    if version > len(MIGRATIONS):
        found = f"has format {version}, this panscope reads {len(MIGRATIONS)}"
        raise Unsupported(str(path), found, "upgrade panscope")
    return version


def _format(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _has_views(connection: sqlite3.Connection) -> bool:
    """Whether a file of an earlier version is read through views, which would hide later tables."""
    found = connection.execute("SELECT 1 FROM sqlite_temp_master").fetchone()
    return found is not None


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
    except (sqlite3.Error, UnicodeDecodeError, OSError) as error:
        # What is no UTF-8 may be a value, or words of the file in what SQLite says of it.
        if type(error) in (sqlite3.DatabaseError, UnicodeDecodeError) or "UTF-8" in str(error):
            do = "move it away, or restore a copy"
            raise Corrupt(str(path), f"is damaged ({error})", do) from error
        found = f"could not be used ({error})"
        raise PanscopeError(
            str(path), found, "check space, permissions and other writers"
        ) from error
