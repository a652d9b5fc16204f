"""The format of a store: what its files are called, and what makes a shard exist.

    store/
      manifest.json                   every file below, its size and SHA-256; facts: `Facts`
      shard-00000/
        <site>.safetensors            `activations` (tokens, d), bfloat16 or float32
        tokens.safetensors            `ids`, `documents`, `positions` (tokens), int32
        seal.json                     `Seal`, written last

A shard without a seal does not exist. While a store is being written its seals are all there is;
the manifest then takes over their checksums as they were written, never hashing a file again, so
that what decays in between is found and not sealed.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from panscope.config import Config, digest_of
from panscope.errors import Corrupt, Incomplete
from panscope.files import FileRecord, problem_with
from panscope.sites import Site

KIND = "store"
SEAL = "seal.json"
TOKENS = "tokens.safetensors"
ACTIVATIONS = "activations"

DType = Literal["bfloat16", "float32"]
_SHARD = re.compile(r"shard-(\d{5,})")
_REMEDY = "delete that shard's folder and run harvest again"


class Facts(Config):
    """What the manifest says of a store; `shards` are their sizes in tokens, `rows` those read."""

    sites: dict[str, int]
    """The size of the vector at each site."""
    dtype: DType
    shards: tuple[int, ...]
    rows: int


class Seal(Config):
    """What a shard is and the bytes it consists of; `key` names the store it belongs to."""

    key: str
    n_tokens: int
    n_rows: int
    """How many rows of text it was made from."""
    files: dict[str, FileRecord]

    def to_bytes(self) -> bytes:
        """Write the seal as JSON with a checksum of itself."""
        tree = self.model_dump(mode="json")
        return (json.dumps({**tree, "sha256": digest_of(tree)}, indent=1) + "\n").encode()

    @classmethod
    def read(cls, shard: Path) -> Self:
        """Read a shard's seal: Incomplete if it has none, Corrupt if a byte of it has changed."""
        path = shard / SEAL
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise Incomplete(str(shard), f"has no {SEAL}", _REMEDY) from error
        try:
            seal = cls.model_validate(_without_checksum(data))
        except ValueError as error:
            raise Corrupt(str(path), "is not a seal", _REMEDY) from error
        if seal.to_bytes() != data:
            raise Corrupt(str(path), "does not match its own checksum", _REMEDY)
        return seal


def _without_checksum(data: bytes) -> dict[str, Any]:
    tree = json.loads(data)
    if not isinstance(tree, dict):
        raise ValueError("not an object")
    return {key: value for key, value in tree.items() if key != "sha256"}


def shard_name(number: int) -> str:
    """Name a shard's folder.

    >>> shard_name(7)
    'shard-00007'
    """
    return f"shard-{number:05}"


def site_file(site: Site | str) -> str:
    """Name the file that holds a site's activations within a shard."""
    return f"{site}.safetensors"


def shards_in(store: Path) -> Iterator[tuple[int, Path]]:
    """Yield number and folder of every shard, sealed or not, in order of their numbers."""
    found = ((_SHARD.fullmatch(path.name), path) for path in store.glob("shard-*"))
    yield from sorted((int(match[1]), path) for match, path in found if match)


def whole_seal(shard: Path) -> Seal:
    """Read a shard's seal and check every file of the shard against it.

    Raises Incomplete for no seal, Corrupt for a file that is not as it was written.
    """
    seal = Seal.read(shard)
    for name, record in seal.files.items():
        problem = problem_with(shard / name, record)
        if problem is not None:
            raise problem
    return seal


def discard(shard: Path) -> None:
    """Remove a shard, its seal first, so that a kill leaves it unsealed."""
    (shard / SEAL).unlink(missing_ok=True)
    shutil.rmtree(shard)
