"""What people keep in the notes to come back to: bookmarked features, edits under names."""

import json
import secrets
from dataclasses import asdict
from typing import Any

from panscope.atlas.database import Database, now
from panscope.atlas.labels import (
    LARGEST,
    Bookmark,
    SavedEdits,
    latent_of,
    refuse_unfit_edits,
    window_of,
)
from panscope.atlas.tables import SHOWN_TEXT
from panscope.errors import NotFound, nearest


class Saved:
    """The bookmarks and the saved edits of some notes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def bookmark(self, sae: str, index: int) -> None:
        """Keep a feature among the bookmarks."""
        with self._database.writing() as connection:
            row = (sae, latent_of(index), now())
            connection.execute("INSERT OR IGNORE INTO bookmarks VALUES (?, ?, ?)", row)

    def forget(self, sae: str, index: int) -> None:
        """Take a feature from the bookmarks, if it is there."""
        with self._database.writing() as connection:
            row = (sae, latent_of(index))
            connection.execute("DELETE FROM bookmarks WHERE sae = ? AND latent = ?", row)

    def bookmarks(self, sae: str = "", limit: int = LARGEST, offset: int = 0) -> list[Bookmark]:
        """List bookmarks, newest first, with their labels; of one Sae or of all."""
        rows = self._database.rows(
            f"SELECT sae, latent, created, {SHOWN_TEXT} FROM bookmarks AS kept WHERE ? IN ('', sae)"
            " ORDER BY created DESC, rowid DESC LIMIT ? OFFSET ?",
            *(sae, *window_of(limit, offset)),
        )
        return [Bookmark(*row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Count the bookmarks of each Sae that has some."""
        return dict(self._database.rows("SELECT sae, count(*) FROM bookmarks GROUP BY sae"))

    def is_bookmarked(self, sae: str, index: int) -> bool:
        """Whether a feature is among the bookmarks."""
        row = (sae, latent_of(index))
        found = "SELECT 1 FROM bookmarks WHERE sae = ? AND latent = ?"
        return bool(self._database.rows(found, *row))

    def save(self, name: str, edits: str) -> SavedEdits:
        """Keep edits, given as JSON; those that had the name before stay, behind them."""
        refuse_unfit_edits(name, edits)
        saved = SavedEdits(secrets.token_urlsafe(9), name.strip(), edits, now())
        with self._database.writing() as connection:
            row = (saved.key, saved.name, saved.edits, saved.created)
            connection.execute("INSERT INTO edits VALUES (?, ?, ?, ?)", row)
        return saved

    def edits(self, name: str) -> SavedEdits:
        """Look the edits up that were last saved under a name."""
        newest = "SELECT * FROM edits WHERE name = ? ORDER BY rowid DESC LIMIT 1"
        for row in self._database.rows(newest, name):
            return SavedEdits(*row)
        names = [known for (known,) in self._database.rows("SELECT DISTINCT name FROM edits")]
        raise NotFound("saved edits", f"no {name!r}", nearest(name, names))

    def remove(self, name: str) -> None:
        """Remove the edits under a name, and those behind them; NotFound if there are none."""
        self.edits(name)
        with self._database.writing() as connection:
            connection.execute("DELETE FROM edits WHERE name = ?", (name,))

    def all_edits(self, limit: int = LARGEST, offset: int = 0) -> list[SavedEdits]:
        """List the edits that were last saved under each name, newest first."""
        rows = self._database.rows(
            "SELECT * FROM edits WHERE rowid IN (SELECT max(rowid) FROM edits GROUP BY name)"
            " ORDER BY rowid DESC LIMIT ? OFFSET ?",
            *window_of(limit, offset),
        )
        return [SavedEdits(*row) for row in rows]

    def n_names(self) -> int:
        """Count the names under which edits are saved."""
        return len(self._database.rows("SELECT DISTINCT name FROM edits"))

    def exported(self, sae: str = "") -> dict[str, list[dict[str, Any]]]:
        """Return bookmarks, of one Sae or of all, and saved edits as plain values, for JSON."""
        edits = [
            {"name": one.name, "created": one.created, "edits": json.loads(one.edits)}
            for one in self.all_edits()
        ]
        return {"bookmarks": [asdict(one) for one in self.bookmarks(sae)], "edits": edits}
