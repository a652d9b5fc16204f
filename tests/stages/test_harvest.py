"""Harvest: streams that skip exactly, stores that resume to the bit, one pass for all sites."""

import errno
import itertools
import os
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from panscope import files
from panscope.dist import Share
from panscope.errors import ConfigError, Incomplete, NotFound, PanscopeError, Unsupported
from panscope.events import Advanced, Emit, Event, Finished, Started, Warned, silent
from panscope.model import tap, text
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.place import Place
from panscope.sites import VECTOR_KINDS, WHOLE_KINDS, Site
from panscope.stages import harvest
from panscope.stages.harvest import Config, RowsFrom
from panscope.store.claim import claimed
from panscope.store.reader import Store
from panscope.store.shuffle import Batch

SCRIPT = Path(__file__).with_name("killed_harvest.py")
SCENE = runpy.run_path(str(SCRIPT))
CONFIG: Config = SCENE["CONFIG"]
MODEL: Model = SCENE["tiny_model"]()
ROWS_FROM: RowsFrom = SCENE["rows_from"]
SITES = (Site("resid_post", 0), Site("attn_z", 1))
INPUTS = {"model": "m"}
BUCKETS = (27, 28, 19)  # in the whole text: tokens of 4, 4 and 3 rows of 8, BOS left out


def config(**changes: object) -> Config:
    return CONFIG.model_copy(update=changes)


def batches(
    config: Config, size: int, skip: int = 0, rows: RowsFrom = ROWS_FROM
) -> Iterator[Batch]:
    return harvest.stream(config, MODEL, rows, size, skip)


def first(n: int, stream: Iterator[Batch]) -> list[Batch]:
    return list(itertools.islice(stream, n))


def work(out: Path, config: Config = CONFIG, emit: Emit = silent) -> harvest.Work:
    return harvest.Work(config, MODEL, ROWS_FROM, INPUTS, out, emit)


def run(out: Path, config: Config = CONFIG, rows: RowsFrom = ROWS_FROM) -> list[Event]:
    events: list[Event] = []
    harvest.run(work(out, config, events.append)._replace(rows_from=rows))
    return events


def place(batch: Batch) -> list[tuple[int, int, int]]:
    columns = (batch.tokens.ids, batch.tokens.documents, batch.tokens.positions)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def bytes_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def same(a: Batch, b: Batch) -> bool:
    tensors = all(torch.equal(a.values[site], b.values[site]) for site in a.values)
    return (
        tensors
        and set(a.values) == set(b.values)
        and place(a) == place(b)
        and (a.epoch, a.number) == (b.epoch, b.number)
    )


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Site, ...]]:
    """What each forward pass since was asked to read; none may run the LM head."""
    asked: list[tuple[Site, ...]] = []
    tapped = tap.run

    def counting(model: Model, ids: torch.Tensor, read: tuple[Site, ...]) -> tap.Run:
        asked.append(read)
        done = tapped(model, ids, read=read)
        assert done.logits is None
        return done

    monkeypatch.setattr(tap, "run", counting)
    return asked


