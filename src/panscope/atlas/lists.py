"""Lists of features under names: a list is there as long as a feature is in it."""

from dataclasses import asdict, dataclass
from typing import Any
from unicodedata import normalize

from panscope.atlas.database import Database, now
from panscope.atlas.labels import LARGEST, latent_of, refuse_unfit_text, window_of
from panscope.atlas.tables import SHOWN_TEXT
from panscope.errors import NotFound, nearest

NAME_CHARACTERS = 100
REMARK_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Listed:
    """A feature in a list, what is remarked on it there, and what is shown as its label."""

    list: str
    sae: str
    index: int
    remark: str
    created: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class FeatureList:
    """The name of a list, and how many features are in it."""

    name: str
    n_features: int


class Lists:
    """The lists of some notes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, name: str, sae: str, index: int, remark: str = "") -> None:
        """Put a feature in a list; put there again, it keeps its place and has the new remark."""
        name, remark = name_of(name), remark.strip()
        if remark:
            refuse_unfit_text("a remark", remark, REMARK_CHARACTERS)
        with self._database.writing() as connection:
            connection.execute(
                "INSERT INTO listed (list, sae, latent, remark, created) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (list, sae, latent) DO UPDATE SET remark = excluded.remark",
                (name, sae, latent_of(index), remark, now()),
            )

    def take(self, name: str, sae: str, index: int) -> None:
        """Take a feature out of a list, if it is there; with the last one the list is gone."""
        row = (name_of(name), sae, latent_of(index))
        with self._database.writing() as connection:
            connection.execute("DELETE FROM listed WHERE (list, sae, latent) = (?, ?, ?)", row)

    def remove(self, name: str) -> None:
        """Take all features out of a list; NotFound if there is no such list."""
        self.count(name)
        with self._database.writing() as connection:
            connection.execute("DELETE FROM listed WHERE list = ?", (name_of(name),))

    def of(self, sae: str, index: int, limit: int = LARGEST) -> list[Listed]:
        """List a feature's lists, that which it was put in last first; without its label."""
        rows = self._database.rows(
            "SELECT list, sae, latent, remark, created FROM listed"
            " WHERE sae = ? AND latent = ? ORDER BY id DESC LIMIT ?",
            *(sae, latent_of(index), limit),
        )
        return [Listed(*row) for row in rows]

    def features(self, name: str, limit: int = LARGEST, offset: int = 0) -> list[Listed]:
        """List the features of a list with their labels, what was put there last first."""
        rows = self._database.rows(
            f"SELECT list, sae, latent, remark, created, {SHOWN_TEXT} FROM listed AS kept"
            " WHERE list = ? ORDER BY id DESC LIMIT ? OFFSET ?",
            *(name_of(name), *window_of(limit, offset)),
        )
        return [Listed(*row) for row in rows]

    def names(self, limit: int = LARGEST, offset: int = 0) -> list[FeatureList]:
        """List the lists, that which something was put in last first."""
        rows = self._database.rows(
            "SELECT list, count(*) FROM listed GROUP BY list"
            " ORDER BY max(id) DESC LIMIT ? OFFSET ?",
            *window_of(limit, offset),
        )
        return [FeatureList(*row) for row in rows]

    def n_names(self) -> int:
        """Count the lists."""
        return len(self._database.rows("SELECT DISTINCT list FROM listed"))

    def count(self, name: str) -> int:
        """Count the features of a list; NotFound if there is no such list."""
        kept = name_of(name)
        question = "SELECT count(*) FROM listed WHERE list = ?"
        found: int = sum(n for (n,) in self._database.rows(question, kept))  # no row without a file
        if not found:
            names = [one.name for one in self.names()]
            raise NotFound("lists", f"no {kept!r}", nearest(kept, names))
        return found

    def exported(self, sae: str = "") -> list[dict[str, Any]]:
        """Return every list with its features, those of one Sae or all, as plain values."""
        rows = self._database.rows(
            f"SELECT list, sae, latent, remark, created, {SHOWN_TEXT} FROM listed AS kept"
            " WHERE ? IN ('', sae)"
            " ORDER BY (SELECT max(id) FROM listed WHERE list = kept.list) DESC, id DESC",
            sae,
        )
        found: dict[str, list[dict[str, Any]]] = {}
        for name, *row in rows:
            feature = asdict(Listed(name, *row))
            del feature["list"]
            found.setdefault(name, []).append(feature)
        return [{"name": name, "features": features} for name, features in found.items()]

    def saes(self) -> set[str]:
        """Name the Saes of which a feature is in a list."""
        return {sae for (sae,) in self._database.rows("SELECT DISTINCT sae FROM listed")}


def name_of(text: str) -> str:
    """Return the name of a list as it is kept: its blanks as pages show them, é as one character.

    >>> name_of(" months  of the year ")
    'months of the year'
    """
    name = normalize("NFC", " ".join(text.split()))
    refuse_unfit_text("the name of a list", name, NAME_CHARACTERS)
    return name
