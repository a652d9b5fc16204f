"""A foreign file of weights, on its way to a Sae: fields taken by name, each checked.

Float16 and bfloat16 are widened, which is exact; float64 is rounded to the float32 that a Suite
holds. What is missing, misshapen or not finite is refused by the name that the file gives it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from panscope.errors import Corrupt, NotFound, Unsupported, nearest
from panscope.sae.sae import Sae
from panscope.stages.exchange import arrays

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
JSON_BYTES = 1 << 24
NAME_LENGTH = 300
LARGEST = 1e12
Facts = Mapping[str, Any]


class Slide(NamedTuple):
    """A Sae as it was found, and what its file says of it besides."""

    sae: Sae
    facts: Facts


class Ends(NamedTuple):
    """The kinds of site, or whole sites, that the user says a file's Saes read and write."""

    reads: str | None = None
    writes: str | None = None


@dataclass(frozen=True)
class Foreign:
    """A file of weights; `name` is its path below `source`, a folder or a repository's id."""

    path: Path
    name: str
    source: str
    ends: Ends

    @cached_property
    def arrays(self) -> arrays.Arrays:
        """Its arrays by name, as they are."""
        return arrays.read(self.path)

    def has(self, *names: str) -> bool:
        """Whether it has arrays of all these names."""
        return set(names) <= self.arrays.keys()

    def take(self, name: str, *shape: int | None) -> Tensor:
        """Return an array in float32; a None in `shape` is any size."""
        where = f"{self.path}: {name}"
        if name not in self.arrays:
            raise Corrupt(where, "is missing", nearest(name, self.arrays))
        array = self.arrays[name]
        if not isinstance(array, Tensor) or array.dtype not in FLOATS:
            found = f"has the type {getattr(array, 'dtype', type(array).__name__)}"
            raise Unsupported(where, found, "save it in floating point")
        if not _is_shaped(array, shape):
            expected = f"the other arrays ask for {_shown(shape)}"
            raise Corrupt(where, f"has the shape {_shown(array.shape)}", expected)
        taken = array.float().contiguous()
        if not bool(taken.isfinite().all()):
            raise Corrupt(where, "has values that are not finite", arrays.RESTORE)
        return taken

    def count(self, name: str) -> int:
        """Return an array that is one positive whole number."""
        array = self.arrays.get(name)
        if not isinstance(array, Tensor) or array.numel() != 1 or array.is_floating_point():
            raise Corrupt(f"{self.path}: {name}", "is no whole number", arrays.RESTORE)
        if int(array) < 1:
            raise Corrupt(
                f"{self.path}: {name}", f"is {int(array)}", "it counts latents: 1 or more"
            )
        return int(array)

    def json(self, name: str) -> Facts:
        """Read a JSON object beside the file, or at a path from there; empty if there is none."""
        path = self.path.parent / name
        if not path.is_file():
            return {}
        if path.stat().st_size > JSON_BYTES:
            raise Unsupported(str(path), "is larger than 16 MiB", "check that it is a config")
        try:
            tree = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise Corrupt(str(path), f"is not JSON ({error})", arrays.RESTORE) from error
        if not isinstance(tree, dict):
            raise Corrupt(str(path), "is not a JSON object", arrays.RESTORE)
        return tree

    def size(self, config: Facts, key: str) -> int:
        """Return a positive whole number that a config must have."""
        number = self.positive(config, key)
        if number % 1:
            raise Corrupt(f"{self.path.parent}: {key}", f"is {number}", "it must be a whole number")
        return int(number)

    def positive(self, config: Facts, key: str) -> float:
        """Return a positive number that a config must have."""
        where = f"{self.path.parent}: {key}"
        if key not in config:
            raise Corrupt(where, "is missing from the config", nearest(key, config))
        number = number_in(config, key)
        if number is None or number <= 0:
            raise Corrupt(where, f"is {config[key]!r}", "it must be a positive number")
        return number

    def unknown(self, what: str, found: object, known: tuple[str, ...]) -> Unsupported:
        """Return the refusal of a word that the format does not have, or we do not read."""
        return Unsupported(f"{self.path}: {what}", f"is {found!r}", nearest(str(found), known))

    def nameless(self, what: str) -> NotFound:
        """Return the refusal of a file that does not say where it belongs."""
        do = "say it: --site resid_post.12, and --writes for transcoders"
        return NotFound(str(self.path), f"does not say {what}", do)


def _is_shaped(array: Tensor, shape: tuple[int | None, ...]) -> bool:
    return array.ndim == len(shape) and all(
        wanted in (None, found) for wanted, found in zip(shape, array.shape, strict=True)
    )


def _shown(shape: Iterable[int | None]) -> str:
    return f"({', '.join('any' if n is None else str(n) for n in shape)})"


def text_in(config: Facts, key: str) -> str | None:
    """Return a text of a config; None for what is none, or too long to be a name."""
    text = config.get(key)
    return text if isinstance(text, str) and 0 < len(text) <= NAME_LENGTH else None


def number_in(config: Facts, key: str) -> float | None:
    """Return a finite number of a config; None for what is none."""
    number = config.get(key)
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return float(number) if abs(number) < LARGEST else None


def section_in(config: Facts, key: str) -> Facts:
    """Return an object in a config; an empty one for what is none."""
    section = config.get(key)
    return section if isinstance(section, dict) else {}


def centred(b_enc: Tensor, w_enc: Tensor, b_dec: Tensor) -> Tensor:
    """Fold away a decoder bias that is subtracted from the input."""
    return b_enc - b_dec @ w_enc