def test_values_are_those_of_a_forward_pass_and_special_tokens_are_absent():
    per_epoch = sum(n // 5 for n in BUCKETS)
    expected = {}
    for rows in ROWS_FROM(0):
        values = tap.run(MODEL, rows.ids, read=SITES).values
        for r, p in rows.mask.nonzero().tolist():
            key = (int(rows.ids[r, p]), int(rows.documents[r, p]), p)
            expected[key] = {site: values[site][r, p] for site in SITES}
    seen = first(per_epoch, batches(config(dtype="float32"), 5))
    assert [batch.epoch for batch in seen] == [0] * per_epoch
    drawn = [key for batch in seen for key in place(batch)]
    assert not {token for token, _, _ in drawn} & MODEL.special_ids
    assert len(set(drawn)) == len(drawn) == 5 * per_epoch
    for batch in seen:
        for i, key in enumerate(place(batch)):
            for site in SITES:
                assert torch.equal(batch.values[site][i], expected[key][site])


def test_a_batch_comes_from_one_bucket_and_is_shuffled():
    rows = list(ROWS_FROM(0))
    of_document_and_position = [
        {
            (int(i), int(d))
            for r in rows[k : k + 2]
            for i, d in zip(r.ids[r.mask], r.documents[r.mask], strict=True)
        }
        for k in (0, 2, 4)
    ]
    seen = [[(i, d) for i, d, _ in place(b)] for b in first(13, batches(CONFIG, 5))]
    buckets = [0] * 5 + [1] * 5 + [2] * 3
    assert all(set(s) <= of_document_and_position[k] for s, k in zip(seen, buckets, strict=True))
    assert any(s != sorted(s, key=lambda pair: pair[1]) for s in seen)


@pytest.mark.parametrize("size", [5, 20])
def test_skipping_equals_dropping_to_the_bit_across_epochs(size: int):
    whole = first(30, batches(CONFIG, size))
    for skip in (0, 1, 4, 5, 12, 13, 14, 28):
        rest = first(2, batches(CONFIG, size, skip))
        assert all(same(a, b) for a, b in zip(whole[skip : skip + 2], rest, strict=True)), skip


def test_the_text_begins_again_in_a_new_order():
    once, twice = (first(13, batches(CONFIG, 5, skip)) for skip in (0, 13))
    assert {batch.epoch for batch in twice} == {1}
    a, b = ([key for batch in part[:5] for key in place(batch)] for part in (once, twice))
    assert a != b
    assert len(set(a) & set(b)) > 15  # the same bucket of 27, each time less its last 2


def test_seeds_shuffle_differently():
    one, other = (place(next(batches(config(seed=seed), 5))) for seed in (0, 1))
    assert one != other


def test_one_forward_pass_feeds_all_sites_and_skipped_buckets_need_none(
    passes: list[tuple[Site, ...]],
):
    first(5, batches(CONFIG, 5))
    assert passes == [SITES] * 2  # two passes of 2 rows fill a bucket
    passes.clear()
    first(1, batches(CONFIG, 5, skip=12))
    assert passes == [SITES] * 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_stream_has_the_type_asked_for(dtype: str):
    batch = next(batches(config(dtype=dtype), 5))
    assert {str(value.dtype) for value in batch.values.values()} == {f"torch.{dtype}"}


def test_real_text_streams_and_is_stored(tiny_model: Model, tiny_text: Path, tmp_path: Path):
    corpus = text.Config(path=str(tiny_text), context=32)
    small = Config(sites=("mlp_out.*",), tokens=600, bucket_tokens=256, batch_rows=4)

    def rows_from(row: int) -> Iterator[Rows]:
        return text.rows(corpus, tiny_model, "train", small.batch_rows, row)

    live = first(6, harvest.stream(small, tiny_model, rows_from, 50))
    again = first(2, harvest.stream(small, tiny_model, rows_from, 50, skip_batches=4))
    assert all(same(a, b) for a, b in zip(live[4:], again, strict=True))
    assert not {i for batch in live for i, _, _ in place(batch)} & tiny_model.special_ids
    harvest.run(harvest.Work(small, tiny_model, rows_from, INPUTS, tmp_path, silent))
    store = Store.open(tmp_path)
    assert store.n_tokens >= 600
    values = torch.cat([batch.values[Site("mlp_out", 2)] for batch in live[:4]])
    assert torch.equal(
        store.shard(0, [Site("mlp_out", 2)]).values[Site("mlp_out", 2)][:200], values
    )


def test_too_little_text_is_refused_and_not_waited_for():
    with pytest.raises(ConfigError, match="no bucket of the text's 74 tokens fills a batch; raise"):
        next(batches(CONFIG, 29))
    with pytest.raises(ConfigError, match="no bucket of the text's 0 tokens"):
        next(batches(CONFIG, 5, rows=lambda row: iter(())))


def test_a_glob_takes_no_scores(tmp_path: Path):
    run(tmp_path / "store", config(sites=("*.0",)))
    kinds = [site.kind for site in Store.open(tmp_path / "store").sites]
    assert kinds == [kind for kind in VECTOR_KINDS if kind not in WHOLE_KINDS]


def test_names_of_other_libraries_make_the_same_store(tmp_path: Path):
    run(tmp_path / "ours", config(sites=("resid_post.0", "attn_z.1")))
    theirs = ("model.layers.0.output", "blocks.1.attn.hook_z")
    run(tmp_path / "theirs", config(sites=theirs))
    assert Store.open(tmp_path / "theirs").sites == SITES
    assert hashes(tmp_path / "ours") == hashes(tmp_path / "theirs")


def hashes(folder: Path) -> set[str]:
    return {files.blake3_of(path) for path in folder.rglob("*.safetensors")}


def test_a_modules_end_is_harvested_by_its_path(tmp_path: Path):
    neurons = Site("model.layers.1.mlp.down_proj.input")
    run(tmp_path / "store", config(sites=(str(neurons),)))
    store = Store.open(tmp_path / "store")
    assert store.facts.sites == {str(neurons): 24}
    (batch,) = first(1, store.batches([neurons], 5, seed=0))
    assert batch.values[neurons].shape == (5, 24)


def test_what_cannot_be_harvested_is_refused_at_once(tmp_path: Path):
    with pytest.raises(NotFound, match="the model has 2 layers"):
        batches(config(sites=("resid_post.2",)), 5)
    with pytest.raises(ConfigError, match="logits would be a whole vocabulary"):
        run(tmp_path / "store", config(sites=("*",)))
    for name in ("q.0", "attn_pattern.*"):
        with pytest.raises(Unsupported, match="has no vector for each token; read it with"):
            run(tmp_path / "store", config(sites=(name,)))
    with pytest.raises(ConfigError, match="the text has no rows; give more text"):
        run(tmp_path / "store", rows=lambda row: iter(()))
    with pytest.raises(ConfigError, match="bucket_tokens is 0"):
        Config.parse({"bucket_tokens": 0}, "recipe")
    assert not (tmp_path / "store").exists()


def test_a_store_holds_the_buckets_of_the_stream(tmp_path: Path):
    events = run(tmp_path)
    store = Store.open(tmp_path)
    assert store.facts.shards == (27, 28, 13)  # the last ends with the pass that reaches 60
    assert set(store.sites) == set(SITES)
    for number, n_batches in enumerate((5, 5)):
        live = first(n_batches, batches(CONFIG, 5, skip=5 * number))
        shard = store.shard(number, SITES)
        for site in SITES:
            values = torch.cat([batch.values[site] for batch in live])
            assert torch.equal(values, shard.values[site][: len(values)])
        ids = torch.cat([batch.tokens.ids for batch in live])
        assert torch.equal(ids, shard.tokens.ids[: len(ids)])
    assert files.verify(tmp_path) == []
    assert events[0] == Started("harvest", 60, "tokens")
    assert [e.done for e in events if isinstance(e, Advanced)][-1] == 60
    assert isinstance(events[-1], Finished)


def test_a_store_is_harvested_in_one_pass_and_reused(
    tmp_path: Path, passes: list[tuple[Site, ...]]
):
    run(tmp_path)
    assert passes == [SITES] * 5
    before = bytes_of(tmp_path)
    assert run(tmp_path) == [Finished("harvest", 0.0, reused=True)]
    assert len(passes) == 5
    assert bytes_of(tmp_path) == before


def test_a_short_text_is_harvested_once_with_a_warning(tmp_path: Path):
    events = run(tmp_path, config(tokens=1000))
    assert Warned("harvest", "the text has only 74 tokens: all were harvested") in events
    assert Store.open(tmp_path).facts.shards == BUCKETS


@pytest.mark.parametrize("sealed", [True, False])
def test_a_store_of_another_configuration_is_refused(tmp_path: Path, sealed: bool):
    run(tmp_path)
    if not sealed:
        (tmp_path / "manifest.json").unlink()
    before = bytes_of(tmp_path)
    with pytest.raises(ConfigError, match="another recipe or input; choose another output or"):
        run(tmp_path, config(seed=4))
    with pytest.raises(ConfigError, match="another recipe or input; choose another output or"):
        harvest.run(work(tmp_path)._replace(inputs={"model": "another"}))
    assert bytes_of(tmp_path) == before


def test_a_shard_that_lost_a_file_is_made_again_alone(
    tmp_path: Path, passes: list[tuple[Site, ...]]
):
    run(tmp_path)
    before = bytes_of(tmp_path)
    passes.clear()
    (tmp_path / "shard-00001" / "attn_z.1.safetensors").unlink()
    warning = next(event for event in run(tmp_path) if isinstance(event, Warned))
    assert "shard-00001/attn_z.1.safetensors: is missing" in warning.text
    assert passes == [SITES] * 2
    assert bytes_of(tmp_path) == before


def write(out: Path, share: Share, config: Config = CONFIG) -> list[Event]:
    events: list[Event] = []
    harvest.write(work(out, config, events.append), share)
    return events


@pytest.mark.parametrize("tokens", [60, 1000])
@pytest.mark.parametrize("world", [2, 3, 5])
def test_shares_make_the_store_of_one_process(tmp_path: Path, world: int, tokens: int):
    wanted = config(tokens=tokens)
    run(tmp_path / "whole", wanted)
    done = []
    for rank in reversed(range(world)):
        events = write(tmp_path / "shared", Share(rank, world), wanted)
        done.append([event.done for event in events if isinstance(event, Advanced)][-1:])
    with_all = harvest.seal(work(tmp_path / "shared", wanted))
    assert bytes_of(tmp_path / "shared") == bytes_of(tmp_path / "whole")
    assert sum(n for last in done for n in last) == sum(with_all.facts["shards"])


def test_a_share_leaves_the_others_alone(tmp_path: Path, passes: list[tuple[Site, ...]]):
    begun = tmp_path / "shard-00001" / "resid_post.0.safetensors"
    begun.parent.mkdir()
    begun.write_bytes(b"in the making")
    write(tmp_path, Share(0, 2))
    assert passes == [SITES] * 3, "two passes in shard 0, one in shard 2"
    assert begun.read_bytes() == b"in the making"
    with pytest.raises(Incomplete, match="shard-00001"):
        harvest.seal(work(tmp_path))
    assert not (tmp_path / "manifest.json").exists()
    write(tmp_path, Share(1, 2))
    passes.clear()
    write(tmp_path, Share(0, 2))
    assert passes == [], "what is sealed is not done again"
    sealed = harvest.seal(work(tmp_path))
    assert list(sealed.facts["shards"]) == [27, 28, 13]
    assert write(tmp_path, Share(0, 2)) == [], "a finished store is left as it is"
    events: list[Event] = []
    assert harvest.seal(work(tmp_path, emit=events.append)) == sealed
    assert events == [Finished("harvest", 0.0, reused=True)]


def test_a_share_that_nobody_wrote_is_missed(tmp_path: Path):
    write(tmp_path, Share(0, 2))
    with pytest.raises(Incomplete, match="shard-00001 is not written; run harvest again"):
        harvest.seal(work(tmp_path))


def test_a_full_disk_is_reported_and_the_next_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[tuple[Site, ...]]
):
    run(tmp_path / "whole")
    passes.clear()
    os_write, writes = os.write, itertools.count()

    def until_full(file: int, data: memoryview) -> int:
        if next(writes) == 12:  # the second shard's third of 9
            raise OSError(28, "No space left on device")
        return os_write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", until_full)
        with pytest.raises(PanscopeError, match=r"shard-00001/.*No space left on device"):
            run(tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["shard-00000"]
    passes.clear()
    run(tmp_path / "full")
    assert len(passes) == 3  # those of shards 1 and 2
    assert bytes_of(tmp_path / "full") == bytes_of(tmp_path / "whole")


def test_what_another_process_writes_is_waited_for_and_not_written_again(
    tmp_path: Path, passes: list[tuple[Site, ...]]
):
    run(tmp_path / "whole")
    passes.clear()
    shard = tmp_path / "both" / "shard-00001"
    with claimed(Place.of(shard), wait=False):
        helper = threading.Thread(target=run, args=(tmp_path / "both",))
        helper.start()
        while not (tmp_path / "both" / "shard-00002" / "seal.json").exists():
            time.sleep(0.01)  # the helper has passed over shard 1, and waits for it
        shutil.copytree(tmp_path / "whole" / "shard-00001", shard)
    helper.join()
    assert len(passes) == 3  # those of shards 0 and 2
    assert bytes_of(tmp_path / "both") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_error_of_a_type_is_in_the_facts(tmp_path: Path, dtype: str):
    run(tmp_path / "exact", config(dtype="float32"))
    run(tmp_path / "kept", config(dtype=dtype))
    exact, kept = Store.open(tmp_path / "exact"), Store.open(tmp_path / "kept")
    assert set(exact.facts.error.values()) == {0.0}
    for site in SITES:
        shards = range(len(exact.facts.shards))
        pair = [torch.cat([s.shard(n, SITES).values[site] for n in shards]) for s in (exact, kept)]
        error = float((pair[1].float() - pair[0]).norm() / pair[0].norm())
        assert kept.facts.error[str(site)] == pytest.approx(error, rel=1e-4)
        assert 0 < error < 0.01


def test_a_value_beyond_float16_is_named(tmp_path: Path):
    norm = MODEL.lm.get_submodule("model.layers.0.post_feedforward_layernorm")
    with torch.no_grad():
        norm.weight += 1e6
    try:
        with pytest.raises(
            ConfigError, match=r"resid_post\.0: \d+ values are not finite as float16"
        ):
            run(tmp_path, config(dtype="float16"))
        with pytest.raises(
            ConfigError, match=r"resid_post\.0: \d+ values are not finite as float16"
        ):
            next(batches(config(dtype="float16"), 5))
    finally:
        with torch.no_grad():
            norm.weight -= 1e6
    assert not list(tmp_path.glob("shard-*"))


def test_a_live_stream_has_no_use_for_int8():
    with pytest.raises(ConfigError, match="int8 saves space on disk, a live stream has none"):
        batches(config(dtype="int8"), 5)


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written_is_said_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
):
    run(tmp_path, config(tokens=20))
    (tmp_path / "manifest.json").unlink()
    before, os_open = bytes_of(tmp_path), os.open

    def read_only(path: Any, flags: int, *mode: int, **folder: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(error, os.strerror(error))
        return os_open(path, flags, *mode, **folder)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(
        PanscopeError, match=rf"{os.strerror(error)}.*; check space and permissions"
    ):
        run(tmp_path, config(tokens=20))
    assert bytes_of(tmp_path) == before


def test_a_real_limit_on_file_sizes_is_a_full_disk(tmp_path: Path):
    run(tmp_path / "whole")
    child = os.fork()
    if child == 0:  # only a process of its own may be limited
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))
        try:
            run(tmp_path / "full")
        except PanscopeError as error:
            os._exit(7 if "File too large); check space" in str(error) else 8)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not list((tmp_path / "full").glob("shard-*/*"))
    run(tmp_path / "full")
    assert bytes_of(tmp_path / "full") == bytes_of(tmp_path / "whole")


@pytest.mark.slow
def test_killed_at_any_instant_it_resumes_to_the_bit(tmp_path: Path):
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    n_instants = int(done.stdout)
    # Of 2 shards of 3 files and a manifest: sync, rename, sync. Writes: 2 parts of a site's file, 4
    # of the columns', one of seal and manifest. Each shard and the manifest lets go of its claim.
    assert n_instants == 3 * (2 * 3 + 1) + 2 * (2 + 4 + 1) + 1 + 3
    whole = bytes_of(tmp_path / "whole")
    several = (f"several-{n}" for n in range(SCENE["SEVERAL"]))
    for folder in (*(f"resumed-{n}" for n in range(n_instants)), "often", *several):
        assert bytes_of(tmp_path / folder) == whole, folder
    (tmp_path / "whole" / "manifest.json").unlink()
    with pytest.raises(Incomplete, match=r"has no manifest\.json"):
        Store.open(tmp_path / "whole")
