"""A folder in shared memory that the readers of a store have in common, and that outlives none.

    /dev/shm/panscope-<user>-<digest of the store's manifest>/
      reader-1f0a63c2      one a reader, locked while it lives: its `Progress`
      00012.resid_post.3   the tokens of shard 12 and its vectors at one site: an entry
      .00013.resid_post.3  the same while it is being filled, locked by the reader that fills it

All locks are the kernel's (flock): they end with the process that holds them, however it ends. So a
file that nobody has locked, but for entries, was left by a dead process, and whoever finds it
removes it. All looking and changing is done `alone`; reading and filling are not.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Self

from panscope.config import Config, digest_of
from panscope.errors import PanscopeError, Unsupported
from panscope.files import Manifest
from panscope.store.shuffle import permutation

MEMORY = Path("/dev/shm")
PREFIX = f"panscope-{os.geteuid()}-"
WITHOUT = "set store.shared_gb = 0 and store.join = false"
RECORD_BYTES = 1 << 16  # every progress fits, so that each is written over the one before it


class Progress(Config):
    """Where a reader is in the order of shards that `seed` draws: at the one numbered `visit`."""

    sites: tuple[str, ...]
    seed: int
    visit: int
    since: float
    """When it came there, on the clock that all processes share."""
    pace_seconds: float = 0.0
    """How long its last visit took."""

    def to(self, visit: int, now: float) -> Self:
        """Return the progress of the same reader when it comes to another visit."""
        change = {"visit": visit, "since": now, "pace_seconds": now - self.since}
        return self.model_copy(update=change)

    def seconds_until(self, shard: int, n_shards: int, now: float, first: int = -1) -> float:
        """Estimate when this reader needs a shard; 0 if it may have it in use.

        That is the one before, too, which may be in use while this one is read ahead: `first`, a
        visit relative to the present one, is where the search begins. A reader that stands still
        needs nothing soon.
        """
        begin = max(0, self.visit + first)
        visits = begin - self.visit + visits_until(shard, self.seed, begin, n_shards)
        return max(self.pace_seconds, now - self.since) * max(0, visits)


def visits_until(shard: int, seed: int, visit: int, n_shards: int) -> int:
    """Count the visits, from one of the order that `seed` draws, until that of a shard."""
    epoch, done = divmod(visit, n_shards)
    turn = _order(seed, epoch, n_shards).index(shard)
    if turn >= done:
        return turn - done
    return n_shards - done + _order(seed, epoch + 1, n_shards).index(shard)


def shard_at(visit: int, seed: int, n_shards: int) -> int:
    """Return the number of the shard that is visited then."""
    epoch, done = divmod(visit, n_shards)
    return _order(seed, epoch, n_shards)[done]


@lru_cache(maxsize=64)
def _order(seed: int, epoch: int, n_shards: int) -> list[int]:
    order: list[int] = permutation(seed, epoch, n_shards).tolist()
    return order


@dataclass(frozen=True, slots=True)
class Window:
    """The shared folder of one store, which may or may not be there."""

    folder: Path

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Name the window of a store by all its checksums; Unsupported without shared memory."""
        if not MEMORY.is_dir():
            raise Unsupported(str(MEMORY), "there is no shared memory there", WITHOUT)
        digest = digest_of(manifest.model_dump(mode="json"))
        return cls(MEMORY / f"{PREFIX}{digest[:16]}")

    def make(self) -> None:
        """Make the folder, if it is not there, for this user alone."""
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            found = f"could not be made ({error.strerror})"
            raise PanscopeError(str(self.folder), found, WITHOUT) from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep all others out.

        Raises FileNotFoundError if the folder is not there, or goes while we wait.
        """
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            status = os.fstat(handle)
            if not status.st_nlink:
                raise FileNotFoundError(errno.ENOENT, "was removed", str(self.folder))
            if status.st_uid != os.geteuid():
                raise PanscopeError(str(self.folder), "belongs to another user", "remove it")
            yield
        finally:
            os.close(handle)

    def register(self, progress: Progress) -> FileIO:
        """Make a reader's file; the reader lives until this is closed."""
        file = locked(self.folder / f"reader-{secrets.token_hex(4)}", RECORD_BYTES)
        record(file, progress)
        return file

    def readers(self) -> dict[str, Progress]:
        """Return how far the living readers are, by their files; remove what dead ones left."""
        for part in self.folder.glob(".*"):
            alive(part)
        living = [path for path in self.folder.glob("reader-*") if alive(path)]
        texts = {str(path): path.read_bytes().strip(b"\0 ") for path in living}
        # A reader that is being killed may still hold the file that it has not written yet.
        return {name: Progress.model_validate_json(text) for name, text in texts.items() if text}

    def entries(self) -> list[Path]:
        """List the shards' files that are filled."""
        return sorted(self.folder.glob("[0-9]*"))

    def used_bytes(self) -> int:
        """Add up the entries, with those that are being filled."""
        return sum(path.stat().st_size for path in [*self.entries(), *self.folder.glob(".*")])

    def room_bytes(self) -> int:
        """Return how large the window can be in the memory there is."""
        return shutil.disk_usage(self.folder).free + self.used_bytes()

    def remove_if_left(self) -> None:
        """Remove the folder if no reader lives."""
        with suppress(FileNotFoundError), self.alone():
            if not self.readers():
                shutil.rmtree(self.folder)


def remove_leftovers() -> None:
    """Remove the windows, of whatever store, whose readers were all killed."""
    for folder in MEMORY.glob(f"{PREFIX}*"):
        Window(folder).remove_if_left()


def record(file: FileIO, progress: Progress) -> None:
    """Write a reader's progress into its file."""
    os.pwrite(file.fileno(), progress.model_dump_json().encode().ljust(RECORD_BYTES), 0)


def locked(path: Path, size_bytes: int) -> FileIO:
    """Make a file of this size that is locked until it is closed."""
    file = FileIO(str(path), "x")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.truncate(size_bytes)
    return file


def alive(path: Path) -> bool:
    """Say whether somebody has a file locked; remove it if nobody has."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    path.unlink()
    return False


def part_of(entry: Path) -> Path:
    """Return the name of an entry while it is being filled."""
    return entry.with_name(f".{entry.name}")
