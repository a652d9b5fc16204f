"""Two sets of prompts, each split in halves: one to find features on, one to test them on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from panscope.errors import ConfigError, NotFound

FEWEST = 8  # a set: four in each half, with which a rank test can say p < 0.03 at best
Tokens = list[int]


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of both sets, those of `a` first; which are of `a`, and which are held out."""

    rows: tuple[Tokens, ...]
    is_a: Bool[Tensor, " prompts"]
    is_test: Bool[Tensor, " prompts"]


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read a set of prompts: a JSON list of texts, or a text file with one a line."""
    if not path.is_file():
        raise NotFound(str(path), "no such file", "give a text file, a prompt a line, or JSON")
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except UnicodeDecodeError as error:
        found = f"is not UTF-8 at byte {error.start}"
        raise ConfigError(str(path), found, "convert the file to UTF-8") from error
    except ValueError as error:
        raise ConfigError(str(path), f"cannot be read ({error})", "correct it") from error
    if not isinstance(found, list) or not all(isinstance(prompt, str) for prompt in found):
        raise ConfigError(str(path), "is no list of texts", 'write ["one prompt", "another"]')
    return tuple(prompt for prompt in found if prompt.strip())


def refuse_few(where: str, prompts: Sequence[object]) -> None:
    """Raise ConfigError for a set that is too small to be halved and tested."""
    if len(prompts) < FEWEST:
        raise ConfigError(where, f"has {len(prompts)} prompts", f"give {FEWEST} or more")


def halved(a: Sequence[Tokens], b: Sequence[Tokens], seed: int) -> Prompts:
    """Draw half of each set to be held out. Raises ConfigError for sets that are too small."""
    for name, rows in (("a", a), ("b", b)):
        refuse_few(f"set {name}", rows)
    generator = torch.Generator().manual_seed(seed)
    halves = [torch.randperm(len(rows), generator=generator) < len(rows) // 2 for rows in (a, b)]
    is_a = torch.cat([torch.ones(len(a)), torch.zeros(len(b))]).bool()
    return Prompts((*a, *b), is_a, torch.cat(halves))
