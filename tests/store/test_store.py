"""Stores: what is written is read; what is damaged, unsealed or foreign is named and refused."""

import errno
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from panscope import files
from panscope.errors import ConfigError, Corrupt, Incomplete, NotFound, PanscopeError, Unsupported
from panscope.place import Buffer, Place
from panscope.sites import Site
from panscope.store.layout import Facts, Seal
from panscope.store.reader import Store
from panscope.store.shuffle import Batch, Bucket, Tokens, permutation
from panscope.store.writer import resume, seal_store, write_shard

RESID, ATTN = Site("resid_post", 0), Site("attn_z", 1)
D_AT = {RESID: 6, ATTN: 4}
SIZES = (50, 61, 37)
UNHURRIED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def bucket(number: int, dtype: torch.dtype = torch.bfloat16) -> Bucket:
    """Draw a bucket whose columns say which bucket and token a vector is of."""
    size, generator = SIZES[number], torch.Generator().manual_seed(number)
    token = permutation(0, number, size)
    exact = {s: torch.randn(size, d, generator=generator) for s, d in D_AT.items()}
    return Bucket(
        values={site: value.to(dtype) for site, value in exact.items()},
        tokens=Tokens(1000 * number + token, token // 10, token % 10),
        exact={site: value[:20] for site, value in exact.items()},
    )


def write(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    seals = {n: write_shard(folder, n, bucket(n, dtype), n_rows=5, key="key") for n in range(3)}
    finish(folder, seals, dtype)
    return folder


def finish(folder: Path, seals: dict[int, Seal], dtype: torch.dtype = torch.bfloat16) -> None:
    facts = Facts(
        sites={str(site): d for site, d in D_AT.items()},
        dtype="bfloat16" if dtype is torch.bfloat16 else "float32",
        shards=SIZES,
        rows=15,
    )
    seal_store(folder, seals, {"seed": 0}, {"model": "m"}, facts)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "store")


def bytes_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def ids_of(batches: Iterator[Batch], count: int) -> list[list[int]]:
    return [batch.tokens.ids.tolist() for batch in itertools.islice(batches, count)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_written_is_read(tmp_path: Path, dtype: torch.dtype):
    store = Store.open(write(tmp_path, dtype))
    assert store.sites == (RESID, ATTN)
    assert store.n_tokens == sum(SIZES)
    for number in range(3):
        written, read = bucket(number, dtype), store.shard(number, store.sites)
        for site in store.sites:
            assert read.values[site].dtype is dtype
            assert torch.equal(read.values[site], written.values[site])
        assert torch.equal(read.tokens.ids, written.tokens.ids.int())
        assert torch.equal(read.tokens.positions, written.tokens.positions.int())
    assert files.verify(tmp_path) == []


def test_the_format_is_as_documented(folder: Path):
    names = {f"shard-{n:05}/{f}" for n in range(3) for f in ("seal.json", "tokens.safetensors")}
    names |= {f"shard-{n:05}/{site}.safetensors" for n in range(3) for site in D_AT}
    assert set(bytes_of(folder)) == {*names, "manifest.json"}
    assert set(files.read_manifest(folder, "store").files) == names
    tokens = load_file(folder / "shard-00001" / "tokens.safetensors")
    shape = {name: (str(column.dtype), len(column)) for name, column in tokens.items()}
    assert shape == dict.fromkeys(("ids", "documents", "positions"), ("torch.int32", 61))
    values = load_file(folder / "shard-00001" / "attn_z.1.safetensors")
    assert values["activations"].shape == (61, 4)


def test_an_epoch_visits_every_shard_in_an_order_of_its_own(folder: Path):
    store = Store.open(folder)
    per_epoch = store.batches_per_epoch(10)
    assert per_epoch == 5 + 6 + 3
    seen = list(itertools.islice(store.batches([RESID], 10, seed=1), 6 * per_epoch))
    orders = set()
    for epoch, batch in itertools.groupby(seen, key=lambda batch: batch.epoch):
        shards = [int(b.tokens.ids[0]) // 1000 for b in batch]
        assert sorted(shards) == [0] * 5 + [1] * 6 + [2] * 3, epoch
        orders.add(tuple(dict.fromkeys(shards)))
    assert len(orders) > 1
    assert [batch.number for batch in seen] == list(range(6 * per_epoch))


@given(epoch=st.integers(0, 3), batch=st.integers(0, 30), seed=st.integers(0, 5))
@settings(UNHURRIED, max_examples=15)
def test_reading_resumes_from_any_epoch_and_batch(folder: Path, epoch: int, batch: int, seed: int):
    store = Store.open(folder)
    skipped = epoch * store.batches_per_epoch(10) + batch
    whole = ids_of(store.batches([ATTN], 10, seed), skipped + 4)
    assert ids_of(store.batches([ATTN], 10, seed, epoch, batch), 4) == whole[skipped:]


def test_sites_read_together_equal_sites_read_alone(folder: Path):
    store = Store.open(folder)
    together = list(itertools.islice(store.batches([RESID, ATTN], 10, 0), 20))
    for site in (RESID, ATTN):
        alone = itertools.islice(Store.open(folder).batches([site], 10, 0), 20)
        for one, both in zip(alone, together, strict=True):
            assert set(one.values) == {site}
            assert torch.equal(one.values[site], both.values[site])


def test_a_site_that_is_not_read_is_not_touched(folder: Path):
    for number in range(3):
        (folder / f"shard-{number:05}" / "attn_z.1.safetensors").unlink()
    assert len(ids_of(Store.open(folder).batches([RESID], 10, 0), 14)) == 14


def test_bytes_are_checked_once_per_open(folder: Path, monkeypatch: pytest.MonkeyPatch):
    hashed: list[str] = []
    hash_in = files.blake3_in

    def counting(pieces: Iterable[Buffer]) -> str:
        hashed.append(hash_in(pieces))
        return hashed[-1]

    monkeypatch.setattr(files, "blake3_in", counting)
    ids_of(Store.open(folder).batches([RESID], 10, 0), 60)
    assert len(hashed) == len(set(hashed)) == 3 * 3  # seal, tokens and the site, of each shard


@given(data=st.data())
@settings(UNHURRIED, max_examples=25)
def test_any_flipped_bit_is_found_named_and_never_used(folder: Path, data: st.DataObject):
    name = data.draw(st.sampled_from(sorted(files.read_manifest(folder).files)))
    path = folder / name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    try:
        with pytest.raises(Corrupt, match=rf"{name}: blake3 is"):
            ids_of(Store.open(folder).batches([RESID, ATTN], 10, 0), 14)
        assert len(files.verify(folder)) == 1
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["seal.json", "tokens.safetensors", "resid_post.0.safetensors"])
def test_missing_and_truncated_files_are_named(folder: Path, name: str):
    path = folder / "shard-00001" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Corrupt, match=rf"shard-00001/{name}: has \d+ bytes, the manifest says"):
        Store.open(folder).shard(1, [RESID])
    path.unlink()
    with pytest.raises(Corrupt, match=rf"shard-00001/{name}: is missing"):
        Store.open(folder).shard(1, [RESID])
    assert len(Store.open(folder).shard(0, [RESID]).values[RESID]) == 50


def test_a_store_without_manifest_is_incomplete_and_another_artefact_refused(folder: Path):
    files.seal(folder, "suite", {}, {}, {})
    with pytest.raises(Unsupported, match="is a suite; give the folder of a store"):
        Store.open(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(Incomplete):
        Store.open(folder)


def test_what_a_store_does_not_hold_is_named(folder: Path):
    store = Store.open(folder)
    with pytest.raises(NotFound, match=r"no resid_post\.3; did you mean resid_post\.0"):
        store.batches([Site("resid_post", 3)], 10, 0)
    with pytest.raises(ConfigError, match="its largest shard has 61 tokens; ask for batches of"):
        store.batches([RESID], 62, 0)


def test_unsealed_and_damaged_shards_do_not_survive_a_resume(folder: Path):
    (folder / "manifest.json").unlink()
    (folder / "shard-00000" / "seal.json").unlink()  # it may be another's, who is at it now
    path = folder / "shard-00001" / "attn_z.1.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    seals, damaged = resume(folder, "key")
    assert set(seals) == {2}
    assert [str(problem).split(":")[0] for problem in damaged] == [str(path)]
    assert {path.name for path in folder.iterdir()} == {"shard-00000", "shard-00002"}
    write_shard(folder, 0, bucket(0), n_rows=5, key="key")
    assert set(resume(folder, "key")[0]) == {0, 2}


@given(data=st.data())
@settings(UNHURRIED, max_examples=25)
def test_a_flipped_bit_in_a_seal_is_found_while_there_is_no_manifest(
    folder: Path, data: st.DataObject
):
    path = folder / "shard-00001" / "seal.json"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    try:
        with pytest.raises(Corrupt, match=r"shard-00001/seal\.json"):
            Seal.read(Place.of(path.parent))
    finally:
        path.write_bytes(whole)


def test_decay_before_the_manifest_is_found_after_it(tmp_path: Path):
    seals = {n: write_shard(tmp_path, n, bucket(n), n_rows=5, key="key") for n in range(3)}
    path = tmp_path / "shard-00002" / "attn_z.1.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    finish(tmp_path, seals)
    assert [str(problem).split(":")[0] for problem in files.verify(tmp_path)] == [str(path)]


def test_folders_of_others_are_left_alone(tmp_path: Path, folder: Path):
    before = bytes_of(folder)
    with pytest.raises(ConfigError, match="holds a store made from another recipe or input"):
        resume(folder, "another key")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds notes\.txt, which is no part of a store"):
        resume(folder, "key")
    assert bytes_of(folder) == before | {"notes.txt": b"mine"}
    assert resume(tmp_path / "not there yet", "key") == ({}, [])
    with pytest.raises(ConfigError, match=r"notes\.txt: is a file; choose another output"):
        resume(folder / "notes.txt", "key")


@pytest.mark.parametrize("full_at", range(9))
def test_a_full_disk_leaves_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: int):
    written = write_shard(tmp_path, 0, bucket(0), n_rows=5, key="key")
    before = bytes_of(tmp_path)
    os_write, calls = os.write, itertools.count()

    def until_full(file: int, data: memoryview) -> int:
        if next(calls) == full_at:
            os_write(file, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return os_write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", until_full)
        with pytest.raises(PanscopeError, match=r"could not be written \(No space left"):
            write_shard(tmp_path, 1, bucket(1), n_rows=5, key="key")
    assert bytes_of(tmp_path) == before
    assert not (tmp_path / "shard-00001").exists()
    assert resume(tmp_path, "key") == ({0: written}, [])


def test_shards_may_be_written_in_any_order(tmp_path: Path, folder: Path):
    other = tmp_path / "other"
    seals = {n: write_shard(other, n, bucket(n), n_rows=5, key="key") for n in (2, 0, 1)}
    finish(other, seals)
    assert bytes_of(other) == bytes_of(folder)
    shutil.rmtree(other / "shard-00001")
    assert set(resume(other, "key")[0]) == {0, 2}


def test_a_seal_says_what_a_shard_is(folder: Path):
    tree = json.loads((folder / "shard-00002" / "seal.json").read_text())
    assert (tree["key"], tree["n_tokens"], tree["n_rows"]) == ("key", 37, 5)
    assert set(tree["files"]) == {
        "resid_post.0.safetensors",
        "attn_z.1.safetensors",
        "tokens.safetensors",
    }
