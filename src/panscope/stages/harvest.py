"""Read activations at many sites of a model: a live stream of shuffled batches, or a Store.

One forward pass feeds all sites; the LM head is not run and special tokens are left out. Text rows
are taken in buckets of whole forward passes, so that a bucket is a function of its rows alone: the
stream resumes by counting tokens, and a store resumes after its sealed shards, both to the bit.

Several processes may harvest one store: `run` in each of them claims shards one by one; or `write`
with a share each, here or on other machines, and then `seal` once.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial, reduce
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from panscope import config, files
from panscope.errors import ConfigError, Incomplete
from panscope.events import Advanced, Emit, Finished, Started, Warned
from panscope.files import Manifest
from panscope.model import tap
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.place import Place, Where
from panscope.sites import Site, match_sites
from panscope.store.claim import claimed
from panscope.store.layout import KIND, SEAL, Facts, Seal, shard_name
from panscope.store.precision import DType, Error, held_as, refuse_overflow
from panscope.store.shuffle import Batch, Bucket, Pending, Tokens, batches, joined, permutation
from panscope.store.writer import resume, seal_store, seals_in, write_shard

STAGE = "harvest"
EXACT_LINES = 1024  # of each shard, in which the error is measured: 1 % of the default bucket

RowsFrom = Callable[[int], Iterator[Rows]]
"""Gives text rows, `batch_rows` at a time, from a row number on; only the last may be fewer."""

Share = tuple[int, int]
"""A rank and the number of ranks: shard n is of rank n modulo that number."""

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
    into: str | None = None
    """The path or URL of the store, if it is not the run folder's `store/`."""

    @property
    def described(self) -> dict[str, Any]:
        """What decides a store's content: not where it is."""
        return self.model_dump(mode="json", exclude={"into"})


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
    sites = _sites(config, model)
    return batches(
        _pending(config, model, sites, rows_from, batch_tokens), batch_tokens, skip_batches
    )


def run(
    config: Config,
    model: Model,
    rows_from: RowsFrom,
    inputs: Mapping[str, str],
    out: Where,
    emit: Emit,
) -> Manifest:
    """Write the store that `config` asks for to `out`, one shard a bucket.

    `inputs` names model and text. A finished store is reused, an unfinished one resumed: whole
    shards are kept, damaged ones written again with a warning. A text of fewer tokens is read once.
    ConfigError if `out` holds another store, or anything else.
    """
    manifest = _finished(config, inputs, out)
    if manifest:
        emit(Finished(STAGE, 0.0, reused=True))
        return manifest
    started = time.monotonic()
    write(config, model, rows_from, inputs, out, emit)
    manifest = _seal(config, model, inputs, out, emit)
    emit(Finished(STAGE, time.monotonic() - started))
    return manifest


def write(
    config: Config,
    model: Model,
    rows_from: RowsFrom,
    inputs: Mapping[str, str],
    out: Where,
    emit: Emit,
    share: Share = (0, 1),
) -> None:
    """Write the shards of a share that `out` still lacks, and no manifest.

    Shards that another process is writing are passed over, and waited for at the end: one whose
    writer has died by then is written here.
    """
    _sites(config, model)
    seals, damaged = resume(out, files.artefact_digest(config.described, inputs))
    for problem in damaged:
        emit(Warned(STAGE, f"{problem}. Its shard is written again."))
    emit(Started(STAGE, config.tokens, "tokens"))
    args = (config, model, rows_from, inputs, Place.of(out), emit, share)
    if _write_missing(*args, seals, wait=False):
        _write_missing(*args, seals_in(out), wait=True)


def seal(
    config: Config,
    model: Model,
    rows_from: RowsFrom,
    inputs: Mapping[str, str],
    out: Where,
    emit: Emit,
) -> Manifest:
    """Make a store of the shards that all shares have written; Incomplete if one is missing."""
    manifest = _finished(config, inputs, out)
    if manifest:
        return manifest
    for number, _, _ in _missing(config, rows_from, seals_in(out)):
        do = "run harvest again: it writes what is missing"
        raise Incomplete(str(out), f"{shard_name(number)} is not written", do)
    return _seal(config, model, inputs, out, emit)


def _finished(config: Config, inputs: Mapping[str, str], out: Where) -> Manifest | None:
    """Return the manifest of a store of this configuration whose files are all there."""
    manifest = files.made(out, KIND, config.described, inputs)
    place = Place.of(out)
    return manifest if manifest and all((place / f).is_file() for f in manifest.files) else None


def _write_missing(
    config: Config,
    model: Model,
    rows_from: RowsFrom,
    inputs: Mapping[str, str],
    store: Place,
    emit: Emit,
    share: Share,
    seals: Mapping[int, Seal],
    wait: bool,
) -> bool:
    """Write what is not sealed, each shard while the model fills the next one's bucket.

    Returns whether another process was writing some shard; with `wait`, waits for it first.
    """
    sites, key = _sites(config, model), files.artefact_digest(config.described, inputs)
    rank, n_shares = share
    any_taken, writing = False, Future[None]()
    writing.set_result(None)
    with ThreadPoolExecutor(1) as thread:
        for number, rows, done in _missing(config, rows_from, seals):
            if number % n_shares != rank:
                continue
            with ExitStack() as claim:
                if not claim.enter_context(claimed(store / shard_name(number), wait)):
                    any_taken = True
                    continue
                if (store / shard_name(number) / SEAL).is_file():
                    continue
                read = _reporting(rows, done, config.tokens, emit)
                bucket = _fill(config, model, sites, read, number, _n_tokens(rows))
                writing.result()
                n_rows = sum(len(passed.ids) for passed in rows)
                args = (store, number, bucket, n_rows, key, config.dtype)
                writing = thread.submit(_write_claimed, claim.pop_all(), *args)
        writing.result()
    return any_taken


