"""Write a store: shards one by one, each sealed on its own, and the manifest over them all.

A shard depends on nothing but its bucket, so several writers may write the shards of one store.
"""

from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from panscope import files
from panscope.dist import WHOLE, Share
from panscope.errors import ConfigError, Corrupt, Incomplete, PanscopeError
from panscope.files import FileRecord, Manifest
from panscope.place import Place, Where
from panscope.sites import Site
from panscope.store.claim import claimed, sweep
from panscope.store.layout import (
    KIND,
    SEAL,
    TOKENS,
    Facts,
    Seal,
    discard,
    is_shard,
    shard_name,
    shards_in,
    site_file,
    whole_seal,
)
from panscope.store.precision import DType, Error, encoded, lost
from panscope.store.shuffle import Bucket
from panscope.store.tensors import parts_of

WRITERS = 2  # files at a time: one is copied to the kernel while the disk takes the other


def write_shard(
    store: Where, number: int, bucket: Bucket, n_rows: int, key: str, dtype: DType = "bfloat16"
) -> Seal:
    """Write a bucket as a shard, the seal last; return the seal.

    On a failure (a full disk) the shard is removed. The caller holds the shard's claim.
    """
    shard = Place.of(store) / shard_name(number)
    try:
        if shard.is_folder():  # what a writer that was killed has left
            discard(shard)
        with ThreadPoolExecutor(WRITERS) as writing, ThreadPoolExecutor(1) as hashing:
            save = partial(_save_site, shard, bucket, dtype, hashing)
            saved = dict(zip(bucket.values, writing.map(save, bucket.values), strict=True))
            records = {site_file(site): record for site, (record, _) in saved.items()}
            errors = {str(site): error for site, (_, error) in saved.items()}
            records[TOKENS] = _save(shard / TOKENS, _columns(bucket), hashing)
        seal = Seal(
            key=key, n_tokens=len(bucket.tokens.ids), n_rows=n_rows, files=records, errors=errors
        )
        (shard / SEAL).write(seal.to_bytes())
    except PanscopeError:
        discard(shard)
        raise
    return seal


def resume(store: Where, key: str, share: Share = WHOLE) -> tuple[dict[int, Seal], list[Corrupt]]:
    """Return the seals of a share's whole shards in an unfinished store, and what ails its others.

    Damaged shards are removed; unsealed ones may be another writer's and are left to whoever claims
    them. ConfigError, before anything is removed, if the folder belongs to a store of another key,
    or to something else.
    """
    place = Place.of(store)
    _refuse_foreign(place, key)
    had_manifest = (place / files.MANIFEST).is_file()
    seals: dict[int, Seal] = {}
    damaged: list[Corrupt] = []
    for number, shard in shards_in(place):
        if number not in share:
            continue
        try:
            seals[number] = whole_seal(shard)
        except Incomplete:
            continue
        except Corrupt as problem:
            damaged.append(problem)
            _discard_damaged(shard)
    if had_manifest:  # not one that another writer has just finished
        (place / files.MANIFEST).remove()
    return seals, damaged


def _discard_damaged(shard: Place) -> None:
    """Remove a damaged shard, unless another writer has meanwhile mended it."""
    with claimed(shard, wait=True), suppress(Incomplete):
        try:
            whole_seal(shard)
        except Corrupt:
            discard(shard)


def seals_in(store: Where) -> dict[int, Seal]:
    """Read the seals of the shards that are there; their files are not checked."""
    seals = {}
    for number, shard in shards_in(Place.of(store)):
        with suppress(Incomplete):
            seals[number] = Seal.read(shard)
    return seals


def seal_store(
    store: Where,
    seals: Mapping[int, Seal],
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    facts: Facts,
) -> Manifest:
    """Write the manifest that makes sealed shards a store; it takes the checksums of the seals."""
    place = Place.of(store)
    recorded: dict[str, FileRecord] = {}
    for number, seal in sorted(seals.items()):
        name = shard_name(number)
        recorded |= {f"{name}/{file}": record for file, record in seal.files.items()}
        recorded[f"{name}/{SEAL}"] = _record(seal.to_bytes())
    with claimed(place / files.MANIFEST, wait=True):
        sweep(place)
        tree = facts.model_dump(mode="json")
        return files.seal_records(place, KIND, config, inputs, tree, recorded)


def tidy(store: Where) -> None:
    """Remove what writers that were killed have left beside a finished store's files."""
    place = Place.of(store)
    if any(child.name.startswith(".") for child in place.children()):
        with claimed(place / files.MANIFEST, wait=True):
            sweep(place)


def _refuse_foreign(store: Place, key: str) -> None:
    do = "choose another output or delete that folder"
    if store.is_file():
        raise ConfigError(str(store), "is a file", "choose another output")
    for place in store.children():
        is_known = place.name == files.MANIFEST or is_shard(place.name)
        if not is_known and not place.name.startswith("."):
            raise ConfigError(str(store), f"holds {place.name}, which is no part of a store", do)
    for _, shard in shards_in(store):
        try:
            other = Seal.read(shard).key != key
        except (Incomplete, Corrupt):
            continue
        if other:
            raise ConfigError(str(store), "holds a store made from another recipe or input", do)


def _columns(bucket: Bucket) -> dict[str, Tensor]:
    tokens = bucket.tokens
    columns = {"ids": tokens.ids, "documents": tokens.documents, "positions": tokens.positions}
    return {name: column.to(torch.int32) for name, column in columns.items()}


def _save_site(
    shard: Place, bucket: Bucket, dtype: DType, hashing: Executor, site: Site
) -> tuple[FileRecord, Error]:
    """Write one site's vectors; say what the type lost of the first of them."""
    tensors = encoded(site, bucket.values[site].cpu(), dtype)
    error = lost(tensors, bucket.exact[site].cpu()) if site in bucket.exact else Error()
    return _save(shard / site_file(site), tensors, hashing), error


def _save(place: Place, tensors: Mapping[str, Tensor], hashing: Executor) -> FileRecord:
    """Write a safetensors file.

    The checksum is that of the bytes in memory: what the disk makes of them is checked against it.
    """
    parts = parts_of({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    checksum = hashing.submit(files.blake3_in, parts)
    place.write(*parts)
    return FileRecord(size_bytes=sum(map(len, parts)), blake3=checksum.result())


def _record(data: bytes) -> FileRecord:
    return FileRecord(size_bytes=len(data), blake3=files.blake3_in([data]))
