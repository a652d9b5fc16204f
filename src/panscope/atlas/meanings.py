"""Labels by what they mean: a vector of an embedding model for each, beside it in the notes.

Vectors have unit length and are kept in float16. A search reads all of a model's: 50 MB and
less than a second for 65,536 labels of 384 numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from panscope.atlas.database import Database
from panscope.atlas.labels import Found, Label
from panscope.atlas.tables import IS_CURRENT

Vector = NDArray[np.float32]


class Meanings:
    """The vectors of the labels of some notes; `labels` looks labels up."""

    def __init__(self, database: Database, labels: Callable[..., tuple[Label, ...]]) -> None:
        self._database = database
        self._labels = labels

    def without(self, model: str, limit: int) -> dict[int, str]:
        """Return some of the current labels that a model has no vector of: text by id."""
        rows = self._database.rows(
            f"SELECT id, text FROM labels WHERE {IS_CURRENT} AND id NOT IN"
            " (SELECT label FROM meanings WHERE model = ?) ORDER BY id LIMIT ?",
            *(model, limit),
        )
        return dict(rows)

    def add(self, model: str, vectors: Mapping[int, Sequence[float]]) -> None:
        """Write a model's vectors of labels, by their ids."""
        rows = [(label, model, _unit(v).astype("<f2").tobytes()) for label, v in vectors.items()]
        with self._database.writing() as connection:
            connection.executemany("INSERT OR IGNORE INTO meanings VALUES (?, ?, ?)", rows)

    def nearest(
        self, model: str, vector: Sequence[float], limit: int = 20, sae: str = ""
    ) -> list[Found]:
        """Find the current labels nearest to a vector; `rank` is one less their cosine."""
        rows = self._database.rows("SELECT label, vector FROM meanings WHERE model = ?", model)
        wanted = _unit(vector)
        fit = [(label, data) for label, data in rows if len(data) == 2 * len(wanted)]
        vectors = np.frombuffer(b"".join(data for _, data in fit), "<f2").reshape(-1, len(wanted))
        cosines = vectors.astype(np.float32) @ wanted
        best = ((fit[row][0], cosines[row]) for row in np.argsort(-cosines, kind="stable").tolist())
        found = ((self._current(label, sae), cosine) for label, cosine in best)
        hits = (Found(label, 1 - float(cosine)) for label, cosine in found if label)
        return list(islice(hits, max(0, limit)))

    def _current(self, label: int, sae: str) -> Label | None:
        """Look a label up, if it is current and of that Sae."""
        where = f"WHERE id = ? AND (? = '' OR sae = ?) AND {IS_CURRENT}"
        return next(iter(self._labels(where, label, sae, sae)), None)


def _unit(vector: Sequence[float]) -> Vector:
    """Scale a vector to unit length; one of zeros stays."""
    array = np.asarray(vector, dtype=np.float32)
    return array / max(float(np.linalg.norm(array)), 1e-30)
