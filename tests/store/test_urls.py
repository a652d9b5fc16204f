"""Stores at URLs: the same bytes, checks and messages in a folder, in memory, at an S3 server."""

import itertools
import runpy
from pathlib import Path

import pytest
import torch

from panscope import files
from panscope.errors import ConfigError, Corrupt, Incomplete, NotFound, PanscopeError
from panscope.events import Event, Finished, Warned
from panscope.place import Place
from panscope.stages import harvest
from panscope.store.reader import Store

SCENE = runpy.run_path(str(Path(__file__).parents[1] / "stages" / "killed_harvest.py"))
MODEL = SCENE["tiny_model"]()
INPUTS = {"model": "m"}


def run(out: Path | str) -> list[Event]:
    events: list[Event] = []
    harvest.run(
        harvest.Work(SCENE["CONFIG"], MODEL, SCENE["rows_from"], INPUTS, out, events.append)
    )
    return events


def bytes_of(place: Place) -> dict[str, bytes]:
    root = str(place)
    return {str(file)[len(root) :]: b"".join(file.pieces()) for file in place.files_below()}


def damage(file: Place) -> None:
    data = bytearray(b"".join(file.pieces()))
    data[-1] ^= 1
    file.write(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


def test_a_store_at_a_url_is_the_local_one_byte_for_byte(url: str, whole: Path):
    run(url)
    assert bytes_of(Place.of(url)) == bytes_of(Place.of(whole))
    assert files.verify(url) == []
    assert run(url) == [Finished("harvest", 0.0, reused=True)]
    here, there = Store.open(whole), Store.open(url)
    assert here.sites == there.sites
    pair = (store.batches(store.sites, 5, seed=1) for store in (here, there))
    for a, b in itertools.islice(zip(*pair, strict=True), 25):
        assert torch.equal(a.tokens.ids, b.tokens.ids)
        assert all(torch.equal(a.values[site], b.values[site]) for site in here.sites)


def test_an_unfinished_store_at_a_url_is_resumed(url: str, whole: Path):
    run(url)
    place = Place.of(url)
    (place / "manifest.json").remove()
    (place / "shard-00001" / "seal.json").remove()
    with pytest.raises(Incomplete, match=r"has no manifest\.json"):
        Store.open(url)
    sealed = place / "shard-00002" / "seal.json"
    before = sealed.files.info(sealed.path)
    run(url)
    assert sealed.files.info(sealed.path) == before
    assert bytes_of(place) == bytes_of(Place.of(whole))


def test_damage_at_a_url_is_found_named_and_mended(url: str, whole: Path):
    run(url)
    place = Place.of(url)
    damage(place / "shard-00001" / "attn_z.1.safetensors")
    store = Store.open(url)
    with pytest.raises(Corrupt, match=r"shard-00001/attn_z\.1\.safetensors: blake3 is"):
        store.shard(1, store.sites)
    assert len(files.verify(url)) == 1
    (place / "shard-00001" / "attn_z.1.safetensors").remove()
    assert any(isinstance(event, Warned) for event in run(url))
    assert bytes_of(place) == bytes_of(Place.of(whole))


def test_a_file_at_a_url_is_fetched_once(url: str, monkeypatch: pytest.MonkeyPatch):
    run(url)
    fetched: list[str] = []
    read = Place.read
    monkeypatch.setattr(Place, "read", lambda place: fetched.append(place.name) or read(place))
    store = Store.open(url)
    store.shard(1, store.sites[:1])
    assert sorted(fetched) == ["resid_post.0.safetensors", "seal.json", "tokens.safetensors"]


def test_places_that_cannot_be_are_named(s3_url: str):
    with pytest.raises(ConfigError, match="unknown protocol s4; known: file, s3, gs, memory"):
        Place.of("s4://bucket/x")
    with pytest.raises(NotFound, match="no such folder"):
        Store.open(s3_url)
    with pytest.raises(PanscopeError, match=r"s3://no-such-bucket/x/.*could not be written"):
        run("s3://no-such-bucket/x")


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    def fail(url: str, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("panscope.place.url_to_fs", fail)
    with pytest.raises(ConfigError, match=r"s3 needs a library; run pip install 'panscope\[s3\]'"):
        Place.of("s3://bucket/x")
