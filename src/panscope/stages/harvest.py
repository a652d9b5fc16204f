"""Read activations at many sites of a model: a live stream of shuffled batches, or a Store.

One forward pass feeds all sites; the LM head is not run and special tokens are left out. Text rows
are taken in buckets of whole forward passes, so that a bucket is a function of its rows alone: the
stream resumes by counting tokens, and a store resumes after its sealed shards, both to the bit.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from panscope import config, files
from panscope.dist import WHOLE, Share
from panscope.errors import ConfigError
from panscope.events import Advanced, Emit, Finished, Started, Warned
from panscope.files import Manifest
from panscope.model import tap
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.sites import Site
from panscope.store.layout import KIND, DType, Facts, Seal
from panscope.store.shuffle import Batch, Bucket, Pending, Tokens, batches, joined, permutation
from panscope.store.writer import resume, seal_store, write_shard, written

STAGE = "harvest"

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
    sites = _sites(config, model)
    return batches(
        _pending(config, model, sites, rows_from, batch_tokens), batch_tokens, skip_batches
    )


def run(
    config: Config,
    model: Model,
    rows_from: RowsFrom,
    inputs: Mapping[str, str],
    out: Path,
    emit: Emit,
) -> Manifest:
    """Write the store that `config` asks for to `out`, one shard a bucket.

    `inputs` names model and text. A finished store is reused, an unfinished one resumed: whole
    shards are kept, damaged ones written again with a warning. A text of fewer tokens is read once.
    ConfigError if `out` holds another store, or anything else.
    """
    started = time.monotonic()
    if manifest := _finished(config, inputs, out):
        emit(Finished(STAGE, 0.0, reused=True))
        return manifest
    write(config, model, rows_from, inputs, out, emit)
    manifest = _seal(config, model, inputs, out, emit)
    emit(Finished(STAGE, time.monotonic() - started))
    return manifest


def write(
    config: Config,
    model: Model,
    rows_from: RowsFrom,
    inputs: Mapping[str, str],
    out: Path,
    emit: Emit,
    share: Share = WHOLE,
) -> None:
    """Write the shards of a share that `out` still lacks; several processes may, one share each.

    The text of other shares is counted, not run: 630,000 tokens a second on two cores.
    """
    if _finished(config, inputs, out):
        return
    sites = _sites(config, model)
    key = _key(config, inputs)
    seals, damaged = resume(out, key, share)
    for problem in damaged:
        emit(Warned(STAGE, f"{problem}. Its shard is written again."))
    emit(Started(STAGE, config.tokens, "tokens"))
    for number, rows, done in _missing(config, rows_from, seals, share):
        read = _reporting(rows, done, config.tokens, emit)
        n_rows = sum(len(passed.ids) for passed in rows)
        fill = partial(_fill, config, model, sites, read, number, _n_tokens(rows))
        write_shard(out, number, fill(), n_rows, key)


def seal(
    config: Config, model: Model, inputs: Mapping[str, str], out: Path, emit: Emit
) -> Manifest:
    """Make the shards that all shares wrote a store, once all are written."""
    if manifest := _finished(config, inputs, out):
        emit(Finished(STAGE, 0.0, reused=True))
        return manifest
    manifest = _seal(config, model, inputs, out, emit)
    emit(Finished(STAGE, 0.0))
    return manifest


def _seal(
    config: Config, model: Model, inputs: Mapping[str, str], out: Path, emit: Emit
) -> Manifest:
    seals = written(out, _key(config, inputs))
    if not seals:
        raise ConfigError("harvest", "the text has no rows", "give more text")
    facts = _facts(config, model, seals)
    if sum(facts.shards) < config.tokens:
        emit(Warned(STAGE, f"the text has only {sum(facts.shards):,} tokens: all were harvested"))
    return seal_store(out, seals, config.model_dump(mode="json"), inputs, facts)


def _finished(config: Config, inputs: Mapping[str, str], out: Path) -> Manifest | None:
    """Return the manifest of the store if it is sealed and no file of it is missing."""
    manifest = files.made(out, KIND, config.model_dump(mode="json"), inputs)
    if manifest and all((out / name).is_file() for name in manifest.files):
        return manifest
    return None


def _key(config: Config, inputs: Mapping[str, str]) -> str:
    return files.artefact_digest(config.model_dump(mode="json"), inputs)


def _sites(config: Config, model: Model) -> tuple[Site, ...]:
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
    config: Config, rows_from: RowsFrom, seals: Mapping[int, Seal], share: Share
) -> Iterator[tuple[int, list[Rows], int]]:
    """Yield number and rows of each shard of a share that is not sealed yet.

    With it, how many tokens the share has done. Sealed shards before the first gap are skipped with
    their rows; later ones, and those of other shares, are read past.
    """
    first = next(number for number in itertools.count() if number not in seals)
    before = [seals[number] for number in range(first)]
    done = read = sum(seal.n_tokens for seal in before)
    done += sum(seal.n_tokens for number, seal in seals.items() if number > first)
    buckets = _buckets(config, rows_from(sum(seal.n_rows for seal in before)))
    for number, rows in enumerate(buckets, first):
        if read >= config.tokens:
            return
        wanted = _up_to(config.tokens - read, rows)
        read += _n_tokens(wanted)
        if number in share and number not in seals:
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
    """Run the model over a bucket's rows and keep the values at all sites."""
    dtype = getattr(torch, config.dtype)
    values = {
        site: torch.empty(n_tokens, model.d_at(site), dtype=dtype, device=model.device)
        for site in sites
    }
    columns, end = [], 0
    for passed in rows:
        start, end = end, end + _n_tokens([passed])
        kept = passed.mask.flatten().nonzero().squeeze(1).to(model.device)
        for site, value in tap.run(model, passed.ids, read=sites).values.items():
            values[site][start:end] = value.flatten(0, 1)[kept]
        columns.append(_tokens(passed, model.device).take(kept))
    order = permutation(config.seed, number, n_tokens).to(model.device)
    return Bucket(values, joined(columns), order)


def _tokens(rows: Rows, device: torch.device) -> Tokens:
    """Say where each token of a forward pass comes from."""
    positions = torch.arange(rows.ids.shape[1]).expand_as(rows.ids)
    columns = (rows.ids, rows.documents, positions)
    return Tokens(*(column.to(device, torch.int32).flatten() for column in columns))


def _facts(config: Config, model: Model, seals: Mapping[int, Seal]) -> Facts:
    in_order = [seals[number] for number in sorted(seals)]
    return Facts(
        sites={str(site): model.d_at(site) for site in _sites(config, model)},
        dtype=config.dtype,
        shards=tuple(seal.n_tokens for seal in in_order),
        rows=sum(seal.n_rows for seal in in_order),
    )
