"""Buckets into the shards of a store: by one process, by several at once, or in shares.

`run` does all. Several processes that run it on one folder claim shards one by one; on other
machines, or by a scheduler, `write` is given a share each, and `seal` comes once at the end.
"""

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import reduce
from typing import NamedTuple

from panscope import files
from panscope.dist import WHOLE, Share
from panscope.errors import ConfigError, Incomplete
from panscope.events import Advanced, Emit, Finished, Started, Warned
from panscope.files import Manifest
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.place import Place, Where
from panscope.stages.harvest.buckets import Config, RowsFrom, count_tokens, fill, grouped, sites_of
from panscope.store.claim import claimed
from panscope.store.layout import KIND, SEAL, Facts, Seal, shard_name
from panscope.store.precision import Error
from panscope.store.shuffle import Bucket
from panscope.store.writer import resume, seal_store, seals_in, tidy, write_shard

STAGE = "harvest"


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
    share: Share = WHOLE,
) -> None:
    """Write the shards of a share that `out` still lacks, and no manifest.

    Shards that another process is writing are passed over, and waited for at the end: one whose
    writer has died by then is written here. The text of other shares is counted, not run: 630,000
    tokens a second on two cores.
    """
    if _finished(config, inputs, out):
        return
    sites_of(config, model)  # a name that is wrong is said before anything is touched
    key = files.artefact_digest(config.model_dump(mode="json"), inputs)
    seals, damaged = resume(out, key, share)
    for problem in damaged:
        emit(Warned(STAGE, f"{problem}. Its shard is written again."))
    emit(Started(STAGE, config.tokens, "tokens"))
    work = _Work(config, model, rows_from, Place.of(out), key, emit)
    if work.write_missing(seals, share, wait=False):
        work.write_missing(seals_in(out), share, wait=True)


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
        emit(Finished(STAGE, 0.0, reused=True))
        return manifest
    for number, _, _ in _missing(config, rows_from, seals_in(out), WHOLE):
        do = "run harvest again: it writes what is missing"
        raise Incomplete(str(out), f"{shard_name(number)} is not written", do)
    manifest = _seal(config, model, inputs, out, emit)
    emit(Finished(STAGE, 0.0))
    return manifest


def _finished(config: Config, inputs: Mapping[str, str], out: Where) -> Manifest | None:
    """Return the manifest of a store of this configuration whose files are all there, tidied."""
    manifest = files.made(out, KIND, config.model_dump(mode="json"), inputs)
    there = {str(file) for file in Place.of(out).files_below()} if manifest else ()
    is_whole = manifest and all(str(Place.of(out) / name) in there for name in manifest.files)
    if not is_whole:
        return None
    tidy(out)
    return manifest


class _Work(NamedTuple):
    """What the shards of a store are made from, and where they go."""

    config: Config
    model: Model
    rows_from: RowsFrom
    store: Place
    key: str
    emit: Emit

    def write_missing(self, seals: Mapping[int, Seal], share: Share, wait: bool) -> bool:
        """Write what is not sealed, each shard while the model fills the next one's bucket.

        Returns whether another process was writing some shard; with `wait`, waits for it first.
        """
        any_taken, writing = False, Future[None]()
        writing.set_result(None)
        with ThreadPoolExecutor(1) as thread:
            for number, rows, done in _missing(self.config, self.rows_from, seals, share):
                with ExitStack() as claim:
                    shard = self.store / shard_name(number)
                    if not claim.enter_context(claimed(shard, wait)):
                        any_taken = True
                    elif not (shard / SEAL).is_file():
                        bucket = self._filled(number, rows, done)
                        writing.result()
                        args = (claim.pop_all(), number, bucket, rows)
                        writing = thread.submit(self._write, *args)
            writing.result()
        return any_taken

    def _filled(self, number: int, rows: Sequence[Rows], done: int) -> Bucket:
        read = _reporting(rows, done, self.config.tokens, self.emit)
        sites = sites_of(self.config, self.model)
        return fill(self.config, self.model, sites, read, number, count_tokens(rows))

    def _write(self, claim: ExitStack, number: int, bucket: Bucket, rows: Sequence[Rows]) -> None:
        """Write a shard and let go of its claim."""
        n_rows = sum(len(passed.ids) for passed in rows)
        with claim:
            write_shard(self.store, number, bucket, n_rows, self.key, self.config.dtype)


def _seal(
    config: Config, model: Model, inputs: Mapping[str, str], out: Where, emit: Emit
) -> Manifest:
    seals = seals_in(out)
    if not seals:
        raise ConfigError("harvest", "the text has no rows", "give more text")
    facts = _facts(config, model, seals)
    if sum(facts.shards) < config.tokens:
        emit(Warned(STAGE, f"the text has only {sum(facts.shards):,} tokens: all were harvested"))
    return seal_store(out, seals, config.model_dump(mode="json"), inputs, facts)


def _missing(
    config: Config, rows_from: RowsFrom, seals: Mapping[int, Seal], share: Share
) -> Iterator[tuple[int, list[Rows], int]]:
    """Yield number and rows of each shard of a share that is not sealed yet.

    With it, how many tokens the share has done. Sealed shards before the first gap are skipped with
    their rows; later ones, and those of other shares, are read past.
    """
    first = next(number for number in itertools.count() if number not in seals)
    before = [seals[number] for number in range(first)]
    read = sum(seal.n_tokens for seal in before)
    done = sum(seal.n_tokens for number, seal in seals.items() if number in share)
    buckets = grouped(config, rows_from(sum(seal.n_rows for seal in before)))
    for number, rows in enumerate(buckets, first):
        if read >= config.tokens:
            return
        wanted = _up_to(config.tokens - read, rows)
        read += count_tokens(wanted)
        if number in share and number not in seals:
            yield number, wanted, done
            done += count_tokens(wanted)


def _up_to(wanted_tokens: int, rows: Sequence[Rows]) -> list[Rows]:
    """Take forward passes until they hold `wanted_tokens`."""
    held = itertools.accumulate(count_tokens([passed]) for passed in rows)
    return list(rows[: 1 + sum(n_tokens < wanted_tokens for n_tokens in held)])


def _reporting(rows: Iterable[Rows], done: int, total: int, emit: Emit) -> Iterator[Rows]:
    """Pass rows on, and report each forward pass once it is behind."""
    emit(Advanced(STAGE, min(done, total)))
    for passed in rows:
        yield passed
        done += count_tokens([passed])
        emit(Advanced(STAGE, min(done, total)))


def _facts(config: Config, model: Model, seals: Mapping[int, Seal]) -> Facts:
    in_order = [seals[number] for number in sorted(seals)]
    sizes = {str(site): model.d_at(site) for site in sites_of(config, model)}
    return Facts(
        sites=sizes,
        dtype=config.dtype,
        shards=tuple(seal.n_tokens for seal in in_order),
        rows=sum(seal.n_rows for seal in in_order),
        error={
            site: reduce(Error.merge, (s.errors[site] for s in in_order)).relative for site in sizes
        },
    )
