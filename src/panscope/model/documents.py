"""Documents of a text, read one by one: .txt, .jsonl(.gz, .xz), .parquet, hf://owner/name[:split]."""

import gzip
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from panscope.errors import ConfigError, Corrupt, NotFound, PanscopeError, Unsupported, nearest
from panscope.model.folder import POCKET, pocket_file
from panscope.model.quiet import first_line

HUB = "hf://"
OPENERS = {".jsonl": open, ".gz": gzip.open, ".xz": lzma.open}
SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.xz", ".parquet")


class Document(NamedTuple):
    """A text and what kind it is said to be."""

    text: str
    kind: str


def documents(path: str, field: str) -> Iterator[Document]:
    """Yield the documents of a text in order; `field` is where a record has them."""
    if path.startswith(HUB):
        yield from _hub(path, field)
        return
    for file in local_files(path):
        if file.suffix == ".parquet":
            yield from _parquet(file, field)
        else:
            with _unpacked(file):
                yield from _txt(file) if file.suffix == ".txt" else _jsonl(file, field)


def local_files(name: str) -> list[Path]:
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
