"""Waiting for other processes, which may be lost."""

import os
import socket
import subprocess
import sys

import pytest

from panscope import dist
from panscope.errors import ConfigError

WAITING = """
import os, sys
from panscope import dist
from panscope.errors import Incomplete

looks = []
with dist.joined() as share:
    dist.wait_for_all()
    if share.rank == 1:
        os._exit(0)  # lost
    try:
        dist.wait_for_all(lambda: looks.append(share))
    except Incomplete as error:
        print(error)
os._exit(0)
"""


@pytest.mark.slow
def test_a_process_that_is_lost_is_missed():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    where["CUDA_VISIBLE_DEVICES"] = ""  # a machine may have one GPU
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WAITING],
            env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said, _ = (process.communicate(timeout=200)[0] for process in processes)
    assert said.startswith("torchrun: another process has stopped; its own message says why")


def test_a_process_by_itself_waits_for_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with dist.joined() as share:
        dist.wait_for_all(lambda: pytest.fail("there is nothing to wait for"))
    assert share == dist.WHOLE


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    found = "torchrun: is process 2 of this machine, which has 1 GPU.s.; start one process a GPU"
    with pytest.raises(ConfigError, match=found), dist.joined():
        pytest.fail("it has no GPU")
