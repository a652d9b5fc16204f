"""The seeded shuffle that live streams and stores share: buckets, and batches cut from them.

A *bucket* holds the activation vectors of a run of text rows, in an order drawn from (seed, the
bucket's number); a shard of a store is such a bucket on disk. Only whole batches are cut: what is
left of a bucket, less than a batch, is dropped. So no batch spans two buckets, and a stream resumes
anywhere by counting tokens and filling one bucket, with no saved buffer.

Vectors are put in their place when a bucket is filled, while they are still in the processor's
cache: a batch is then a slice, and nothing is gathered.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from panscope.axes import Activations
from panscope.sites import Site

Column = Int[Tensor, " tokens"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Where vectors come from: token id, document, and position in the row (0 is its BOS)."""

    ids: Column
    documents: Column
    positions: Column

    def take(self, index: Column | slice) -> Self:
        """Pick tokens by number."""
        return type(self)(self.ids[index], self.documents[index], self.positions[index])

    def copy(self) -> Self:
        """Copy the columns."""
        return type(self)(self.ids.clone(), self.documents.clone(), self.positions.clone())


def joined(parts: Sequence[Tokens]) -> Tokens:
    """Put tokens one after another."""
    columns = ("ids", "documents", "positions")
    return Tokens(*(torch.cat([getattr(part, name) for part in parts]) for name in columns))


@dataclass(frozen=True, slots=True)
class Bucket:
    """The vectors of the same tokens at several sites, in the order in which they are handed out.

    `exact` holds the first of them in float32, where a store's error is measured.
    """

    values: dict[Site, Activations]
    tokens: Tokens
    exact: dict[Site, Float[Tensor, "_ d_in"]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """Vectors of the same tokens at several sites; `number` counts the batches before this one.

    `epoch` counts how often the text, or the store, was begun again. The tensors are slices of a
    bucket: who keeps a batch keeps its bucket in memory.
    """

    values: dict[Site, Activations]
    tokens: Tokens
    epoch: int
    number: int


@dataclass(frozen=True, slots=True)
class Pending:
    """A bucket that is known by its size, and filled only if a batch of it is wanted."""

    epoch: int
    n_tokens: int
    fill: Callable[[], Bucket]


def permutation(seed: int, number: int, size: int) -> Column:
    """Draw the order of bucket `number`, or the order of shards in epoch `number`."""
    return torch.from_numpy(np.random.default_rng((seed, number)).permutation(size))


def put(values: Tensor, lines: Tensor, vectors: Tensor, kept: Tensor) -> None:
    """Copy some vectors to their lines.

    On a CPU numpy moves whole rows, where torch (2.13) takes value by value, three times as long.
    """
    if values.is_cpu:
        _rows(values)[lines.numpy()] = _rows(vectors.to(values.dtype))[kept.numpy()]
    else:
        kept, lines = kept.to(values.device), lines.to(values.device)
        values.index_copy_(0, lines, vectors[kept].to(values.dtype))


def _rows(matrix: Tensor) -> Any:
    """View each row of a matrix as one item of its bytes."""
    row = np.dtype((np.void, matrix.shape[1] * matrix.element_size()))
    return matrix.contiguous().view(torch.uint8).numpy().view(row)[:, 0]


def batches(buckets: Iterable[Pending], batch_tokens: int, skip_batches: int) -> Iterator[Batch]:
    """Cut buckets into batches, from batch `skip_batches` on; earlier buckets stay unfilled.

    One bucket is held at a time: it is released before the next is filled.
    """
    number = 0
    for pending in buckets:
        end = number + pending.n_tokens // batch_tokens
        if skip_batches < end:
            yield from _cut(pending, batch_tokens, number, max(0, skip_batches - number))
        number = end


def _cut(pending: Pending, batch_tokens: int, number: int, first: int) -> Iterator[Batch]:
    """Yield a bucket's batches from its batch `first` on; `number` is that of its batch 0.

    The last is a copy: a loop still holds it while the next bucket is filled, and would hold two.
    """
    bucket = pending.fill()
    end = pending.n_tokens // batch_tokens
    for k in range(first, end):
        lines = slice(k * batch_tokens, (k + 1) * batch_tokens)
        values = {site: value[lines] for site, value in bucket.values.items()}
        batch = Batch(values, bucket.tokens.take(lines), pending.epoch, number + k)
        yield batch if k + 1 < end else _copy(batch)


def _copy(batch: Batch) -> Batch:
    values = {site: value.clone() for site, value in batch.values.items()}
    return replace(batch, values=values, tokens=batch.tokens.copy())
