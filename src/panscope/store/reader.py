"""Read a store: check a shard's bytes, map them, and cut batches of any of its sites."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Self

from torch import Tensor

from panscope.errors import ConfigError, NotFound, nearest
from panscope.files import Manifest, checked_bytes, read_manifest
from panscope.place import Place, Where, populate
from panscope.sites import Site
from panscope.store.layout import KIND, SEAL, TOKENS, Facts, shard_name, site_file
from panscope.store.precision import decoded
from panscope.store.shuffle import Batch, Bucket, Pending, Tokens, batches, permutation
from panscope.store.tensors import tensors_in

CHECKERS = 2  # files of a shard that are hashed at a time; BLAKE3 takes a core each

Read = Callable[[int, int, tuple[Site, ...]], Bucket]
"""Gives the shard that is visited as the nth of a stream, by its number, at some sites."""


@dataclass(frozen=True)
class Store:
    """A store opened for reading; a file's bytes are checked once, when it is first used.

    Those of a store at a URL are checked whenever they are fetched.
    """

    folder: Place
    manifest: Manifest
    _checked: set[str] = field(default_factory=set, repr=False)

    @classmethod
    def open(cls, where: Where) -> Self:
        """Open a sealed store in a local folder or at a URL; Incomplete while it is written."""
        folder = Place.of(where)
        return cls(folder, read_manifest(folder, KIND))

    @cached_property
    def facts(self) -> Facts:
        """Sites, type and sizes, as the manifest tells them."""
        return Facts.parse(self.manifest.facts, str(self.folder))

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that were harvested, in the order of a forward pass."""
        return tuple(sorted(map(Site.parse, self.facts.sites), key=lambda site: site.order))

    @property
    def n_tokens(self) -> int:
        """How many vectors there are at each site."""
        return sum(self.facts.shards)

    def shard(self, number: int, sites: Iterable[Site]) -> Bucket:
        """Map one shard's vectors at some sites; other sites are neither checked nor read.

        Of int8 they are decoded to float32. Raises Corrupt, naming the file, if its bytes are not
        the ones that were written.
        """
        sites = tuple(sites)
        names = (SEAL, TOKENS, *map(site_file, sites))
        with ThreadPoolExecutor(CHECKERS) as pool:
            _, columns, *values = pool.map(partial(self._tensors, number), names)
        return Bucket(
            values={site: decoded(tensors) for site, tensors in zip(sites, values, strict=True)},
            tokens=Tokens(columns["ids"], columns["documents"], columns["positions"]),
        )

    def refuse_others(self, sites: Iterable[Site]) -> None:
        """Raise NotFound for the first of `sites` that was not harvested."""
        for site in sites:
            if site not in self.sites:
                known = map(str, self.sites)
                raise NotFound(f"store {self.folder}", f"no {site}", nearest(str(site), known))

    def batches_per_epoch(self, batch_tokens: int) -> int:
        """Count the batches of one visit to every shard."""
        return sum(n_tokens // batch_tokens for n_tokens in self.facts.shards)

    def batches_before(self, visit: int, batch_tokens: int, seed: int) -> int:
        """Count the batches of the first `visit` shards that a stream visits."""
        sizes = self.facts.shards
        epoch, done = divmod(visit, len(sizes))
        begun: list[int] = permutation(seed, epoch, len(sizes))[:done].tolist()
        here = sum(sizes[number] // batch_tokens for number in begun)
        return epoch * self.batches_per_epoch(batch_tokens) + here

    def batches(
        self,
        sites: Sequence[Site],
        batch_tokens: int,
        seed: int,
        epoch: int = 0,
        batch: int = 0,
        read: Read | None = None,
    ) -> Iterator[Batch]:
        """Yield batches without end, from batch `batch` of epoch `epoch` on.

        Each epoch visits all shards, in an order drawn from (seed, epoch); within a shard the order
        is the one it was written in. A `batch` beyond the epoch counts on into the next ones. The
        shard after the present one is read meanwhile: by `read`, or `shard` if that is None.
        """
        self.refuse_others(sites)
        per_epoch = self.batches_per_epoch(batch_tokens)
        if not per_epoch:
            found = f"its largest shard has {max(self.facts.shards)} tokens"
            do = f"ask for batches of fewer than {batch_tokens}"
            raise ConfigError(f"store {self.folder}", found, do)
        visits = self._visits(tuple(sites), seed, read or self._read)
        return batches(visits, batch_tokens, epoch * per_epoch + batch)

    def _visits(self, sites: tuple[Site, ...], seed: int, read: Read) -> Iterator[Pending]:
        """Yield the visits to shards; filling one begins to read the next."""
        sizes = self.facts.shards
        with ThreadPoolExecutor(1) as thread:
            ahead = _Ahead(thread, lambda visit, number: read(visit, number, sites))
            order = enumerate(_order(seed, len(sizes)))
            for (visit, (epoch, number)), (_, (_, after)) in itertools.pairwise(order):
                yield Pending(epoch, sizes[number], partial(ahead.read, visit, number, after))

    def _read(self, visit: int, number: int, sites: tuple[Site, ...]) -> Bucket:
        return self.shard(number, sites)

    def _tensors(self, number: int, name: str) -> dict[str, Tensor]:
        """Return a file's tensors, its bytes checked if they have not been yet."""
        file = f"{shard_name(number)}/{name}"
        if file in self._checked:
            data = (self.folder / file).read()
            populate(data)
        else:
            data = checked_bytes(self.folder, self.manifest, file)
            if self.folder.is_local:
                self._checked.add(file)
        return {} if name == SEAL else tensors_in(data)


class _Ahead:
    """Reads one shard ahead, in a thread that ends with the stream."""

    def __init__(self, thread: Executor, read: Callable[[int, int], Bucket]) -> None:
        self._thread = thread
        self._read = read
        self._next: tuple[int, Future[Bucket]] | None = None

    def read(self, visit: int, number: int, after: int) -> Bucket:
        """Return the shard of a visit, and begin to read the one after it."""
        if self._next and self._next[0] == visit:
            bucket = self._next[1].result()
        else:
            bucket = self._read(visit, number)
        self._next = visit + 1, self._thread.submit(self._read, visit + 1, after)
        return bucket


def _order(seed: int, n_shards: int) -> Iterator[tuple[int, int]]:
    """Yield epoch and number of every visit, epoch after epoch."""
    for epoch in itertools.count():
        yield from ((epoch, number) for number in permutation(seed, epoch, n_shards).tolist())
