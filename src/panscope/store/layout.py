"""The format of a store: what its files are called, and what makes a shard exist.

    store/
      manifest.json                   every file below, its size and BLAKE3 checksum; facts: `Facts`
      shard-00000/
        <site>.safetensors            `activations` (tokens, d); of int8 also `vector_scales`
                                      (tokens) and `dimension_scales` (d), float32
        tokens.safetensors            `ids`, `documents`, `positions` (tokens), int32
        seal.json                     `Seal`, written last

A shard without a seal does not exist. While a store is being written its seals are all there is;
the manifest then takes over their checksums as they were written, never hashing a file again, so
that what decays in between is found and not sealed.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Self

from pydantic import Field

from panscope.config import Config, digest_of
from panscope.errors import Corrupt, Incomplete
from panscope.files import FileRecord, problem_with
from panscope.place import Place
from panscope.sites import Site
from panscope.store.precision import DType, Error

KIND = "store"
SEAL = "seal.json"
TOKENS = "tokens.safetensors"

_SHARD = re.compile(r"shard-(\d{5,})")
_REMEDY = "delete that shard's folder and run harvest again"


class Facts(Config):
    """What the manifest says of a store; `shards` are their sizes in tokens, `rows` those read."""

    sites: dict[str, int]
    """The size of the vector at each site."""
    dtype: DType
    shards: tuple[int, ...]
    rows: int
    error: dict[str, float] = Field(default_factory=dict)
    """At each site, the root mean square of what the type lost, over that of the values."""


class Seal(Config):
    """What a shard is and the bytes it consists of; `key` names the store it belongs to."""

    key: str
    n_tokens: int
    n_rows: int
    """How many rows of text it was made from."""
    files: dict[str, FileRecord]
    errors: dict[str, Error] = Field(default_factory=dict)
    """At each site, what the type lost of the shard's first lines."""

    def to_bytes(self) -> bytes:
        """Write the seal as JSON with a checksum of itself."""
        tree = self.model_dump(mode="json")
        return (json.dumps({**tree, "checksum": digest_of(tree)}, indent=1) + "\n").encode()

    @classmethod
    def read(cls, shard: Place) -> Self:
        """Read a shard's seal: Incomplete if it has none, Corrupt if a byte of it has changed."""
        place = shard / SEAL
        if not place.is_file():
            raise Incomplete(str(shard), f"has no {SEAL}", _REMEDY)
        data = b"".join(place.pieces())
        try:
            seal = cls.model_validate_json(json.dumps(_without_checksum(data)))
        except ValueError as error:
            raise Corrupt(str(place), "is not a seal", _REMEDY) from error
        if seal.to_bytes() != data:
            raise Corrupt(str(place), "does not match its own checksum", _REMEDY)
        return seal


def _without_checksum(data: bytes) -> dict[str, Any]:
    tree = json.loads(data)
    if not isinstance(tree, dict):
        raise ValueError("not an object")
    return {key: value for key, value in tree.items() if key != "checksum"}


def shard_name(number: int) -> str:
    """Name a shard's folder.

    >>> shard_name(7)
    'shard-00007'
    """
    return f"shard-{number:05}"


def is_shard(name: str) -> bool:
    """Say whether a folder of that name is a shard's."""
    return _SHARD.fullmatch(name) is not None


def site_file(site: Site | str) -> str:
    """Name the file that holds a site's activations within a shard."""
    return f"{site}.safetensors"


def shards_in(store: Place) -> Iterator[tuple[int, Place]]:
    """Yield number and folder of every shard, sealed or not, in order of their numbers."""
    found = ((_SHARD.fullmatch(place.name), place) for place in store.children())
    yield from sorted(((int(match[1]), place) for match, place in found if match), key=_number)


def _number(shard: tuple[int, Place]) -> int:
    return shard[0]


def whole_seal(shard: Place) -> Seal:
    """Read a shard's seal and check every file of the shard against it.

    Raises Incomplete for no seal, Corrupt for a file that is not as it was written.
    """
    seal = Seal.read(shard)
    for name, record in seal.files.items():
        problem = problem_with(shard / name, record)
        if problem is not None:
            raise problem
    return seal


def discard(shard: Place) -> None:
    """Remove a shard, its seal first, so that a kill leaves it unsealed."""
    (shard / SEAL).remove()
    shard.remove()
