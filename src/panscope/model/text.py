"""Text on its way into a model: documents, tokens, packed rows; everything streams.

    documents   read one by one from .txt, .jsonl(.gz, .xz), .parquet or hf://owner/name[:split]
    split       each document is held out or not by a hash of its number
    rows        documents one after another, each behind its own BOS, cut to `context` tokens; a row
                begins with a BOS even where it cuts a document

Rows are a function of the configuration alone, so a stage that was interrupted skips to where it
was. Special tokens are masked: they train nothing and count in no metric.
"""

import gzip
import hashlib
import json
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from panscope import config
from panscope.axes import TokenIds, TokenMask
from panscope.config import digest_of
from panscope.errors import ConfigError, Corrupt, NotFound, nearest
from panscope.files import sha256_of
from panscope.model.load import POCKET, Model

Split = Literal["train", "held_out"]
ENCODE_DOCUMENTS = 256  # at a time: the tokenizer then uses all cores
OPENERS = {".jsonl": open, ".gz": gzip.open, ".xz": lzma.open}
SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.xz", ".parquet")


class Config(config.Config):
    """Which text, in rows of how many tokens, and how much of it is held out of training."""

    path: str = POCKET
    """A file, a folder of .txt files, hf://owner/name[:split], or "pocket"."""
    field: str = "text"
    context: Annotated[int, Field(ge=2)] = 128
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.05


class Document(NamedTuple):
    """A text and what kind it is said to be."""

    text: str
    kind: str


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


def rows(
    config: Config, model: Model, split: Split, batch: int, skip_rows: int = 0
) -> Iterator[Rows]:
    """Yield batches of up to `batch` packed rows of a split, from row `skip_rows` on.

    The last row, which the text does not fill, is dropped. Raises ConfigError if a split of the
    text does not fill a single row.
    """
    chosen = _of_split(documents(config), split, config.held_out)
    packed = _packed(_encoded(chosen, model), config.context, model.bos_id)
    first = next(packed, None)
    if first is None:
        found = f"the {split} part has less than one row of {config.context} tokens"
        raise ConfigError(f"text {config.path}", found, "give more text or a smaller text.context")
    rest = islice(_chained(first, packed), skip_rows, None)
    while taken := list(islice(rest, batch)):
        yield _stacked(taken, model.special_ids)


def fingerprint(config: Config) -> str:
    """Name a text by its configuration and, where it is here, by its bytes."""
    if config.path.startswith("hf://"):
        return config.digest()
    found = [(path.name, sha256_of(path)) for path in _local_files(config.path)]
    return digest_of({"config": config.model_dump(mode="json"), "files": found})


def documents(config: Config) -> Iterator[Document]:
    """Yield the documents of a text in order."""
    if config.path.startswith("hf://"):
        yield from _hub_documents(config)
        return
    for path in _local_files(config.path):
        if path.suffix == ".txt":
            yield Document(_whole_text(path), "")
        elif path.suffix == ".parquet":
            yield from _parquet_documents(path, config.field)
        else:
            yield from _json_documents(path, config.field)


def _local_files(name: str) -> list[Path]:
    """List the files of a text."""
    path = _pocket_text() if name == POCKET else Path(name)
    if path.is_dir():
        found = sorted(path.glob("*.txt"))
        if not found:
            raise NotFound(f"text {name}", "the folder has no .txt file", "give a file or a folder")
        return found
    if not path.is_file():
        raise NotFound(f"text {name}", "no such file", "check the path")
    if not path.name.endswith(SUFFIXES):
        do = f"give one of {' '.join(SUFFIXES)}, or hf://owner/name"
        raise ConfigError(f"text {name}", f"cannot read {path.suffix or 'this'} files", do)
    return [path]


def _pocket_text() -> Path:
    return Path(str(resources.files("panscope"))) / "model" / "pocket" / "text.jsonl.xz"


def _whole_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error


def _json_documents(path: Path, field: str) -> Iterator[Document]:
    opener: Any = OPENERS[path.suffix]
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _document(_json_line(path, number, line), field, f"{path}:{number}")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error
    except (gzip.BadGzipFile, lzma.LZMAError, EOFError) as error:
        found = f"cannot be unpacked ({error})"
        raise Corrupt(f"text {path}", found, "fetch or make the file again") from error


def _json_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        where = f"text {path}:{number}"
        raise ConfigError(where, f"is not JSON ({error.msg})", "write one object a line") from error


def _document(record: Any, field: str, where: str) -> Document:
    fields = record if isinstance(record, dict) else {}
    text = fields.get(field)
    if not isinstance(text, str):
        found = f"has no text in field {field!r}"
        raise ConfigError(f"text {where}", found, f"set text.field; {nearest(field, fields)}")
    return Document(text, str(fields.get("kind", "")))


def _parquet_documents(path: Path, field: str) -> Iterator[Document]:
    from datasets import load_dataset  # an extra, and seconds to import

    streamed = load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    for number, record in enumerate(streamed):
        yield _document(record, field, f"{path}:{number}")


def _hub_documents(config: Config) -> Iterator[Document]:
    from datasets import load_dataset

    name, _, split = config.path.removeprefix("hf://").partition(":")
    try:
        streamed = load_dataset(name, split=split or "train", streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        found = f"cannot be opened ({str(error).splitlines()[0]})"
        do = "check the name and the network, or give a local file"
        raise NotFound(f"text {config.path}", found, do) from error
    for number, record in enumerate(streamed):
        yield _document(record, config.field, f"{config.path}:{number}")


def _not_utf8(path: Path, error: UnicodeDecodeError) -> ConfigError:
    found = f"is not UTF-8 at byte {error.start}"
    return ConfigError(f"text {path}", found, "convert the file to UTF-8")


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


def _encoded(
    numbered: Iterator[tuple[int, Document]], model: Model
) -> Iterator[tuple[int, str, list[int]]]:
    """Tokenise documents, some hundreds at a time."""
    while part := list(islice(numbered, ENCODE_DOCUMENTS)):
        texts = [document.text for _, document in part]
        encodings = model.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for (number, document), encoding in zip(part, encodings, strict=True):
            yield number, document.kind, encoding.ids


def _packed(
    encoded: Iterator[tuple[int, str, list[int]]], context: int, bos_id: int
) -> Iterator[Row]:
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


def _chained(first: Row, rest: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rest


def _stacked(taken: list[Row], special_ids: frozenset[int]) -> Rows:
    ids = torch.tensor([row.ids for row in taken])
    documents = torch.tensor([row.documents for row in taken])
    mask = ~torch.isin(ids, torch.tensor(sorted(special_ids)))
    return Rows(ids, documents, mask, tuple(row.kind for row in taken))
