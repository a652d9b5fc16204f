"""Several readers of one store: each gets what it would get alone, and the disk is read once."""

import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panscope import files
from panscope.errors import ConfigError, Corrupt, PanscopeError, Unsupported
from panscope.sites import Site
from panscope.store import shared, window
from panscope.store.layout import Facts
from panscope.store.reader import Store
from panscope.store.shared import Reader, front, reading
from panscope.store.shuffle import Batch, Bucket, Tokens, permutation
from panscope.store.window import Progress, Window, visits_until
from panscope.store.writer import seal_store, write_shard

SCRIPT = Path(__file__).parent / "shared_reader.py"
RESID, ATTN = Site("resid_post", 0), Site("attn_z", 1)
D_AT = {RESID: 6, ATTN: 4}
SIZES = (50, 61, 37, 45, 52)
SHARD_BYTES = 61 * (12 + 6 * 2) + 61 * (12 + 4 * 2)  # the largest, at both sites
ALL_BYTES = len(SIZES) * SHARD_BYTES
BATCH_TOKENS, SEED = 10, 3
PER_EPOCH = sum(size // BATCH_TOKENS for size in SIZES)


def bucket(number: int) -> Bucket:
    size, generator = SIZES[number], torch.Generator().manual_seed(number)
    ids = 1000 * number + torch.arange(size)
    values = {s: torch.randn(size, d, generator=generator).bfloat16() for s, d in D_AT.items()}
    return Bucket(values, Tokens(ids, ids // 10, ids % 10))


BUCKETS = tuple(map(bucket, range(len(SIZES))))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("made") / "store"
    seals = {n: write_shard(folder, n, b, 5, "key") for n, b in enumerate(BUCKETS)}
    sites = {str(site): d for site, d in D_AT.items()}
    facts = Facts(sites=sites, dtype="bfloat16", shards=SIZES, rows=25)
    seal_store(folder, seals, {"seed": 0}, {"model": "m"}, facts)
    return Store.open(folder)


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in place of /dev/shm that must be empty in the end."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(window, "MEMORY", folder)
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def store(made: Store, memory: Path) -> Store:
    return Store.open(made.folder)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Site]]:
    """Every shard and site that is read from the disk."""
    seen: list[tuple[int, Site]] = []
    shard = Store.shard

    def noted(store: Store, number: int, sites: list[Site]) -> Bucket:
        seen.extend((number, site) for site in sites)
        return shard(store, number, sites)

    monkeypatch.setattr(Store, "shard", noted)
    return seen


def stream(store: Store, reader: Reader, batch: int = 0, sites: Any = None) -> Iterator[Batch]:
    sites = sites or store.sites
    return store.batches(sites, BATCH_TOKENS, SEED, batch=batch, read=reader.shard)


def assert_equal(
    got: list[Batch], expected: list[Batch], dtype: torch.dtype = torch.bfloat16
) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert (one.epoch, one.number) == (other.epoch, other.number)
        for name in ("ids", "documents", "positions"):
            assert torch.equal(getattr(one.tokens, name), getattr(other.tokens, name))
        assert list(one.values) == list(other.values)
        for site, value in one.values.items():
            assert value.dtype is dtype
            assert torch.equal(value, other.values[site])


def alone(store: Store, count: int, batch: int = 0) -> list[Batch]:
    batches = store.batches(store.sites, BATCH_TOKENS, SEED, batch=batch)
    return list(itertools.islice(batches, count))


def in_threads(*works: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(works)) as pool:
        return [done.result(timeout=60) for done in [pool.submit(work) for work in works]]


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make time stand still but when it is told to go on by a second."""
    now = [0.0]
    monkeypatch.setattr(shared, "monotonic", lambda: now[0])

    def go_on() -> None:
        now[0] += 1

    return go_on


@pytest.mark.parametrize("n_readers", [1, 2, 4])
def test_threads_in_step_read_the_disk_once(
    store: Store, reads: list[tuple[int, Site]], tick: Callable[[], None], n_readers: int
):
    step = threading.Barrier(n_readers, tick)

    def read() -> list[Batch]:
        with reading(store, store.sites, SEED, 4 * SHARD_BYTES) as reader:
            batches, got = stream(store, reader), []
            for _ in range(2 * PER_EPOCH):
                step.wait(30)
                got.append(next(batches))
            step.wait(30)
        return got

    got = in_threads(*[read] * n_readers)
    once = len(SIZES) * len(D_AT)
    assert len(set(reads[:once])) == once
    assert len(reads) <= 2 * once
    expected = alone(store, 2 * PER_EPOCH)
    for batches in got:
        assert_equal(batches, expected)


def test_a_window_for_the_whole_store_is_filled_once(store: Store, reads: list[tuple[int, Site]]):
    with reading(store, store.sites, SEED, ALL_BYTES) as first:
        with reading(store, [ATTN], SEED, ALL_BYTES) as second:
            list(itertools.islice(stream(store, second, sites=[ATTN]), 3 * PER_EPOCH))
            assert len(reads) == len(SIZES)
        got = list(itertools.islice(stream(store, first), 3 * PER_EPOCH))
        assert len(reads) == len(set(reads)) == len(SIZES) * len(D_AT)
    assert_equal(got, alone(store, 3 * PER_EPOCH))


def test_int8_is_decoded_once_for_all(tmp_path: Path, memory: Path, reads: list[tuple[int, Site]]):
    sites = {str(site): d for site, d in D_AT.items()}
    exact = [replace(b, values={s: v.float() for s, v in b.values.items()}) for b in BUCKETS]
    seals = {n: write_shard(tmp_path / "s", n, b, 5, "key", "int8") for n, b in enumerate(exact)}
    facts = Facts(sites=sites, dtype="int8", shards=SIZES, rows=25)
    seal_store(tmp_path / "s", seals, {}, {}, facts)
    store = Store.open(tmp_path / "s")
    with (
        reading(store, store.sites, SEED, 2 * ALL_BYTES) as one,
        reading(store, store.sites, SEED, 2 * ALL_BYTES) as two,
    ):
        got = [list(itertools.islice(stream(store, r), 2 * PER_EPOCH)) for r in (one, two)]
        assert len(reads) == len(set(reads)) == len(SIZES) * len(D_AT)
    for batches in got:
        assert_equal(batches, alone(store, 2 * PER_EPOCH), torch.float32)


@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_readers_in_any_order_get_their_own_batches_within_the_budget(
    made: Store, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    budget = data.draw(st.integers(2 * SHARD_BYTES, 5 * SHARD_BYTES))
    memory = tmp_path_factory.mktemp("shm")
    orders = st.tuples(st.integers(0, 2), st.integers(5, 40), st.integers(0, 12))
    asked = data.draw(st.lists(orders, min_size=1, max_size=4))
    most = [0]
    locked = shared.locked

    def measured(path: Path, size_bytes: int) -> Any:
        file = locked(path, size_bytes)
        most.append(Window(path.parent).used_bytes())
        return file

    def read(seed: int, batch_tokens: int, visit: int) -> None:
        mine = Store.open(made.folder)
        begin = mine.batches_before(visit, batch_tokens, seed)
        with reading(mine, mine.sites, seed, budget) as reader:
            args = (mine.sites, batch_tokens, seed, 0, begin)
            got = list(itertools.islice(mine.batches(*args, read=reader.shard), 30))
        assert_equal(got, list(itertools.islice(mine.batches(*args), 30)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window, "MEMORY", memory)
        patch.setattr(shared, "locked", measured)
        in_threads(*[lambda order=order: read(*order) for order in asked])
    assert max(most) <= budget
    assert list(memory.iterdir()) == []


def test_a_reader_that_stands_still_delays_nobody_and_costs_no_reading(
    store: Store, reads: list[tuple[int, Site]], tick: Callable[[], None]
):
    step, go_on = threading.Barrier(2, tick), threading.Event()

    def fast() -> list[Batch]:
        with reading(store, store.sites, SEED, 4 * SHARD_BYTES) as reader:
            batches, got = stream(store, reader), []
            for _ in range(2 * PER_EPOCH):
                step.wait(30)
                got.append(next(batches))
            step.wait(30)
        return got

    def slow() -> list[Batch]:
        with reading(store, store.sites, SEED, 4 * SHARD_BYTES) as reader:
            batches = stream(store, reader)
            got = [next(batches)]
            began.set()
            assert go_on.wait(60)
            return [*got, *itertools.islice(batches, PER_EPOCH)]

    began = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        standing = pool.submit(slow)
        assert began.wait(30)
        got = in_threads(fast, fast)
        assert len(reads) <= 2 * len(SIZES) * len(D_AT), "one reading an epoch"
        go_on.set()
        late = standing.result(60)
    for batches in got:
        assert_equal(batches, alone(store, 2 * PER_EPOCH))
    assert_equal(late, alone(store, PER_EPOCH + 1))


def test_a_reader_that_lags_reads_past_what_others_need_sooner(
    store: Store, reads: list[tuple[int, Site]], tick: Callable[[], None]
):
    order = permutation(SEED, 0, len(SIZES)).tolist()
    budget = 4 * 61 * (12 + 6 * 2)
    with (
        reading(store, [RESID], SEED, budget) as ahead,
        reading(store, [RESID], SEED, budget) as behind,
        reading(store, [RESID], SEED, budget) as last,
    ):
        for visit in range(5):
            for reader in (ahead, behind)[: 2 if visit < 4 else 1]:
                reader.shard(visit, order[visit], [RESID])
            tick()
        needed = {f"{order[visit]:05}.{RESID}" for visit in (2, 3, 4)}
        assert needed <= {path.name for path in ahead.window.entries()}
        assert len(reads) == 5
        late = last.shard(1, order[1], [RESID])
        assert len(reads) == 6, "was in the window and is not any more"
        assert needed <= {path.name for path in ahead.window.entries()}
        behind.shard(4, order[4], [RESID])
        assert len(reads) == 6
    assert torch.equal(late.values[RESID], store.shard(order[1], [RESID]).values[RESID])


def test_who_waits_for_a_shard_fills_the_next(store: Store, monkeypatch: pytest.MonkeyPatch):
    order = permutation(SEED, 0, len(SIZES)).tolist()
    began, go_on = threading.Event(), threading.Event()
    filled: list[int] = []
    shard = Store.shard

    def slow(store: Store, number: int, sites: list[Site]) -> Bucket:
        if number == order[0]:
            began.set()
            assert go_on.wait(60)
        filled.append(number)
        if len(filled) == 2:
            go_on.set()
        return shard(store, number, sites)

    monkeypatch.setattr(Store, "shard", slow)
    with (
        reading(store, [RESID], SEED, ALL_BYTES) as one,
        reading(store, [RESID], SEED, ALL_BYTES) as two,
        ThreadPoolExecutor(1) as pool,
    ):
        filling = pool.submit(one.shard, 0, order[0], [RESID])
        assert began.wait(30)
        waited = two.shard(0, order[0], [RESID])
        assert torch.equal(waited.values[RESID], filling.result(60).values[RESID])
    assert filled[:2] == order[1:3]
    assert sorted(filled) == sorted(set(filled))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 5),
    visit=st.integers(0, 40),
    n_shards=st.integers(1, 9),
    data=st.data(),
)
def test_visits_are_counted(seed: int, visit: int, n_shards: int, data: st.DataObject):
    shard = data.draw(st.integers(0, n_shards - 1))
    order = [n for epoch in range(50) for n in permutation(seed, epoch, n_shards).tolist()]
    assert visits_until(shard, seed, visit, n_shards) == order[visit:].index(shard)


def test_a_need_is_estimated_by_the_reader_s_pace():
    reader = Progress(sites=("embed",), seed=0, visit=0, since=100.0)
    order = permutation(0, 0, 5).tolist()
    assert reader.to(1, now=104.0).seconds_until(order[3], 5, now=105.0) == 2 * 4.0
    assert reader.to(1, now=104.0).seconds_until(order[3], 5, now=204.0) == 2 * 100.0
    for in_use in order[2:4]:
        assert reader.to(3, now=104.0).seconds_until(in_use, 5, now=204.0) == 0
    again = 2 + permutation(0, 1, 5).tolist().index(order[3])
    assert reader.to(3, now=104.0).seconds_until(order[3], 5, now=104.0, first=1) == again * 4.0


# Readers in processes of their own ---------------------------------------------------------------


class Process:
    """A run of shared_reader.py."""

    def __init__(self, *args: object) -> None:
        command = [sys.executable, str(SCRIPT), *map(str, args)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def says(self, line: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == line, self.process.communicate()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)


def test_processes_get_the_same_batches_from_one_reading(
    store: Store, memory: Path, reads: list[tuple[int, Site]], script: Any
):
    args = (memory, store.folder, ALL_BYTES, 2 * PER_EPOCH)
    with Process(*args) as one, Process(*args) as two:
        for process in (one, two):
            process.says("joined")
        with reading(store, store.sites, SEED, ALL_BYTES) as reader:
            for process in (one, two):
                process.go()
            got = list(itertools.islice(stream(store, reader), 2 * PER_EPOCH))
            said = [
                json.loads(process.process.communicate(timeout=60)[0]) for process in (one, two)
            ]
    assert len(reads) + sum(process["reads"] for process in said) == len(SIZES) * len(D_AT)
    expected = alone(store, 2 * PER_EPOCH)
    assert_equal(got, expected)
    assert [process["digests"] for process in said] == [[*map(script.digest, expected)]] * 2


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("shared_reader", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_killed_while_it_fills_others_go_on_at_once(store: Store, memory: Path):
    with reading(store, store.sites, SEED, ALL_BYTES) as reader:
        with (
            Process(memory, store.folder, ALL_BYTES, 99, 2) as dying,
            ThreadPoolExecutor(1) as pool,
        ):
            dying.says("joined")
            dying.go()
            dying.says("filling")
            batches = pool.submit(lambda: list(itertools.islice(stream(store, reader), PER_EPOCH)))
            time.sleep(0.05)
            assert not batches.done(), "waits for the one that fills"
            dying.kill()
            assert_equal(batches.result(shared.PATIENCE_SECONDS / 2), alone(store, PER_EPOCH))
        assert len(list(reader.window.folder.glob("reader-*"))) == 1
        assert list(reader.window.folder.glob(".*")) == []


def test_stopped_while_it_fills_it_is_waited_for_only_so_long(
    store: Store, memory: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shared, "PATIENCE_SECONDS", 0.2)
    with Process(memory, store.folder, ALL_BYTES, 99, 1) as stopped:
        stopped.says("joined")
        stopped.go()
        stopped.says("filling")
        with reading(store, store.sites, SEED, ALL_BYTES) as reader:
            got = list(itertools.islice(stream(store, reader), PER_EPOCH))
        assert_equal(got, alone(store, PER_EPOCH))
        assert len(list(memory.iterdir())) == 1, "the stopped one is still there"
        stopped.kill()
    window.remove_leftovers()


def test_what_killed_readers_leave_is_removed_by_the_next_of_any_store(
    store: Store, memory: Path, made: Store
):
    with Process(memory, store.folder, ALL_BYTES, 99, 3) as killed:
        killed.says("joined")
        killed.go()
        killed.says("filling")
        killed.kill()
    (left,) = memory.iterdir()
    assert {path.name[0] for path in left.iterdir()} == {"r", "0", "."}
    another = Store(store.folder, store.manifest.model_copy(update={"digest": "another"}))
    with reading(another, another.sites, SEED, ALL_BYTES):
        assert not left.exists()
        assert len(list(memory.iterdir())) == 1


# What can go wrong -------------------------------------------------------------------------------


def test_a_corrupted_shard_is_refused_by_every_reader_by_name(
    store: Store, memory: Path, tmp_path: Path
):
    folder = tmp_path / "damaged"
    shutil.copytree(str(store.folder), folder)
    number = permutation(SEED, 0, len(SIZES)).tolist()[1]
    path = folder / f"shard-{number:05}" / "attn_z.1.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    damaged = Store.open(folder)

    def read() -> None:
        with reading(damaged, damaged.sites, SEED, ALL_BYTES) as reader:
            list(itertools.islice(stream(damaged, reader), PER_EPOCH))

    def refused() -> str:
        with pytest.raises(Corrupt, match=r"attn_z\.1\.safetensors: blake3 is") as raised:
            read()
        return str(raised.value)

    with reading(damaged, damaged.sites, SEED, ALL_BYTES) as watching:
        assert all(str(path) in text for text in in_threads(refused, refused))
        with Process(memory, folder, ALL_BYTES, 99) as process:
            process.says("joined")
            process.go()
            assert f"Corrupt: {path}" in process.process.communicate(timeout=60)[1]
        assert f"{number:05}.{ATTN}" not in [p.name for p in watching.window.entries()]


def test_where_memory_is_full_the_store_is_read(store: Store, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, size_bytes: int) -> FileIO:
        path.touch()
        return FileIO("/dev/full", "w")

    monkeypatch.setattr(shared, "locked", full)
    with reading(store, store.sites, SEED, ALL_BYTES) as reader:
        got = list(itertools.islice(stream(store, reader), PER_EPOCH))
        assert reader.window.used_bytes() == 0
    assert_equal(got, alone(store, PER_EPOCH))


def test_budgets_that_cannot_be_met_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch):
    with (
        pytest.raises(
            ConfigError, match=r"shared_gb: .* is less than two shards .*; give 5\.42e-06"
        ),
        reading(store, store.sites, SEED, 2 * SHARD_BYTES - 1),
    ):
        pass
    with (
        pytest.raises(ConfigError, match=r"shared_gb: 1e\+09 is more than .* --shm-size"),
        reading(store, store.sites, SEED, 10**18),
    ):
        pass


def test_too_small_a_memory_for_any_window_is_said(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(window.Window, "room_bytes", lambda _: 2 * SHARD_BYTES - 1)
    match = r"shared_gb: .* has 5\.37e-06 free, .* take 5\.37e-06; enlarge .* or set it to 0"
    with (
        pytest.raises(ConfigError, match=match),
        reading(store, store.sites, SEED, 2 * SHARD_BYTES - 1),
    ):
        pass


def test_without_shared_memory_there_is_no_sharing(made: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(window, "MEMORY", Path("/nowhere"))
    for joins in (lambda: shared.front(made, SEED), lambda: join(made)):
        with pytest.raises(
            Unsupported, match=r"/nowhere: there is no shared memory .*join = false"
        ):
            joins()


@pytest.mark.skipif(sys.platform != "linux", reason="nobody may make a folder in Linux's /proc")
def test_a_window_that_cannot_be_made_is_said(made: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(window, "MEMORY", Path("/proc"))
    with pytest.raises(PanscopeError, match=r"could not be made .*set store\.shared_gb = 0"):
        join(made)


def join(store: Store) -> None:
    with reading(store, store.sites, SEED, ALL_BYTES):
        pass


def test_another_user_s_folder_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch):
    with reading(store, store.sites, SEED, ALL_BYTES) as reader:
        assert reader.window.folder.stat().st_mode & 0o777 == 0o700
        with monkeypatch.context() as patch:
            patch.setattr(os, "geteuid", lambda: 12345)
            with pytest.raises(PanscopeError, match="belongs to another user"):
                reader.shard(0, 0, [RESID])


# Where a trainer begins --------------------------------------------------------------------------


def test_a_late_reader_begins_where_the_others_are_and_goes_on_from_there(
    store: Store, reads: list[tuple[int, Site]]
):
    assert front(store, SEED) is None
    with reading(store, store.sites, SEED, 2 * SHARD_BYTES) as early:
        order = [n for epoch in range(2) for n in permutation(SEED, epoch, len(SIZES)).tolist()]
        for visit in range(len(SIZES) + 1):
            early.shard(visit, order[visit], store.sites)
        assert front(store, SEED) == visit == len(SIZES)
        assert front(store, SEED + 1) is None
        n_read = len(reads)
        begin = store.batches_before(visit, BATCH_TOKENS, SEED)
        with reading(store, store.sites, SEED, 2 * SHARD_BYTES) as late:
            late.shard(visit, order[visit], store.sites)
            assert len(reads) == n_read, "the shard that the other is at is in the window"
            got = list(itertools.islice(stream(store, late, begin), 3))
    assert_equal(got, alone(store, 3, begin))
    with reading(store, store.sites, SEED, 2 * SHARD_BYTES) as resumed:
        assert_equal(
            list(itertools.islice(stream(store, resumed, begin + 3), 9)), alone(store, 9, begin + 3)
        )


def test_batches_before_a_visit_are_counted(store: Store):
    order = [n for epoch in range(3) for n in permutation(SEED, epoch, len(SIZES)).tolist()]
    for visit in range(len(order)):
        begun = sum(SIZES[number] // BATCH_TOKENS for number in order[:visit])
        assert store.batches_before(visit, BATCH_TOKENS, SEED) == begun


def test_nothing_is_hashed_twice(store: Store, monkeypatch: pytest.MonkeyPatch):
    hashed: list[Any] = []
    hash_of = files.blake3_in
    monkeypatch.setattr(files, "blake3_in", lambda data: hashed.append(data) or hash_of(data))
    with reading(store, [RESID], SEED, ALL_BYTES) as one:
        list(itertools.islice(stream(store, one, sites=[RESID]), PER_EPOCH))
        n_hashed = len(hashed)
        other = Store.open(store.folder)
        with reading(other, [RESID], SEED, ALL_BYTES) as two:
            list(itertools.islice(stream(other, two, sites=[RESID]), PER_EPOCH))
    assert len(hashed) == n_hashed == 3 * len(SIZES)  # seal, tokens and the site, of each shard
