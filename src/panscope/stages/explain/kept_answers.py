"""What was answered once, kept on disk under the digest of its question, and never asked twice."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import Any

from panscope import files
from panscope.config import digest_of


@dataclass(slots=True)
class Kept:
    """What was said to a question; None while nothing was."""

    said: str | None


class KeptAnswers:
    """The folder of all answers; threads may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._asked: set[Path] = set()
        self._returned = Condition()

    @contextmanager
    def alone(self, question: dict[str, Any]) -> Iterator[Kept]:
        """Yield the answer; one that is put in its place inside the with block is kept.

        It waits while another thread asks the same: labels of two features may be the same.
        """
        digest = digest_of(question)
        path = self.folder / digest[:2] / f"{digest}.json"
        with self._returned:
            self._returned.wait_for(lambda: path not in self._asked)
            self._asked.add(path)
        try:
            known = _read(path)
            yield (kept := Kept(known))
            if kept.said is not None and kept.said != known:
                files.write_json(path, {"answer": kept.said, "checksum": digest_of(kept.said)})
        finally:
            with self._returned:
                self._asked.remove(path)
                self._returned.notify_all()


def _read(path: Path) -> str | None:
    """Read an answer; one whose bytes have changed is asked for again."""
    try:
        tree = json.loads(path.read_bytes())
        said = tree["answer"]
        return said if digest_of(said) == tree["checksum"] else None
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None
