"""What notes hold, as frozen values: labels with their scores, bookmarks, saved edits."""

import json
from dataclasses import dataclass

from panscope.errors import ConfigError

HUMAN = "human"  # the method of a label that a person wrote
LABEL_CHARACTERS = 2_000
AUTHOR_CHARACTERS = 200
EDITS_CHARACTERS = 1 << 16
LARGEST = 2**63 - 1  # of an integer in SQLite


@dataclass(frozen=True, slots=True)
class Score:
    """How well a label tells where its feature fires, on examples its author was not shown.

    `value` is None where every answer failed. `baseline` is what the same examples give with labels
    of other features; `n` answers counted, `n_failed` could not be used and count as nothing.
    `details` is JSON: the examples with what was true and what was predicted.
    """

    scorer: str
    value: float | None
    baseline: float | None
    n: int
    n_failed: int = 0
    author: str = ""
    details: str = "[]"


@dataclass(frozen=True, slots=True)
class Label:
    """What someone or something says that a feature means.

    `method` is "human" or names how a machine came to it; `made_from` is JSON: the examples shown,
    the digest of the request. `id` is zero, and `created` empty, until it is in the notes.
    """

    sae: str
    index: int
    text: str
    author: str
    method: str = HUMAN
    created: str = ""
    scores: tuple[Score, ...] = ()
    made_from: str = "{}"
    id: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A label that a search found; a smaller `rank` is a better match (BM25)."""

    label: Label
    rank: float


@dataclass(frozen=True, slots=True)
class Average:
    """The mean scores of a Sae's labels by one method; None where no label has one."""

    method: str
    scorer: str
    n_labels: int
    value: float | None
    baseline: float | None


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A feature that someone wants to come back to, and what is shown as its label."""

    sae: str
    index: int
    created: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class SavedEdits:
    """A list of edits under a name; `key` tells it from others that had the name before.

    `edits` is JSON that the notes do not look into.
    """

    key: str
    name: str
    edits: str
    created: str


def latent_of(index: int) -> int:
    """Return the index of a feature if it can be one."""
    if not 0 <= index <= LARGEST:
        raise ConfigError(f"feature {index}", "is no feature's index", "give one from 0 up")
    return index


def window_of(limit: int, offset: int) -> tuple[int, int]:
    """Bound the numbers of a window to those that SQLite counts to."""
    return max(0, min(limit, LARGEST)), max(0, min(offset, LARGEST))


def refuse_unfit(label: Label) -> None:
    """Raise ConfigError for a label that is empty, too long or no text."""
    latent_of(label.index)
    for name in ("text", "author", "method", "sae"):
        refuse_unfit_text(f"a label's {name}", getattr(label, name), LABEL_CHARACTERS)
    _refuse_no_json(label.made_from)


def refuse_unfit_edits(name: str, edits: str) -> None:
    """Raise ConfigError for edits that are too long or no JSON."""
    refuse_unfit_text("the name of edits", name, LABEL_CHARACTERS)
    refuse_unfit_text("edits", edits, EDITS_CHARACTERS)
    _refuse_no_json(edits)


def refuse_unfit_text(what: str, text: str, limit: int) -> None:
    """Raise ConfigError for a text that shows nothing, is too long or no text."""
    if not text.strip():
        raise ConfigError(what, "is empty", "write a word or more")
    if len(text) > limit:
        raise ConfigError(what, f"has {len(text):,} characters", f"keep to {limit:,}")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError(what, "holds a character that is none", "leave it out")
    if not any(character.isprintable() for character in text.strip()):
        raise ConfigError(what, "holds nothing that can be seen", "write a word or more")


def _refuse_no_json(text: str) -> None:
    try:
        json.loads(text)
    except ValueError as error:
        raise ConfigError("what is to be kept", f"is not JSON ({error})", "correct it") from error
