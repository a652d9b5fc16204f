"""Text rows into buckets of activations at many sites, and a live stream of batches from them.

One forward pass feeds all sites; the LM head is not run and special tokens are left out. Rows are
taken in buckets of whole forward passes, so that a bucket is a function of its rows alone: the
stream resumes by counting tokens, and a store resumes after its sealed shards, both to the bit.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from panscope import config
from panscope.errors import ConfigError
from panscope.model import tap
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.sites import Site
from panscope.store.precision import DType, held_as, refuse_overflow
from panscope.store.shuffle import Batch, Bucket, Pending, Tokens, batches, joined, permutation, put

EXACT_LINES = 1024  # of each shard, in which the error is measured: 1 % of the default bucket

RowsFrom = Callable[[int], Iterator[Rows]]
"""Gives text rows, `batch_rows` at a time, from a row number on; only the last may be fewer."""

Count = Annotated[int, Field(gt=0)]


class Config(config.Config):
    """Which activations are read, and in buckets of which size they are shuffled."""

    sites: tuple[str, ...] = ("resid_post.*", "mlp_out.*", "attn_z.*")
    tokens: Count = 1_048_576
    """How many tokens a store holds, to the next forward pass; a live stream has no end."""
    bucket_tokens: Count = 131_072
    """Rounded down, special tokens counted, to whole forward passes, but at least one."""
    batch_rows: Count = 32
    dtype: DType = "bfloat16"
    seed: Annotated[int, Field(ge=0)] = 0


def stream(
    config: Config, model: Model, rows_from: RowsFrom, batch_tokens: int, skip_batches: int = 0
) -> Iterator[Batch]:
    """Yield shuffled batches of exactly `batch_tokens` vectors a site, on the model's device.

    Where the text ends it begins again, its buckets in a new order. Skipping k batches equals
    dropping the first k, to the bit, but runs the model only from the bucket of batch k on.
    Raises ConfigError if an epoch of text, or a bucket, holds no whole batch.
    """
    if config.dtype == "int8":
        do = 'set harvest.dtype = "bfloat16", or source = "store"'
        raise ConfigError("harvest.dtype", "int8 saves space on disk, a live stream has none", do)
    sites = sites_of(config, model)
    return batches(
        _pending(config, model, sites, rows_from, batch_tokens), batch_tokens, skip_batches
    )


def sites_of(config: Config, model: Model) -> tuple[Site, ...]:
    """Find the sites that are harvested, in the order of a forward pass; not the logits."""
    sites = model.sites(config.sites)
    if Site("logits") in sites:
        do = "name other sites"
        raise ConfigError("harvest.sites", "logits would be a whole vocabulary for each token", do)
    for site in sites:
        model.d_at(site)  # refuses what has no vector for each token
    return sites


def _pending(
    config: Config,
    model: Model,
    sites: Sequence[Site],
    rows_from: RowsFrom,
    batch_tokens: int,
) -> Iterator[Pending]:
    """Yield the text's buckets, epoch after epoch, numbered through."""
    numbers = itertools.count()
    for epoch in itertools.count():
        n_tokens = []
        for rows in grouped(config, rows_from(0)):
            n_tokens.append(count_tokens(rows))
            args = (config, model, sites, rows, next(numbers), n_tokens[-1])
            yield Pending(epoch, n_tokens[-1], partial(fill, *args))
        if max(n_tokens, default=0) < batch_tokens:
            found = f"no bucket of the text's {sum(n_tokens):,} tokens fills a batch"
            do = (
                f"raise harvest.bucket_tokens, give more text, or lower batch_tokens={batch_tokens}"
            )
            raise ConfigError("harvest", found, do)


def grouped(config: Config, passes: Iterator[Rows]) -> Iterator[list[Rows]]:
    """Group forward passes into buckets; the text's last one may be smaller."""
    for first in passes:
        pass_tokens = config.batch_rows * first.ids.shape[1]
        n_more = max(1, config.bucket_tokens // pass_tokens) - 1
        yield [first, *itertools.islice(passes, n_more)]


def count_tokens(rows: Iterable[Rows]) -> int:
    """Count tokens that are not special."""
    return sum(int(passed.mask.sum()) for passed in rows)


@torch.no_grad()
def fill(
    config: Config,
    model: Model,
    sites: Sequence[Site],
    rows: Iterable[Rows],
    number: int,
    n_tokens: int,
) -> Bucket:
    """Run the model over a bucket's rows and put the values at all sites on their lines."""
    order = permutation(config.seed, number, n_tokens)
    lines = torch.empty_like(order)
    lines[order] = torch.arange(n_tokens)
    values = _empty(model, sites, n_tokens, held_as(config.dtype))
    exact = _empty(model, sites, min(n_tokens, EXACT_LINES), torch.float32)
    columns, end = [], 0
    for passed in rows:
        start, end = end, end + count_tokens([passed])
        kept = passed.mask.flatten().nonzero().squeeze(1)
        first = lines[start:end] < EXACT_LINES
        for site, value in tap.run(model, passed.ids, read=sites).values.items():
            vectors = value.flatten(0, 1)
            put(values[site], lines[start:end], vectors, kept)
            exact[site][lines[start:end][first]] = vectors[kept[first]].float()
        columns.append(_tokens(passed).take(kept))
    for site in sites:
        refuse_overflow(site, values[site])
    return Bucket(values, joined(columns).take(order), exact)


def _empty(
    model: Model, sites: Sequence[Site], n_tokens: int, dtype: torch.dtype
) -> dict[Site, Tensor]:
    device = model.device
    return {s: torch.empty(n_tokens, model.d_at(s), dtype=dtype, device=device) for s in sites}


def _tokens(rows: Rows) -> Tokens:
    """Say where each token of a forward pass comes from."""
    positions = torch.arange(rows.ids.shape[1]).expand_as(rows.ids)
    columns = (rows.ids, rows.documents, positions)
    return Tokens(*(column.to("cpu", torch.int32).flatten() for column in columns))
