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
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from panscope import config
from panscope.axes import TokenIds, TokenMask
from panscope.config import digest_of
from panscope.errors import ConfigError, Corrupt, NotFound, PanscopeError, Unsupported, nearest
from panscope.files import blake3_of
from panscope.model.load import POCKET, Model, first_line, pocket_file

Split = Literal["train", "held_out"]
ENCODE_CHARACTERS = 1_000_000  # at a time: enough to use all cores, and memory stays small
HUB = "hf://"
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
    chosen = _of_split(documents(config), split, config.held_out)
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
    found = [(path.name, blake3_of(path)) for path in _local_files(config.path)]
    return digest_of({"config": config.model_dump(mode="json"), "files": found})


def documents(config: Config) -> Iterator[Document]:
    """Yield the documents of a text in order."""
    if config.path.startswith(HUB):
        yield from _hub(config.path, config.field)
        return
    for path in _local_files(config.path):
        if path.suffix == ".parquet":
            yield from _parquet(path, config.field)
        else:
            with _unpacked(path):
                yield from _txt(path) if path.suffix == ".txt" else _jsonl(path, config.field)


def _local_files(name: str) -> list[Path]:
    """List the files of a text."""
    path = pocket_file("text.jsonl.xz") if name == POCKET else Path(name)
    if name and path.is_dir():
        found = sorted(path.glob("*.txt"))
        if not found:
            raise NotFound(f"text {name}", "the folder has no .txt file", "give a file or a folder")
        return found
    if not path.is_file():
        do = "reinstall panscope" if name == POCKET else "check the path"
        raise NotFound(f"text {name}", f"no file {path.name}".strip(), do)
    if not path.name.endswith(SUFFIXES):
        do = f"give one of {' '.join(SUFFIXES)}, or hf://owner/name"
        raise ConfigError(f"text {name}", f"cannot read {path.suffix or 'nameless'} files", do)
    return [path]


def _txt(path: Path) -> Iterator[Document]:
    yield Document(_utf8(path.read_bytes(), str(path)), "")


def _jsonl(path: Path, field: str) -> Iterator[Document]:
    opener: Any = OPENERS[path.suffix]
    with opener(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{path}:{number}"
                yield _document(_json(_utf8(line, where), where), field, where)


@contextmanager
def _unpacked(path: Path) -> Iterator[None]:
    """Turn the ways in which reading a file fails into sentences."""
    try:
        yield
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        found = f"cannot be unpacked ({error})"
        raise Corrupt(f"text {path}", found, "fetch or make the file again") from error
    except OSError as error:
        do = "check the file and who may read it"
        raise NotFound(f"text {path}", f"cannot be read ({first_line(error)})", do) from error


def _utf8(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"is not UTF-8 at byte {error.start}"
        raise ConfigError(f"text {where}", found, "convert the file to UTF-8") from error


def _json(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        found = f"is not JSON ({error})"
        raise ConfigError(f"text {where}", found, "write one object a line") from error


def _document(record: Any, field: str, where: str) -> Document:
    """Take text and kind out of a record."""
    if not isinstance(record, dict):
        found = f"is a JSON {type(record).__name__}"
        raise ConfigError(f"text {where}", found, "write one object a line")
    if field not in record:
        do = f"set text.field ({nearest(field, record)})"
        raise ConfigError(f"text {where}", f"has no field {field!r}", do)
    text = record[field]
    if not isinstance(text, str):
        found = f"field {field!r} is {type(text).__name__}, not text"
        raise ConfigError(f"text {where}", found, "set text.field to a field of text")
    return Document(_whole_characters(text), str(record.get("kind", "")))


def _whole_characters(text: str) -> str:
    r"""Replace halves of surrogate pairs, which JSON can escape and UTF-8 cannot hold, by U+FFFD.

    Crawled text has them; one must not end a pass over millions of documents.

    >>> _whole_characters("a\ud83d") == "a\ufffd"
    True
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _parquet(path: Path, field: str) -> Iterator[Document]:
    load_dataset = _load_dataset(str(path))
    try:
        records = load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        yield from _from_records(records, field, str(path))
    except PanscopeError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        found = f"cannot be read ({first_line(error)})"
        raise Corrupt(f"text {path}", found, "fetch or make the file again") from error


def _hub(path: str, field: str) -> Iterator[Document]:
    """Stream a data set through the `datasets` library."""
    load_dataset = _load_dataset(path)
    name, _, part = path.removeprefix(HUB).partition(":")
    try:
        records = load_dataset(name, split=part or "train", streaming=True)
        yield from _from_records(records, field, path)
    except PanscopeError:
        raise
    except (OSError, RuntimeError) as error:
        do = "check the name and the network, or give a local file"
        raise NotFound(f"text {path}", f"cannot be read ({first_line(error)})", do) from error
    except ValueError as error:
        do = "name a part that it has: hf://owner/name:split"
        raise ConfigError(f"text {path}", f"cannot be read ({first_line(error)})", do) from error


def _from_records(records: Iterable[Any], field: str, path: str) -> Iterator[Document]:
    for number, record in enumerate(records):
        yield _document(record, field, f"{path}:{number}")


def _load_dataset(path: str) -> Any:
    try:
        import datasets  # an extra, and seconds to import
    except ImportError as error:
        do = "pip install 'panscope[data]'"
        raise Unsupported(f"text {path}", "needs the datasets library", do) from error
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    return datasets.load_dataset


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
