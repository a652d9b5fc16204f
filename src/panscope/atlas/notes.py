"""What changes in an Atlas: labels with their scores and history, bookmarks, saved edits. SQLite.

The file lies beside the sealed folder (`runs/x/notes.sqlite`) and is never part of it. Nothing is
written over: a label that is corrected stays in the history of its feature, and so do its scores.

Any number of threads may share a `Notes`, and any number of processes a file: readers see the last
whole write (SQLite's WAL), writers wait for each other. Everything from outside reaches SQLite as a
bound value; what is searched for is taken apart into words first, so that it has no syntax.
"""

import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any, Self

from panscope.atlas.database import connected, connected_for_reading, explained, words_of
from panscope.atlas.labels import (
    HUMAN,
    LARGEST,
    Bookmark,
    Found,
    Label,
    SavedEdits,
    Score,
    latent_of,
    refuse_unfit,
    refuse_unfit_edits,
)
from panscope.errors import NotFound, PanscopeError


class Notes:
    """The notes of one run; `open` makes the file, `reading` never does."""

    def __init__(self, path: Path, connect: Callable[[Path], sqlite3.Connection | None]) -> None:
        self.path = path
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._lock = RLock()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open notes for reading and writing; make the file if there is none.

        Raises Corrupt for a file that is no database, Unsupported for one of a later format.
        """
        notes = cls(path, connected)
        notes._rows("SELECT 1")
        return notes

    @classmethod
    def reading(cls, path: Path) -> Self:
        """Open notes for reading: while there is no file they are empty, and nothing is made."""
        return cls(path, connected_for_reading)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def add(self, label: Label) -> Label:
        """Write a label and its scores, both or neither; return it with its id and time."""
        refuse_unfit(label)
        created = label.created or now()
        row = (label.sae, label.index, label.text.strip(), label.author, label.method, created)
        with self._writing() as connection:
            cursor = connection.execute(
                "INSERT INTO labels (sae, latent, text, author, method, created, made_from)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*row, label.made_from),
            )
            number = int(cursor.lastrowid or 0)
            _insert_scores(connection, number, label.scores)
        return replace(label, text=label.text.strip(), created=created, id=number)

    def add_scores(self, label: Label, scores: Sequence[Score]) -> None:
        """Write more scores of a label that is in the notes; older ones stay in its history."""
        with self._writing() as connection:
            if not self._rows("SELECT 1 FROM labels WHERE id = ?", label.id):
                raise NotFound(f"label {label.id}", "is not in these notes", "add it first")
            _insert_scores(connection, label.id, scores)

    def labels(self, sae: str, index: int) -> tuple[Label, ...]:
        """All labels a feature ever had, newest first."""
        return self._labels("WHERE sae = ? AND latent = ? ORDER BY id DESC", sae, latent_of(index))

    def label_of(self, sae: str, index: int) -> Label | None:
        """Return the label that is shown: the newest that a person wrote, or the newest."""
        return _shown(self.labels(sae, index))

    def shown(self, sae: str) -> dict[int, Label]:
        """Return the label that is shown of every feature of a Sae that has one.

        Scores come without their details, which take kilobytes a label.
        """
        of_feature: dict[int, list[Label]] = {}
        for label in self._labels("WHERE sae = ? ORDER BY id DESC", sae, details="'[]'"):
            of_feature.setdefault(label.index, []).append(label)
        return {index: chosen for index, labels in of_feature.items() if (chosen := _shown(labels))}

    def search(self, text: str, limit: int = 20, offset: int = 0, sae: str = "") -> list[Found]:
        """Find labels by their words, best match first; in one Sae or in all.

        All words must occur; the last may be the beginning of one, "words in quotes" follow each
        other. Endings and accents do not count (river finds rivers). Only the newest label of a
        feature by each method is searched; what it replaced is history.
        """
        if not (query := words_of(text)):
            return []
        rows = self._rows(
            "SELECT labels.id, rank FROM words JOIN labels ON labels.id = words.rowid"
            " WHERE words MATCH ? AND (? = '' OR sae = ?) AND NOT EXISTS ("
            "  SELECT 1 FROM labels AS newer WHERE newer.sae = labels.sae"
            "  AND newer.latent = labels.latent AND newer.method = labels.method"
            "  AND newer.id > labels.id)"
            " ORDER BY rank, labels.id LIMIT ? OFFSET ?",
            *(query, sae, sae, _count(limit), _count(offset)),
        )
        return [Found(self._labels("WHERE id = ?", number)[0], rank) for number, rank in rows]

    def methods(self, sae: str) -> dict[int, set[str]]:
        """Return by which methods each feature of a Sae has been labelled."""
        found: dict[int, set[str]] = {}
        for index, method in self._rows("SELECT latent, method FROM labels WHERE sae = ?", sae):
            found.setdefault(index, set()).add(method)
        return found

    def bookmark(self, sae: str, index: int) -> None:
        """Keep a feature among the bookmarks."""
        with self._writing() as connection:
            row = (sae, latent_of(index), now())
            connection.execute("INSERT OR IGNORE INTO bookmarks VALUES (?, ?, ?)", row)

    def forget(self, sae: str, index: int) -> None:
        """Take a feature from the bookmarks, if it is there."""
        with self._writing() as connection:
            row = (sae, latent_of(index))
            connection.execute("DELETE FROM bookmarks WHERE sae = ? AND latent = ?", row)

    def bookmarks(self) -> tuple[Bookmark, ...]:
        """All bookmarks, newest first."""
        rows = self._rows("SELECT * FROM bookmarks ORDER BY created DESC, rowid DESC")
        return tuple(Bookmark(*row) for row in rows)

    def save_edits(self, name: str, edits: str) -> SavedEdits:
        """Keep edits, given as JSON, under a new key."""
        refuse_unfit_edits(name, edits)
        saved = SavedEdits(secrets.token_urlsafe(9), name.strip(), edits, now())
        with self._writing() as connection:
            row = (saved.key, saved.name, saved.edits, saved.created)
            connection.execute("INSERT INTO edits VALUES (?, ?, ?, ?)", row)
        return saved

    def edits(self, key: str) -> SavedEdits:
        """Look saved edits up."""
        for row in self._rows("SELECT * FROM edits WHERE key = ?", key):
            return SavedEdits(*row)
        raise NotFound(f"edits {key!r}", "were not saved here", "check the address")

    def saved_edits(self) -> tuple[SavedEdits, ...]:
        """All saved edits, newest first."""
        return tuple(
            SavedEdits(*row)
            for row in self._rows("SELECT * FROM edits ORDER BY created DESC, rowid DESC")
        )

    def _labels(
        self, where: str, *values: str | int, details: str = "details"
    ) -> tuple[Label, ...]:
        names = "id, sae, latent, text, author, method, created, made_from"
        with self._lock:
            rows = self._rows(f"SELECT {names} FROM labels {where}", *values)
            scores = self._scores(where, *values, details=details)
        return tuple(
            Label(
                sae, index, text, author, method, created, tuple(scores[number]), made_from, number
            )
            for number, sae, index, text, author, method, created, made_from in rows
        )

    def _scores(
        self, where: str, *values: str | int, details: str
    ) -> Mapping[int, Collection[Score]]:
        """Return the newest score of each scorer and author, by the id of the label."""
        names = f"label, scorer, value, baseline, n, n_failed, author, {details}"
        of_labels = f"label IN (SELECT id FROM labels {where})"
        found = defaultdict[int, dict[tuple[str, str], Score]](dict)
        for number, *fields in self._rows(
            f"SELECT {names} FROM scores WHERE {of_labels} ORDER BY id", *values
        ):
            score = Score(*fields)
            found[number][score.scorer, score.author] = score
        return defaultdict(list, {number: by.values() for number, by in found.items()})

    def _rows(self, sql: str, *values: str | int) -> list[Any]:
        """Return what a question finds; half a surrogate pair, which no text has, becomes "?"."""
        bound = [v.encode(errors="replace").decode() if isinstance(v, str) else v for v in values]
        with self._lock, explained(self.path):
            connection = self._connected()
            return [] if connection is None else connection.execute(sql, bound).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection within a transaction that ends whole or not at all."""
        with self._lock, explained(self.path):
            connection = self._connected()
            if connection is None:
                raise PanscopeError(str(self.path), "is open for reading", "open it for writing")
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                yield connection

    def _connected(self) -> sqlite3.Connection | None:
        if self._connection is None:
            self._connection = self._connect(self.path)
        return self._connection


def now() -> str:
    """Return the time as notes keep it: UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _shown(labels: Sequence[Label]) -> Label | None:
    """Choose among the labels of a feature, newest first."""
    return next((label for label in labels if label.method == HUMAN), next(iter(labels), None))


def _insert_scores(connection: sqlite3.Connection, label: int, scores: Sequence[Score]) -> None:
    connection.executemany(
        "INSERT INTO scores (label, scorer, value, baseline, n, n_failed, author, details)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (label, s.scorer, s.value, s.baseline, s.n, s.n_failed, s.author, s.details)
            for s in scores
        ],
    )


def _count(number: int) -> int:
    return max(0, min(number, LARGEST))
