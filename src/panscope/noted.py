"""What a stage notes for its next run: JSON that carries a checksum of itself, like a manifest."""

import json
from typing import TypeVar

from panscope.config import Config, digest_of
from panscope.errors import Corrupt
from panscope.files import REMEDY, parted, write_json
from panscope.place import Place, Where

Note = TypeVar("Note", bound=Config)


def write_note(where: Where, note: Config) -> None:
    """Write a note."""
    tree = note.described
    write_json(where, {**tree, "checksum": digest_of(tree)})


def read_note(kind: type[Note], where: Where) -> Note | None:
    """Read what `write_note` wrote, None if it is not there; Corrupt if it has changed since."""
    place = Place.of(where)
    if not place.is_file():
        return None
    try:
        tree, written = parted(b"".join(place.pieces()))
        note = kind.model_validate_json(json.dumps(tree))
    except ValueError as error:
        raise Corrupt(str(place), "is damaged", REMEDY) from error
    if written != digest_of(tree):
        raise Corrupt(str(place), "does not match its own checksum", REMEDY)
    return note
