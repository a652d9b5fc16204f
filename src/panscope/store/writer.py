"""Write a store: shards one by one, each sealed on its own, and the manifest over them all.

A shard depends on nothing but its bucket, so several writers may write the shards of one store.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from panscope import files
from panscope.dist import WHOLE, Share
from panscope.errors import ConfigError, Corrupt, Incomplete, PanscopeError
from panscope.files import FileRecord, Manifest
from panscope.store.layout import (
    ACTIVATIONS,
    KIND,
    SEAL,
    TOKENS,
    Facts,
    Seal,
    discard,
    shard_name,
    shards_in,
    site_file,
    whole_seal,
)
from panscope.store.shuffle import Bucket


def write_shard(store: Path, number: int, bucket: Bucket, n_rows: int, key: str) -> Seal:
    """Write a bucket in its order as a shard, the seal last; return the seal.

    On a failure (a full disk) the shard is removed. Holds one site's bytes twice while it writes.
    """
    shard = store / shard_name(number)
    try:
        records = {
            site_file(site): _save(shard / site_file(site), {ACTIVATIONS: value[bucket.order]})
            for site, value in bucket.values.items()
        }
        records[TOKENS] = _save(shard / TOKENS, _columns(bucket))
        seal = Seal(key=key, n_tokens=len(bucket.order), n_rows=n_rows, files=records)
        files.write_bytes(shard / SEAL, seal.to_bytes())
    except PanscopeError:
        if shard.is_dir():
            discard(shard)
        raise
    return seal


def resume(store: Path, key: str, share: Share = WHOLE) -> tuple[dict[int, Seal], list[Corrupt]]:
    """Return the seals of a share's whole shards in an unfinished store, and what ails its others.

    Those, unsealed or damaged, are removed; shards of other shares are left alone, as they may be
    in the making. ConfigError, before anything is removed, if the folder belongs to a store
    of another key, or to something else.
    """
    _refuse_foreign(store, key)
    (store / files.MANIFEST).unlink(missing_ok=True)
    for left_over in store.glob(f".{files.MANIFEST}.*.tmp"):
        left_over.unlink(missing_ok=True)
    seals: dict[int, Seal] = {}
    damaged: list[Corrupt] = []
    for number, shard in shards_in(store):
        if number not in share:
            continue
        try:
            seals[number] = whole_seal(shard)
        except Incomplete:
            discard(shard)
        except Corrupt as problem:
            damaged.append(problem)
            discard(shard)
    return seals, damaged


def written(store: Path, key: str) -> dict[int, Seal]:
    """Return the seals of all shards, when all writers have ended.

    Their files are not read again. Raises Incomplete if one is missing before the last.
    """
    _refuse_foreign(store, key)
    seals = {number: Seal.read(shard) for number, shard in shards_in(store)}
    missing = set(range(len(seals))) - seals.keys()
    if missing:
        found = f"shard {min(missing)} was not written"
        raise Incomplete(str(store), found, "run the same command again")
    return seals


def seal_store(
    store: Path,
    seals: Mapping[int, Seal],
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    facts: Facts,
) -> Manifest:
    """Write the manifest that makes sealed shards a store; it takes the checksums of the seals."""
    recorded: dict[str, FileRecord] = {}
    for number, seal in sorted(seals.items()):
        name = shard_name(number)
        recorded |= {f"{name}/{file}": record for file, record in seal.files.items()}
        recorded[f"{name}/{SEAL}"] = _record(seal.to_bytes())
    return files.seal_records(store, KIND, config, inputs, facts.model_dump(mode="json"), recorded)


def _refuse_foreign(store: Path, key: str) -> None:
    do = "choose another output or delete that folder"
    if store.exists() and not store.is_dir():
        raise ConfigError(str(store), "is a file", "choose another output")
    known = {files.MANIFEST, *(shard.name for _, shard in shards_in(store))}
    for path in store.iterdir() if store.is_dir() else ():
        if path.name not in known and not path.name.startswith("."):
            raise ConfigError(str(store), f"holds {path.name}, which is no part of a store", do)
    for _, shard in shards_in(store):
        try:
            other = Seal.read(shard).key != key
        except (Incomplete, Corrupt):
            continue
        if other:
            raise ConfigError(str(store), "holds a store made from another recipe or input", do)


def _columns(bucket: Bucket) -> dict[str, Tensor]:
    tokens = bucket.tokens.take(bucket.order)
    columns = {"ids": tokens.ids, "documents": tokens.documents, "positions": tokens.positions}
    return {name: column.to(torch.int32) for name, column in columns.items()}


def _save(path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    """Write a safetensors file through bytes, since its own writer's failures are no OSError.

    The checksum is that of the bytes in memory: what the disk makes of them is checked against it.
    """
    data = save({name: tensor.cpu() for name, tensor in tensors.items()})
    files.write_bytes(path, data)
    return _record(data)


def _record(data: bytes) -> FileRecord:
    return FileRecord(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
