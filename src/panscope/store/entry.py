"""A shard at one site as it lies in shared memory: ids, documents, positions, then the vectors.

All of it is of known size, so there is no header: tokens are int32, vectors as a store
gives them.
"""

from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from panscope.sites import Site
from panscope.store.layout import Facts
from panscope.store.precision import held_as
from panscope.store.shuffle import Bucket, Tokens

TOKEN_BYTES = 12


def size_bytes(facts: Facts, number: int, site: Site) -> int:
    """Return the size of a shard's entry."""
    return facts.shards[number] * (TOKEN_BYTES + facts.sites[str(site)] * _dtype(facts).itemsize)


def write(file: FileIO, facts: Facts, bucket: Bucket, site: Site) -> None:
    """Write what `Store.shard` gave into an entry's file."""
    assert bucket.values[site].dtype is _dtype(facts)
    tokens = bucket.tokens
    for tensor in (tokens.ids, tokens.documents, tokens.positions, bucket.values[site]):
        _write(file, tensor)


def mapped(path: Path, facts: Facts, number: int, site: Site) -> Bucket:
    """Map an entry: what `Store.shard` gave, for as long as it is used, also after its removal."""
    n_tokens, d = facts.shards[number], facts.sites[str(site)]
    data = torch.from_file(str(path), size=size_bytes(facts, number, site), dtype=torch.uint8)
    columns, values = data[: n_tokens * TOKEN_BYTES], data[n_tokens * TOKEN_BYTES :]
    return Bucket(
        values={site: values.view(_dtype(facts)).view(n_tokens, d)},
        tokens=Tokens(*columns.view(torch.int32).view(3, n_tokens)),
    )


def _dtype(facts: Facts) -> torch.dtype:
    """Return the type of the vectors that a store gives: float32 of int8."""
    return held_as(facts.dtype)


def _write(file: FileIO, tensor: Tensor) -> None:
    data = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
    while data:  # the system takes 2 GB at most
        data = data[file.write(data) :]
