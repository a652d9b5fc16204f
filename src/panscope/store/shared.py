"""One read of the disk for several trainers: a window of checked shards in shared memory.

Whoever needs a shard first reads it from the store and puts it into the window; the others map it.
Readers say where they are, so the window keeps what is needed soonest (Belady's rule, in seconds).
A reader that lags finds its shards gone, reads the store by itself, and nobody waits for it.

After the shared server of Gemma Scope (Lieberum et al. 2024, arXiv:2408.05147, section 3.3). There
trainers see different data in different orders; here each sees exactly what it would see alone.
"""

import errno
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from time import monotonic, sleep
from typing import Annotated

from pydantic import Field

from panscope import config
from panscope.errors import ConfigError
from panscope.sites import Site
from panscope.store import entry
from panscope.store.reader import Store
from panscope.store.shuffle import Batch, Bucket
from panscope.store.window import (
    Progress,
    Window,
    alive,
    locked,
    part_of,
    record,
    remove_leftovers,
    shard_at,
)

PATIENCE_SECONDS = 60.0  # with a reader that fills; 600 MB at 100 MB/s take it 6
POLL_SECONDS = 0.002


class Config(config.Config):
    """Where a store is, and how a trainer reads it beside others."""

    folder: str | None = None
    """A path, such as another run's `store/`, or a URL; this run's own `store/` if None."""
    shared_gb: Annotated[float, Field(ge=0)] = 0.0
    """Size of the window in shared memory that all who read the store have in common; 0: none."""
    begin: Annotated[int, Field(ge=0)] = 0
    """How many shards of the order are passed over before the first batch."""
    join: bool = False
    """Begin at the shard that others are at, if there are any, instead of at `begin`."""


@dataclass
class Reader:
    """One trainer's way through a store that others read too; made by `reading`."""

    store: Store
    window: Window
    budget_bytes: int
    file: FileIO
    progress: Progress

    def shard(self, visit: int, number: int, sites: Sequence[Site]) -> Bucket:
        """Give a shard as `Store.shard` does; in this reader's order it is the one at `visit`.

        The one given before may still be in use, those before that are taken to be out of use.
        """
        self.progress = self.progress.to(visit, monotonic())
        with self.window.alone():
            record(self.file, self.progress)
        buckets = {site: self._at(number, site) for site in sites}
        values = {site: bucket.values[site] for site, bucket in buckets.items()}
        return replace(buckets[sites[0]], values=values)

    def _at(self, number: int, site: Site) -> Bucket:
        """Give a shard at one site: from the window, through it, or past it."""
        path, impatient = self._path(number, site), monotonic() + PATIENCE_SECONDS
        while monotonic() < impatient:
            with self.window.alone():
                if path.exists():
                    return entry.mapped(path, self.store.facts, number, site)
                if not alive(part_of(path)):
                    part = self._room(number, site)
                    break
            self._help(site)
        else:
            part = None
        return self._filled(part, number, site) if part else self.store.shard(number, [site])

    def _help(self, site: Site) -> None:
        """While another reader fills what we need, fill the next that nobody does; or just wait."""
        with self.window.alone():
            number = self._missing(site)
            part = None if number is None else self._room(number, site)
        if number is None or part is None:
            sleep(POLL_SECONDS)
        else:
            self._filled(part, number, site)

    def _missing(self, site: Site) -> int | None:
        """Return the first shard to come that is neither in the window nor on its way there."""
        n_shards = len(self.store.facts.shards)
        for visit in range(self.progress.visit + 1, self.progress.visit + n_shards):
            number = shard_at(visit, self.progress.seed, n_shards)
            path = self._path(number, site)
            if not path.exists() and not alive(part_of(path)):
                return number
        return None

    def _path(self, number: int, site: Site) -> Path:
        return self.window.folder / f"{number:05}.{site}"

    def _room(self, number: int, site: Site) -> FileIO | None:
        """Make a file to fill, if it has room beside what is needed sooner; None if not.

        Shards that readers are at are needed now, so none that is in use leaves the window.
        """
        path, now = self._path(number, site), monotonic()
        readers = self.window.readers()
        others = [reader for name, reader in readers.items() if name != self.file.name]
        size = entry.size_bytes(self.store.facts, number, site)
        again = self._needed([self.progress], path, now, first=1)
        need = min(again, self._needed(others, path, now))
        entries = self.window.entries()
        held = {other: self._needed(readers.values(), other, now) for other in entries}
        missing, leaving = self.window.used_bytes() + size - self.budget_bytes, []
        for other in sorted(held, key=held.__getitem__, reverse=True):
            if missing > 0 and held[other] > need:
                leaving.append(other)
                missing -= other.stat().st_size
        if missing > 0:
            return None
        for other in leaving:
            other.unlink()
        return locked(part_of(path), size)

    def _needed(
        self, readers: Iterable[Progress], path: Path, now: float, first: int = -1
    ) -> float:
        """Estimate in how many seconds the first of some readers needs an entry."""
        number, _, site = path.name.partition(".")
        n_shards = len(self.store.facts.shards)
        awaiting = (reader for reader in readers if site in reader.sites)
        needed = (reader.seconds_until(int(number), n_shards, now, first) for reader in awaiting)
        return min(needed, default=math.inf)

    def _filled(self, part: FileIO, number: int, site: Site) -> Bucket:
        """Read a shard from the store into the window; where memory is full, past it."""
        path = self._path(number, site)
        with part:
            bucket = self.store.shard(number, [site])
            try:
                entry.write(part, self.store.facts, bucket, site)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                with self.window.alone():
                    part_of(path).unlink()
                return bucket
            with self.window.alone():
                part_of(path).rename(path)
                return entry.mapped(path, self.store.facts, number, site)


