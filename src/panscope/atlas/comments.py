"""What people say about features, one remark below the other, without scores or search."""

from dataclasses import asdict, dataclass
from typing import Any

from panscope.atlas.database import Database, now
from panscope.atlas.labels import (
    AUTHOR_CHARACTERS,
    LARGEST,
    latent_of,
    refuse_unfit_text,
    window_of,
)
from panscope.errors import NotFound

COMMENT_CHARACTERS = 5_000


@dataclass(frozen=True, slots=True)
class Comment:
    """What someone said about a feature, and when."""

    id: int
    sae: str
    index: int
    text: str
    author: str
    created: str


class Comments:
    """The comments of some notes, newest first."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, sae: str, index: int, text: str, author: str) -> Comment:
        """Write a comment on a feature."""
        row = (sae, latent_of(index), text.strip(), author.strip(), now())
        refuse_unfit_text("a comment", row[2], COMMENT_CHARACTERS)
        refuse_unfit_text("a comment's author", row[3], AUTHOR_CHARACTERS)
        with self._database.writing() as connection:
            cursor = connection.execute(
                "INSERT INTO comments (sae, latent, text, author, created) VALUES (?, ?, ?, ?, ?)",
                row,
            )
        assert cursor.lastrowid is not None
        return Comment(cursor.lastrowid, *row)

    def of(self, sae: str, index: int, limit: int = LARGEST, offset: int = 0) -> list[Comment]:
        """List the comments on a feature."""
        where = "WHERE sae = ? AND latent = ?"
        return self._comments(where, sae, latent_of(index), *window_of(limit, offset))

    def recent(self, sae: str = "", limit: int = LARGEST, offset: int = 0) -> list[Comment]:
        """List the comments on the features of one Sae, or of all."""
        return self._comments("WHERE ? IN ('', sae)", sae, *window_of(limit, offset))

    def counts(self) -> dict[str, int]:
        """Count the comments on the features of each Sae that has some."""
        return dict(self._database.rows("SELECT sae, count(*) FROM comments GROUP BY sae"))

    def remove(self, number: int) -> None:
        """Remove a comment by its id; NotFound if there is none, or none any more."""
        known = max(0, min(number, LARGEST))  # SQLite counts no further, and ids begin at 1
        with self._database.writing() as connection:
            if not connection.execute("DELETE FROM comments WHERE id = ?", (known,)).rowcount:
                do = "reload the page, someone else may have removed it"
                raise NotFound(f"comment {number}", "is not in these notes", do)

    def exported(self, sae: str = "") -> list[dict[str, Any]]:
        """Return the comments on the features of one Sae, or of all, as plain values."""
        return [asdict(one) for one in self.recent(sae)]

    def _comments(self, where: str, *values: str | int) -> list[Comment]:
        rows = self._database.rows(
            f"SELECT id, sae, latent, text, author, created FROM comments {where}"
            " ORDER BY id DESC LIMIT ? OFFSET ?",
            *values,
        )
        return [Comment(*row) for row in rows]
