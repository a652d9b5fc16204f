"""Read a store: check a shard's bytes, map them, and cut batches of any of its sites."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Self

import torch
from safetensors import safe_open
from torch import Tensor

from panscope.errors import ConfigError, NotFound, nearest
from panscope.files import Manifest, checked, read_manifest
from panscope.sites import Site
from panscope.store.layout import ACTIVATIONS, KIND, SEAL, TOKENS, Facts, shard_name, site_file
from panscope.store.shuffle import Batch, Bucket, Pending, Tokens, batches, permutation

Read = Callable[[int, int, tuple[Site, ...]], Bucket]
"""Gives the shard that is visited as the nth of a stream, by its number, at some sites."""


@dataclass(frozen=True)
class Store:
    """A store opened for reading; a file's bytes are checked once, when it is first used."""

    folder: Path
    manifest: Manifest
    _checked: set[str] = field(default_factory=set, repr=False)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a sealed store."""
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

        Raises Corrupt, naming the file, if its bytes are not the ones that were written.
        """
        self._path(number, SEAL)
        values = {site: _tensors(self._path(number, site_file(site))) for site in sites}
        columns = _tensors(self._path(number, TOKENS))
        return Bucket(
            values={site: tensors[ACTIVATIONS] for site, tensors in values.items()},
            tokens=Tokens(columns["ids"], columns["documents"], columns["positions"]),
            order=torch.arange(self.facts.shards[number]),
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
        is the one it was written in. A `batch` beyond the epoch counts on into the next ones.
        `read` gives the shards; `shard` if it is None.
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
        sizes, visits = self.facts.shards, itertools.count()
        for epoch in itertools.count():
            for number in permutation(seed, epoch, len(sizes)).tolist():
                yield Pending(epoch, sizes[number], partial(read, next(visits), number, sites))

    def _read(self, visit: int, number: int, sites: tuple[Site, ...]) -> Bucket:
        return self.shard(number, sites)

    def _path(self, number: int, name: str) -> Path:
        """Return the path of a shard's file, its bytes checked if they have not been yet."""
        file = f"{shard_name(number)}/{name}"
        if file not in self._checked:
            checked(self.folder, self.manifest, file)
            self._checked.add(file)
        return self.folder / file


def _tensors(path: Path) -> dict[str, Tensor]:
    """Map a safetensors file; pages are read when they are used."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
