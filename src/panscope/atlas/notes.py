"""What changes in an Atlas: labels with their scores and history, what people keep, in SQLite.

The file lies beside the sealed folder (`runs/x/notes.sqlite`) and is never part of it. No label is
written over: one that is corrected stays in the history of its feature, and so do its scores.

Any number of threads may share a `Notes`, and any number of processes a file: readers see the last
whole write (SQLite's WAL), writers wait for each other. Everything from outside reaches SQLite as a
bound value; what is searched for is taken apart into words first, so that it has no syntax.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from panscope.atlas.comments import Comments
from panscope.atlas.database import Database, connected, connected_for_reading, now
from panscope.atlas.labels import (
    Average,
    Found,
    Label,
    Score,
    latent_of,
    refuse_unfit,
    window_of,
)
from panscope.atlas.lists import Lists
from panscope.atlas.meanings import Meanings
from panscope.atlas.saved import Saved
from panscope.atlas.tables import IS_CURRENT, IS_NEWEST, IS_SHOWN
from panscope.atlas.words import words_of
from panscope.errors import NotFound

Indices = NDArray[np.int64]


class Notes:
    """The notes of one run; `open` makes the file, `reading` never does."""

    def __init__(self, database: Database) -> None:
        self.path = database.path
        self.meanings = Meanings(database, self._labels)
        self.saved = Saved(database)
        self.lists = Lists(database)
        self.comments = Comments(database)
        self._database = database

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open notes for reading and writing; make the file if there is none.

        Raises Corrupt for a file that is no database, Unsupported for one of a later format.
        """
        notes = cls(Database(path, connected))
        notes._rows("SELECT 1")
        return notes

    @classmethod
    def reading(cls, path: Path) -> Self:
        """Open notes for reading: while there is no file they are empty, and nothing is made."""
        return cls(Database(path, connected_for_reading))

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def add(self, label: Label) -> Label:
        """Write a label and its scores; return it with its id and time."""
        return self.add_all([label])[0]

    def add_all(self, labels: Sequence[Label]) -> list[Label]:
        """Write labels and their scores, all or none."""
        for label in labels:
            refuse_unfit(label)
        with self._database.writing() as connection:
            return [_inserted(connection, label) for label in labels]

    def add_scores(self, label: Label, scores: Sequence[Score]) -> None:
        """Write more scores of a label that is in the notes; older ones stay in its history."""
        with self._database.writing() as connection:
            if not self._rows("SELECT 1 FROM labels WHERE id = ?", label.id):
                raise NotFound(f"label {label.id}", "is not in these notes", "add it first")
            _insert_scores(connection, label.id, scores)
            _stand(connection, label.sae, label.index)

    def labels(self, sae: str, index: int) -> tuple[Label, ...]:
        """All labels a feature ever had, newest first."""
        return self._labels("WHERE sae = ? AND latent = ? ORDER BY id DESC", sae, latent_of(index))

    def label_of(self, sae: str, index: int) -> Label | None:
        """Return the label that is shown: the newest that a person wrote, or the newest."""
        where = f"WHERE sae = ? AND latent = ? AND {IS_SHOWN}"
        return next(iter(self._labels(where, sae, latent_of(index))), None)

    def shown(self, sae: str) -> dict[int, Label]:
        """Return the label that is shown of every feature of a Sae that has one.

        Scores come without their details, which take kilobytes a label.
        """
        labels = self._labels(f"WHERE sae = ? AND {IS_SHOWN} ORDER BY latent", sae, details="'[]'")
        return {label.index: label for label in labels}

    def current(self, sae: str, method: str) -> dict[int, Label]:
        """Return the newest label by a method of every feature of a Sae that has one.

        Scores come without their details.
        """
        where = f"WHERE sae = ? AND method = ? AND {IS_CURRENT}"
        labels = self._labels(where, sae, method, details="'[]'")
        return {label.index: label for label in labels}

    def texts(self, sae: str, indices: Collection[int]) -> dict[int, str]:
        """Return the text of the label that is shown of those features that have one."""
        rows = self._rows(
            "SELECT latent, text FROM labels WHERE sae = ?"
            f" AND latent IN (SELECT value FROM json_each(?)) AND {IS_SHOWN}",
            *(sae, json.dumps([latent_of(index) for index in indices])),
        )
        return dict(rows)

    def scored(self, sae: str, least: float, most: float, scorer: str = "") -> Indices:
        """Find the features whose shown label's score lies between bounds, both included.

        The score is that of `scorer`, or the best of all. They come in no order.
        """
        found = self._rows(  # as one text, which takes half the time of rows
            "SELECT group_concat(latent) FROM standing"
            " WHERE sae = ? AND scorer = ? AND value BETWEEN ? AND ?",
            *(sae, scorer, least, most),
        )
        text = found[0][0] if found else None
        return np.fromstring(text or "", np.int64, sep=",")

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
            f" WHERE words MATCH ? AND (? = '' OR sae = ?) AND {IS_CURRENT}"
            " ORDER BY rank LIMIT ? OFFSET ?",  # and by no more: FTS5 then stops at the limit
            *(query, sae, sae, *window_of(limit, offset)),
        )
        return [Found(self._labels("WHERE id = ?", number)[0], rank) for number, rank in rows]

    def averages(self, sae: str) -> list[Average]:
        """Average the scores of a Sae's current labels, by method and scorer."""
        rows = self._rows(
            "SELECT method, scorer, count(*), avg(value), avg(baseline)"
            " FROM labels JOIN scores ON scores.label = labels.id"
            f" WHERE sae = ? AND {IS_CURRENT} AND {IS_NEWEST}"
            " GROUP BY method, scorer ORDER BY method, scorer",
            sae,
        )
        return [Average(*row) for row in rows]

    def methods(self, sae: str) -> dict[int, set[str]]:
        """Return by which methods each feature of a Sae has been labelled."""
        found: dict[int, set[str]] = {}
        for index, method in self._rows("SELECT latent, method FROM labels WHERE sae = ?", sae):
            found.setdefault(index, set()).add(method)
        return found

    def _labels(
        self, where: str, *values: str | int, details: str = "details"
    ) -> tuple[Label, ...]:
        names = "id, sae, latent, text, author, method, created, made_from"
        with self._database.lock:
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

    def _rows(self, sql: str, *values: str | float) -> list[Any]:
        return self._database.rows(sql, *values)


def _inserted(connection: sqlite3.Connection, label: Label) -> Label:
    text, created = label.text.strip(), label.created or now()
    row = (label.sae, label.index, text, label.author, label.method, created, label.made_from)
    cursor = connection.execute(
        "INSERT INTO labels (sae, latent, text, author, method, created, made_from)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        row,
    )
    assert cursor.lastrowid is not None
    _insert_scores(connection, cursor.lastrowid, label.scores)
    _stand(connection, label.sae, label.index)
    return replace(label, text=text, created=created, id=cursor.lastrowid)


def _insert_scores(connection: sqlite3.Connection, label: int, scores: Sequence[Score]) -> None:
    connection.executemany(
        "INSERT INTO scores (label, scorer, value, baseline, n, n_failed, author, details)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (label, s.scorer, s.value, s.baseline, s.n, s.n_failed, s.author, s.details)
            for s in scores
        ],
    )


def _stand(connection: sqlite3.Connection, sae: str, latent: int) -> None:
    """Note how the label that a feature shows now scores."""
    at = "WHERE sae = ? AND latent = ?"
    connection.execute(f"DELETE FROM standing {at}", (sae, latent))
    connection.execute(f"INSERT INTO standing SELECT * FROM standing_now {at}", (sae, latent))
