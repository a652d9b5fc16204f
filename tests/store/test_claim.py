"""Claims: one holder at a time, free again however the holder ended, whatever the clock says."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from panscope.errors import PanscopeError
from panscope.place import Place
from panscope.store.claim import claimed, sweep

HOLDER = """
import sys, time
from panscope.place import Place
from panscope.store.claim import claimed

with claimed(Place.of(sys.argv[1]), wait=False) as granted:
    print(granted, flush=True)
    time.sleep(60)
"""


def test_a_claim_is_of_one_holder_and_leaves_no_trace(tmp_path: Path):
    shard, other = (Place.of(tmp_path / name) for name in ("shard-00000", "shard-00001"))
    with claimed(shard, wait=False) as first, claimed(shard, wait=False) as second:
        assert (first, second) == (True, False)
        with claimed(other, wait=False) as third:
            assert third
    with claimed(shard, wait=False) as again:
        assert again
    assert list(tmp_path.iterdir()) == []


def test_the_claim_of_a_killed_process_is_free_whatever_the_clock_says(tmp_path: Path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "shard-00000")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "True\n"
        _refused_at_all_times(tmp_path)
        holder.kill()
    shard, left = Place.of(tmp_path / "shard-00000"), tmp_path / ".shard-00000.claim"
    assert left.exists()
    with claimed(shard, wait=True) as granted:
        assert granted
    assert not left.exists()


def _refused_at_all_times(folder: Path) -> None:
    shard, left = Place.of(folder / "shard-00000"), folder / ".shard-00000.claim"
    for moment in (0, time.time(), 4e9):  # a lease by the clock would have run out at one of these
        os.utime(left, (moment, moment))
        with claimed(shard, wait=False) as granted:
            assert not granted


def test_waiting_ends_when_the_holder_does(tmp_path: Path):
    shard, order = Place.of(tmp_path / "shard-00000"), []

    def wait() -> None:
        with claimed(shard, wait=True):
            order.append("second")

    with claimed(shard, wait=False):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.05)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_many_who_wait_are_let_in_one_by_one(tmp_path: Path):
    shard, inside, most = Place.of(tmp_path / "shard-00000"), [], []

    def enter() -> None:
        for _ in range(20):
            with claimed(shard, wait=True):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 160
    assert list(tmp_path.iterdir()) == []


def test_what_killed_holders_left_is_swept_and_live_claims_are_not(tmp_path: Path):
    (tmp_path / ".shard-00000.claim").touch()
    (tmp_path / ".manifest.json.1.tmp").touch()
    with claimed(Place.of(tmp_path / "shard-00001"), wait=False):
        sweep(Place.of(tmp_path))
        assert [path.name for path in tmp_path.iterdir()] == [".shard-00001.claim"]


def test_a_folder_that_takes_no_claims_is_said(tmp_path: Path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(PanscopeError, match=r"could not be claimed \(.*; check space and permiss"),
        claimed(Place.of(tmp_path / "file" / "shard-00000"), wait=False),
    ):
        pass
