"""Place: where a file or folder is, on this machine or at any URL that fsspec knows.

On this machine a file is written under another name, synced and renamed, and read by mapping it. At
a URL (`s3://`, `gs://`, `memory://`) it is put whole, which object stores make atomic, and fetched
whole. All else is the same, so that nothing above needs to know which it is.
"""

import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from fsspec import AbstractFileSystem, available_protocols
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from panscope.errors import ConfigError, PanscopeError, nearest

Buffer = bytes | bytearray | memoryview | mmap.mmap
Where = Union[Path, str, "Place"]
"""A local path, or the text of a path or URL."""

MAPPED_BYTES = 1 << 26  # of a mapping, had in memory at a time
FETCHED_BYTES = 1 << 26  # asked of an object store at a time

_MADV_POPULATE_READ = 22  # Python has no name for it yet
_LOCAL = LocalFileSystem()
_INSTALL = {"s3": "run pip install 'panscope[s3]'", "gs": "run pip install gcsfs"}


@dataclass(frozen=True, slots=True)
class Place:
    """A file or a folder that may or may not exist."""

    files: AbstractFileSystem
    path: str

    @classmethod
    def of(cls, where: Where) -> "Place":
        """Find the place of a path or URL; ConfigError for a protocol that cannot be used."""
        if isinstance(where, Place):
            return where
        if isinstance(where, Path) or "://" not in where:
            return cls(_LOCAL, str(where))
        return cls(*_connected(where))

    def __truediv__(self, name: str) -> "Place":
        return Place(self.files, f"{self.path}/{name}")

    def __str__(self) -> str:
        return self.path if self.is_local else str(self.files.unstrip_protocol(self.path))

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, where files can be mapped and locked."""
        return isinstance(self.files, LocalFileSystem)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> "Place":
        """The folder that it is in."""
        return Place(self.files, self.path.rstrip("/").rpartition("/")[0])

    def is_file(self) -> bool:
        """Whether there is a file."""
        with _explained(self, "could not be reached"):
            return bool(self.files.isfile(self.path))

    def is_folder(self) -> bool:
        """Whether there is a folder; at an object store, whether any name begins with it."""
        with _explained(self, "could not be reached"):
            return bool(self.files.isdir(self.path))

    def size_bytes(self) -> int:
        """Return a file's size."""
        with _explained(self, "could not be read"):
            return int(self.files.size(self.path))

    def children(self) -> list["Place"]:
        """List what is in a folder, in order of names; nothing if there is no folder."""
        if not self.is_folder():
            return []
        with _explained(self, "could not be listed"):
            found = (Place(self.files, str(path)) for path in self.files.ls(self.path, False))
        return sorted((self / place.name for place in found), key=lambda place: place.path)

    def files_below(self) -> list["Place"]:
        """List the files of a folder and of all folders in it."""
        with _explained(self, "could not be listed"):
            found = [str(path) for path in self.files.find(self.path)]
        root = str(self.files._strip_protocol(self.path))
        return [self / path[len(root) :].strip("/") for path in sorted(found)]

    def pieces(self) -> Iterator[Buffer]:
        """Yield a file's bytes from first to last, a piece in memory at a time."""
        with _explained(self, "could not be read"):
            if self.is_local:
                yield from pieces_of(_mapped(Path(self.path)))
                return
            end = self.files.size(self.path)
            for start in range(0, end, FETCHED_BYTES):
                stop = min(start + FETCHED_BYTES, end)
                yield self.files.cat_file(self.path, start=start, end=stop)

    def read(self) -> Buffer:
        """Return a file's bytes: a mapping whose pages come when used, or all of them fetched.

        Both can be written to, and neither changes the file by it.
        """
        with _explained(self, "could not be read"):
            return _mapped(Path(self.path)) if self.is_local else self._fetched()

    def write(self, *parts: Buffer) -> None:
        """Write parts one after another as a file, which is there whole or not at all."""
        if self.is_local:
            with replacing(Path(self.path)) as temporary:
                _write(temporary, parts)
            return
        with _explained(self, "could not be written"):
            self.files.pipe_file(self.path, b"".join(parts))

    def remove(self) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""
        with _explained(self, "could not be removed"):
            if self.files.exists(self.path):
                self.files.rm(self.path, recursive=True)

    def _fetched(self) -> bytearray:
        data = bytearray(self.files.size(self.path))
        end = 0
        for piece in self.pieces():
            data[end : end + len(piece)] = piece
            end += len(piece)
        return data


