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


class Work(NamedTuple):
    """What a store is made from, and where it goes. `inputs` names model and text."""

    config: Config
    model: Model
    rows_from: RowsFrom
    inputs: Mapping[str, str]
    out: Where
    emit: Emit

    @property
    def key(self) -> str:
        """Names the store in the seals of its shards."""
        return files.artefact_digest(self.config.described, self.inputs)


def run(work: Work) -> Manifest:
    """Write the store that a configuration asks for, one shard a bucket.

    A finished store is reused, an unfinished one resumed: whole shards are kept, damaged ones
    written again with a warning. A text of fewer tokens is read once. ConfigError if `out` holds
    another store, or anything else.
    """
    if manifest := _made(work):
        work.emit(Finished(STAGE, 0.0, reused=True))
        return manifest
    started = time.monotonic()
    write(work)
    manifest = _sealed(work)
    work.emit(Finished(STAGE, time.monotonic() - started))
    return manifest


def write(work: Work, share: Share = WHOLE) -> None:
    """Write the shards of a share that `out` still lacks, and no manifest.

    Shards that another process is writing are passed over, and waited for at the end: one whose
    writer has died by then is written here. The text of other shares is counted, not run: 630,000
    tokens a second on two cores.
    """
    if _made(work):
        return
    sites_of(work.config, work.model)  # a name that is wrong is said before anything is touched
    seals, damaged = resume(work.out, work.key, share)
    for problem in damaged:
        work.emit(Warned(STAGE, f"{problem}. Its shard is written again."))
    work.emit(Started(STAGE, work.config.tokens, "tokens"))
    if _write_missing(work, seals, share, wait=False):
        _write_missing(work, seals_in(work.out), share, wait=True)


def seal(work: Work) -> Manifest:
    """Make a store of the shards that all shares have written; Incomplete if one is missing."""
    if manifest := _made(work):
        work.emit(Finished(STAGE, 0.0, reused=True))
        return manifest
    for number, _, _ in _missing(work, seals_in(work.out), WHOLE):
        do = "run harvest again: it writes what is missing"
        raise Incomplete(str(work.out), f"{shard_name(number)} is not written", do)
    manifest = _sealed(work)
    work.emit(Finished(STAGE, 0.0))
    return manifest


def _made(work: Work) -> Manifest | None:
    """Return the manifest of a store whose files are all there, tidied; None if it is to be made.

    ConfigError if `out` holds another one.
    """
    manifest = files.made(work.out, KIND, work.config.described, work.inputs)
    store = Place.of(work.out)
    there = {str(file) for file in store.files_below()} if manifest else ()
    if not (manifest and all(str(store / name) in there for name in manifest.files)):
        return None
    tidy(store)
    return manifest


def _write_missing(work: Work, seals: Mapping[int, Seal], share: Share, wait: bool) -> bool:
    """Write what is not sealed, each shard while the model fills the next one's bucket.

    Returns whether another process was writing some shard; with `wait`, waits for it first.
    """
    any_taken, writing = False, Future[None]()
    writing.set_result(None)
    with ThreadPoolExecutor(1) as thread:
        for number, rows, done in _missing(work, seals, share):
            with ExitStack() as claim:
                shard = Place.of(work.out) / shard_name(number)
                if not claim.enter_context(claimed(shard, wait)):
                    any_taken = True
                elif not (shard / SEAL).is_file():
                    bucket = _filled(work, number, rows, done)
                    writing.result()
                    args = (work, claim.pop_all(), number, bucket, rows)
                    writing = thread.submit(_write, *args)
        writing.result()
    return any_taken


def _filled(work: Work, number: int, rows: Sequence[Rows], done: int) -> Bucket:
    read, sites = _reporting(work, rows, done), sites_of(work.config, work.model)
    return fill(work.config, work.model, sites, read, number, count_tokens(rows))


def _write(work: Work, claim: ExitStack, number: int, bucket: Bucket, rows: Sequence[Rows]) -> None:
    """Write a shard and let go of its claim."""
    n_rows = sum(len(passed.ids) for passed in rows)
    with claim:
        write_shard(work.out, number, bucket, n_rows, work.key, work.config.dtype)


def _missing(
    work: Work, seals: Mapping[int, Seal], share: Share
) -> Iterator[tuple[int, list[Rows], int]]:
    """Yield number and rows of each shard of a share that is not sealed yet.

    With it, how many tokens the share has done. Sealed shards before the first gap are skipped with
    their rows; later ones, and those of other shares, are read past.
    """
    first = next(number for number in itertools.count() if number not in seals)
    before = [seals[number] for number in range(first)]
    read = sum(seal.n_tokens for seal in before)
    done = sum(seal.n_tokens for number, seal in seals.items() if number in share)
    buckets = grouped(work.config, work.rows_from(sum(seal.n_rows for seal in before)))
    for number, rows in enumerate(buckets, first):
        if read >= work.config.tokens:
            return
        wanted = _up_to(work.config.tokens - read, rows)
        read += count_tokens(wanted)
        if number in share and number not in seals:
            yield number, wanted, done
            done += count_tokens(wanted)


def _up_to(wanted_tokens: int, rows: Sequence[Rows]) -> list[Rows]:
    """Take forward passes until they hold `wanted_tokens`."""
    held = itertools.accumulate(count_tokens([passed]) for passed in rows)
    return list(rows[: 1 + sum(n_tokens < wanted_tokens for n_tokens in held)])


def _reporting(work: Work, rows: Iterable[Rows], done: int) -> Iterator[Rows]:
    """Pass rows on, and report each forward pass once it is behind."""
    total = work.config.tokens
    work.emit(Advanced(STAGE, min(done, total)))
    for passed in rows:
        yield passed
        done += count_tokens([passed])
        work.emit(Advanced(STAGE, min(done, total)))


def _sealed(work: Work) -> Manifest:
    seals = seals_in(work.out)
    if not seals:
        raise ConfigError(STAGE, "the text has no rows", "give more text")
    facts = _facts(work, seals)
    if sum(facts.shards) < work.config.tokens:
        text = f"the text has only {sum(facts.shards):,} tokens: all were harvested"
        work.emit(Warned(STAGE, text))
    return seal_store(work.out, seals, work.config.described, work.inputs, facts)


def _facts(work: Work, seals: Mapping[int, Seal]) -> Facts:
    in_order = [seals[number] for number in sorted(seals)]
    sizes = {str(site): work.model.d_at(site) for site in sites_of(work.config, work.model)}
    errors = {s: reduce(Error.merge, (seal.errors[s] for seal in in_order)) for s in sizes}
    return Facts(
        sites=sizes,
        dtype=work.config.dtype,
        shards=tuple(seal.n_tokens for seal in in_order),
        rows=sum(seal.n_rows for seal in in_order),
        error={site: error.relative for site, error in errors.items()},
    )