def batches(
    store: Store, sites: Sequence[Site], batch_tokens: int, seed: int, batch: int, budget_bytes: int
) -> Iterator[Batch]:
    """Yield what `Store.batches` yields from `batch` on, beside others that read the store.

    Joins them at the first batch and leaves when it is closed.
    """
    with reading(store, sites, seed, budget_bytes) as reader:
        yield from store.batches(sites, batch_tokens, seed, batch=batch, read=reader.shard)


@contextmanager
def reading(store: Store, sites: Sequence[Site], seed: int, budget_bytes: int) -> Iterator[Reader]:
    """Join the readers of a store in a window of at most `budget_bytes`.

    The last reader to leave removes the window. Raises NotFound for a site that the store lacks,
    ConfigError if the budget is less than two shards at these sites, or more than there is.
    """
    store.refuse_others(sites)
    remove_leftovers()
    window = Window.of(store.manifest)
    names = tuple(map(str, sites))
    progress = Progress(sites=names, seed=seed, visit=0, since=monotonic())
    with ExitStack() as leaving:
        leaving.callback(window.remove_if_left)
        file = leaving.enter_context(_registered(store, sites, budget_bytes, window, progress))
        yield Reader(store, window, budget_bytes, file, progress)


def _registered(
    store: Store, sites: Sequence[Site], budget_bytes: int, window: Window, progress: Progress
) -> FileIO:
    """Make the window, if it is not there, and a reader's file in it."""
    while True:
        window.make()
        with suppress(FileNotFoundError), window.alone():  # its last reader may just have left
            _check_budget(store, sites, budget_bytes, window)
            return window.register(progress)


def front(store: Store, seed: int) -> int | None:
    """Return the visit of the reader that is farthest on in an order; None if there is none."""
    window = Window.of(store.manifest)
    with suppress(FileNotFoundError), window.alone():
        visits = [reader.visit for reader in window.readers().values() if reader.seed == seed]
        return max(visits, default=None)
    return None


def _check_budget(store: Store, sites: Sequence[Site], budget_bytes: int, window: Window) -> None:
    numbers = range(len(store.facts.shards))
    sizes = (sum(entry.size_bytes(store.facts, n, site) for site in sites) for n in numbers)
    two_shards, room, there = 2 * max(sizes), window.room_bytes(), window.folder.parent
    if room < two_shards:
        found = f"{there} has {room / 1e9:.3g} free, two shards at the sites that are read take"
        found = f"{found} {two_shards / 1e9:.3g}"
        do = "enlarge shared memory (docker run --shm-size), or set it to 0"
        raise ConfigError("store.shared_gb", found, do)
    if budget_bytes < two_shards:
        found = f"{budget_bytes / 1e9:.3g} is less than two shards at the sites that are read"
        do = f"give {1.01 * two_shards / 1e9:.3g} or, for readers that are apart, more"
        raise ConfigError("store.shared_gb", found, do)
    if budget_bytes > room:
        found = f"{budget_bytes / 1e9:.3g} is more than {there} has free, {room / 1e9:.3g}"
        do = "lower it, or enlarge shared memory (docker run --shm-size)"
        raise ConfigError("store.shared_gb", found, do)