def pieces_of(buffer: Buffer) -> Iterator[memoryview]:
    """Yield a buffer piece by piece; of a mapping, the disk is read ahead meanwhile."""
    view, starts = memoryview(buffer), range(0, len(buffer), MAPPED_BYTES)
    thread = ThreadPoolExecutor(1)
    try:
        filled = [thread.submit(populate, buffer, start, MAPPED_BYTES) for start in starts]
        for start, filling in zip(starts, filled, strict=True):
            filling.result()
            yield view[start : start + MAPPED_BYTES]
    finally:
        thread.shutdown(cancel_futures=True)


def populate(buffer: Buffer, start: int = 0, n_bytes: int = sys.maxsize) -> None:
    """Have pages of a mapping in memory and in this process's tables.

    Asked for together, pages come from the disk, and go into the tables, by the megabyte: 64 MB at
    a time were read as fast as by `read`, 1 MB at a time half as fast.
    """
    if not isinstance(buffer, mmap.mmap):
        return
    n_bytes = min(n_bytes, len(buffer) - start)
    buffer.madvise(mmap.MADV_WILLNEED, start, n_bytes)
    try:
        buffer.madvise(_MADV_POPULATE_READ, start, n_bytes)
    except OSError:  # Linux before 5.14, and other systems, do not know it
        for at in range(start, start + n_bytes, mmap.PAGESIZE):
            buffer[at]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and takes `path`'s name.

    On an exception the temporary file is removed and `path` stays as it was.
    """
    with _named(path) as temporary:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
    with _explained(path, "could not be written"):
        _sync_folder(path.parent)


def write_unsynced(path: Path, parts: Iterable[Buffer]) -> None:
    """Write a file whole or not at all, but do not wait until the disk has it.

    For what can be made again, and is checked before it is used: if the machine stops within half a
    minute, its bytes may be lost under its name. Waiting took four times as long as writing.
    """
    with _named(path) as temporary:
        _write(temporary, parts)


@contextmanager
def _named(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _explained(path, "could not be written"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
        finally:
            if temporary.is_file():
                temporary.unlink()


def remove_halves(folder: Path, pattern: str) -> None:
    """Remove the temporary files among those of a pattern whose writers were killed.

    A writer that is at work, on this machine, keeps its own.
    """
    for path in folder.glob(f"{pattern}.tmp"):
        writer = path.name.split(".")[-2]
        if writer.isdigit() and not _is_running(int(writer)):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name != "posix":  # elsewhere to ask is to end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _connected(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    if protocol not in available_protocols():
        known = ("file", "s3", "gs", "memory")
        raise ConfigError(url, f"unknown protocol {protocol}", nearest(protocol, known))
    try:
        # Listings are not kept: another process may have written since.
        files, path = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        do = _INSTALL.get(protocol, str(error))
        raise ConfigError(url, f"{protocol} needs a library", do) from error
    return files, str(path).rstrip("/")


@contextmanager
def _explained(place: Path | Place, found: str) -> Iterator[None]:
    """Turn what a disk, a network or a store's library raises into one sentence.

    Of a URL that is anything: botocore's failures, for one, are no OSErrors.
    """
    is_local = isinstance(place, Path) or place.is_local
    expected = OSError if is_local else Exception
    do = "check space and permissions" if is_local else "check the network and permissions"
    try:
        yield
    except PanscopeError:
        raise
    except expected as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PanscopeError(str(place), f"{found} ({reason})", do) from error


def _mapped(path: Path) -> Buffer:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return bytearray()  # nothing can be mapped of an empty file
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _write(path: Path, parts: Iterable[Buffer]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for part in parts:
            rest = memoryview(part)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