def _write_claimed(
    claim: ExitStack, store: Place, number: int, bucket: Bucket, n_rows: int, key: str, dtype: DType
) -> None:
    with claim:
        write_shard(store, number, bucket, n_rows, key, dtype)


def _seal(
    config: Config, model: Model, inputs: Mapping[str, str], out: Where, emit: Emit
) -> Manifest:
    seals = seals_in(out)
    if not seals:
        raise ConfigError("harvest", "the text has no rows", "give more text")
    facts = _facts(config, model, seals)
    if sum(facts.shards) < config.tokens:
        emit(Warned(STAGE, f"the text has only {sum(facts.shards):,} tokens: all were harvested"))
    return seal_store(out, seals, config.described, inputs, facts)


def _sites(config: Config, model: Model) -> tuple[Site, ...]:
    sites = match_sites(config.sites, model.n_layers)
    if Site("logits") in sites:
        do = "name other sites"
        raise ConfigError("harvest.sites", "logits would be a whole vocabulary for each token", do)
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
        for rows in _buckets(config, rows_from(0)):
            n_tokens.append(_n_tokens(rows))
            args = (config, model, sites, rows, next(numbers), n_tokens[-1])
            yield Pending(epoch, n_tokens[-1], partial(_fill, *args))
        if max(n_tokens, default=0) < batch_tokens:
            found = f"no bucket of the text's {sum(n_tokens):,} tokens fills a batch"
            do = (
                f"raise harvest.bucket_tokens, give more text, or lower batch_tokens={batch_tokens}"
            )
            raise ConfigError("harvest", found, do)


def _buckets(config: Config, passes: Iterator[Rows]) -> Iterator[list[Rows]]:
    """Group forward passes into buckets; the text's last one may be smaller."""
    for first in passes:
        pass_tokens = config.batch_rows * first.ids.shape[1]
        n_more = max(1, config.bucket_tokens // pass_tokens) - 1
        yield [first, *itertools.islice(passes, n_more)]


def _missing(
    config: Config, rows_from: RowsFrom, seals: Mapping[int, Seal]
) -> Iterator[tuple[int, list[Rows], int]]:
    """Yield number and rows of each shard that is not sealed yet, and how many tokens precede it.

    Sealed shards before the first gap are skipped with their rows, later ones are read past.
    """
    first = next(number for number in itertools.count() if number not in seals)
    before = [seals[number] for number in range(first)]
    done = sum(seal.n_tokens for seal in before)
    buckets = _buckets(config, rows_from(sum(seal.n_rows for seal in before)))
    for number, rows in enumerate(buckets, first):
        if done >= config.tokens:
            return
        if number in seals:
            done += seals[number].n_tokens
            continue
        wanted = _up_to(config.tokens - done, rows)
        yield number, wanted, done
        done += _n_tokens(wanted)


def _up_to(wanted_tokens: int, rows: Sequence[Rows]) -> list[Rows]:
    """Take forward passes until they hold `wanted_tokens`."""
    held = itertools.accumulate(_n_tokens([passed]) for passed in rows)
    return list(rows[: 1 + sum(n_tokens < wanted_tokens for n_tokens in held)])


def _n_tokens(rows: Iterable[Rows]) -> int:
    """Count tokens that are not special."""
    return sum(int(passed.mask.sum()) for passed in rows)


def _reporting(rows: Iterable[Rows], done: int, total: int, emit: Emit) -> Iterator[Rows]:
    """Pass rows on, and report each forward pass once it is behind."""
    emit(Advanced(STAGE, min(done, total)))
    for passed in rows:
        yield passed
        done += _n_tokens([passed])
        emit(Advanced(STAGE, min(done, total)))


@torch.no_grad()
def _fill(
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
        start, end = end, end + _n_tokens([passed])
        kept = passed.mask.flatten().nonzero().squeeze(1)
        first = lines[start:end] < EXACT_LINES
        for site, value in tap.run(model, passed.ids, read=sites).values.items():
            vectors = value.flatten(0, 1)
            _put(values[site], lines[start:end], vectors, kept)
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


def _put(values: Tensor, lines: Tensor, vectors: Tensor, kept: Tensor) -> None:
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


def _tokens(rows: Rows) -> Tokens:
    """Say where each token of a forward pass comes from."""
    positions = torch.arange(rows.ids.shape[1]).expand_as(rows.ids)
    columns = (rows.ids, rows.documents, positions)
    return Tokens(*(column.to("cpu", torch.int32).flatten() for column in columns))


def _facts(config: Config, model: Model, seals: Mapping[int, Seal]) -> Facts:
    in_order = [seals[number] for number in sorted(seals)]
    sites = [str(site) for site in _sites(config, model)]
    return Facts(
        sites={site: model.d_at(Site.parse(site)) for site in sites},
        dtype=config.dtype,
        shards=tuple(seal.n_tokens for seal in in_order),
        rows=sum(seal.n_rows for seal in in_order),
        error={
            site: reduce(Error.merge, (s.errors[site] for s in in_order)).relative for site in sites
        },
    )
