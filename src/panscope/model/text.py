"""Text on its way into a model: documents, tokens, packed rows; everything streams.

    documents   read one by one (`documents`)
    split       each document is held out or not by a hash of its number
    rows        documents one after another, each behind its own BOS, cut to `context` tokens; a row
                begins with a BOS even where it cuts a document

Rows are a function of the configuration alone, so a stage that was interrupted skips to where it
was. Special tokens are masked: they train nothing and count in no metric.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from panscope import config
from panscope.axes import TokenIds, TokenMask
from panscope.config import digest_of
from panscope.errors import ConfigError
from panscope.files import blake3_of
from panscope.model.documents import HUB, Document, documents, local_files
from panscope.model.folder import POCKET
from panscope.model.load import Model

Split = Literal["train", "held_out"]
ENCODE_CHARACTERS = 1_000_000  # at a time: enough to use all cores, and memory stays small


class Config(config.Config):
    """Which text, in rows of how many tokens, and how much of it is held out of training."""

    path: str = POCKET
    """A file, a folder of .txt files, hf://owner/name[:split], or "pocket"."""
    field: str = "text"
    context: Annotated[int, Field(ge=2)] = 128
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.05


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of packed rows; `mask` is False on special tokens, `kinds` has one entry a row."""

    ids: TokenIds
    documents: Int[Tensor, "batch position"]
    mask: TokenMask
    kinds: tuple[str, ...]


class Row(NamedTuple):
    """One packed row; its kind is that of the document it begins with."""

    ids: list[int]
    documents: list[int]
    kind: str


class Encoded(NamedTuple):
    """A document's tokens, without BOS."""

    number: int
    kind: str
    ids: list[int]


def rows(
    config: Config, model: Model, split: Split, batch: int, skip_rows: int = 0
) -> Iterator[Rows]:
    """Yield batches of up to `batch` packed rows of a split, from row `skip_rows` on.

    The last row, which the text does not fill, is dropped. Raises ConfigError if a split of the
    text does not fill a single row.
    """
    chosen = _of_split(documents(config.path, config.field), split, config.held_out)
    packed = _packed(_encoded(chosen, model), config.context, model.bos_id)
    first = next(packed, None)
    if first is None:
        found = f"its {split} part does not fill a row of {config.context} tokens"
        do = "give more text, or set a smaller text.context or another text.held_out"
        raise ConfigError(f"text {config.path}", found, do)
    special_ids = torch.tensor(sorted(model.special_ids))
    rest = islice(chain([first], packed), skip_rows, None)
    while taken := list(islice(rest, batch)):
        yield _stacked(taken, special_ids)


def fingerprint(config: Config) -> str:
    """Name a text by its configuration and, where it is here, by its bytes."""
    if config.path.startswith(HUB):
        return config.digest()
    found = [(path.name, blake3_of(path)) for path in local_files(config.path)]
    return digest_of({"config": config.described, "files": found})


def _of_split(
    source: Iterable[Document], split: Split, share: float
) -> Iterator[tuple[int, Document]]:
    """Yield the numbered documents of a split."""
    for number, document in enumerate(source):
        if _is_held_out(number, share) == (split == "held_out"):
            yield number, document


def _is_held_out(number: int, share: float) -> bool:
    drawn = hashlib.sha256(number.to_bytes(8, "big")).digest()[:8]
    return int.from_bytes(drawn, "big") < share * 2**64


def _encoded(numbered: Iterable[tuple[int, Document]], model: Model) -> Iterator[Encoded]:
    """Tokenise documents, many at a time; leave out those without a token."""
    for part in _portions(numbered):
        texts = [document.text for _, document in part]
        encodings = model.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for (number, document), encoding in zip(part, encodings, strict=True):
            if ids := encoding.ids:
                yield Encoded(number, document.kind, ids)


def _portions(
    numbered: Iterable[tuple[int, Document]],
) -> Iterator[list[tuple[int, Document]]]:
    """Group documents into lists of about ENCODE_CHARACTERS."""
    part: list[tuple[int, Document]] = []
    n_characters = 0
    for number, document in numbered:
        part.append((number, document))
        n_characters += len(document.text)
        if n_characters >= ENCODE_CHARACTERS:
            yield part
            part, n_characters = [], 0
    yield part


def _packed(encoded: Iterable[Encoded], context: int, bos_id: int) -> Iterator[Row]:
    """Cut the documents, each behind a BOS, into rows of exactly `context` ids."""
    row = Row([], [], "")
    for number, kind, ids in encoded:
        part, start = [bos_id, *ids], 0
        while start < len(part):
            if not row.ids:
                is_cut = start > 0
                row = Row([bos_id] * is_cut, [number] * is_cut, kind)
            taken = part[start : start + context - len(row.ids)]
            row.ids.extend(taken)
            row.documents.extend([number] * len(taken))
            start += len(taken)
            if len(row.ids) == context:
                yield row
                row = Row([], [], "")


def _stacked(taken: list[Row], special_ids: Int[Tensor, " special"]) -> Rows:
    ids = torch.from_numpy(np.array([row.ids for row in taken]))  # 5x torch.tensor of lists
    documents = torch.from_numpy(np.array([row.documents for row in taken]))
    mask = torch.isin(ids, special_ids, invert=True)
    return Rows(ids, documents, mask, tuple(row.kind for row in taken))
