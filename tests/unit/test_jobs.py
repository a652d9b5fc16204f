"""How a verb is divided among workers, and how a cluster is."""

import pickle
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from panscope import dist
from panscope.cli import main
from panscope.cluster import _divided, on_ray
from panscope.dist import WHOLE, Share
from panscope.errors import ConfigError, Incomplete, Interrupted, NotFound, PanscopeError
from panscope.events import silent
from panscope.jobs import Job, Processes, phases
from panscope.launch import Launch
from panscope.recipe import read_recipe


def test_every_piece_is_in_one_share():
    shares = [Share(rank, 3) for rank in range(3)]
    assert [sum(n in share for share in shares) for n in range(10)] == [1] * 10
    assert all(n in WHOLE for n in range(10))


def test_a_verb_for_one_worker_is_one_job():
    for verb in ("harvest", "train", "evaluate", "describe"):
        assert phases(verb, 1) == [[Job(verb)]]


def test_sealing_waits_for_all_shares():
    shares = [Share(0, 2), Share(1, 2)]
    harvest = [[Job("harvest", "share", s) for s in shares], [Job("harvest", "seal", shares[0])]]
    assert phases("harvest", 2) == harvest
    assert [[job.act for job in jobs] for jobs in phases("train", 2)] == [
        ["begin"],
        ["share", "share"],
        ["seal"],
    ]
    assert [[job.act for job in jobs] for jobs in phases("describe", 2)] == [
        ["share", "share"],
        ["tell", "tell"],
        ["seal"],
    ]
    assert phases("evaluate", 2) == [[Job("evaluate")]]


def test_all_processes_train_together_where_latents_are_split():
    shares = [Share(0, 2), Share(1, 2)]
    assert phases("train", 2, splits_latents=True) == [
        [Job("train", "together", s) for s in shares]
    ]
    assert phases("harvest", 2, splits_latents=True) == phases("harvest", 2)


def test_a_process_does_its_own_jobs_between_waits(monkeypatch: pytest.MonkeyPatch):
    done: list[Any] = []
    launch = Launch(read_recipe("demo"), Path(), silent)
    monkeypatch.setattr("panscope.jobs.do", lambda job, launch: done.append(job.act))
    monkeypatch.setattr(dist, "wait_for_all", lambda look: done.append("wait"))
    for rank, expected in enumerate(
        (["begin", "wait", "share", "wait", "seal", "wait"], ["wait", "share", "wait", "wait"])
    ):
        Processes(launch, Share(rank, 2)).run("train")
        assert done == expected
        done.clear()


def machine(cpus: int, gpus: int = 0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}}


def test_a_cluster_is_divided_so_that_all_workers_find_room():
    assert _divided([machine(8), machine(8)], None) == (2, {"num_cpus": 8})
    assert _divided([machine(8), machine(6)], 2) == (2, {"num_cpus": 6})
    assert _divided([machine(8), machine(3)], 5) == (5, {"num_cpus": 2})
    assert _divided([machine(8), machine(64, alive=False)], 2) == (2, {"num_cpus": 4})
    gpus = [machine(32, 4), machine(32, 4), machine(64)]
    assert _divided(gpus, None) == (8, {"num_cpus": 8, "num_gpus": 1})
    assert _divided(gpus, 2) == (2, {"num_cpus": 32, "num_gpus": 1})


def test_more_workers_than_there_is_room_for_are_refused():
    with pytest.raises(ConfigError, match="--workers: 9 workers are more than the 8 that"):
        _divided([machine(32, 8)], 9)


def test_an_error_of_a_worker_arrives_as_it_was():
    interrupted = Interrupted("train", "SIGTERM stopped it", "run it again", signal.SIGTERM)
    for error in (PanscopeError("a", "b", "c"), NotFound("a: x", "b", "c"), interrupted):
        arrived = pickle.loads(pickle.dumps(error))
        assert type(arrived) is type(error)
        assert str(arrived) == str(error)
        assert arrived.exit_code == error.exit_code


@pytest.mark.parametrize("option", ["--workers", "--ray-address"])
def test_options_of_ray_are_refused_without_it(tmp_path: Path, option: str):
    args = ["train", "demo", "--output", str(tmp_path), option, "2"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 2 and "are for Ray" in result.output


def test_a_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "ray", None)
    wanted = pytest.raises(ConfigError, match=r"ray is not installed; run pip install 'panscope\[")
    with wanted, on_ray(read_recipe("demo"), tmp_path, silent, 2, None):
        pass


@pytest.mark.parametrize(
    ("address", "error", "found"),
    [
        ("127.0.0.1:1", NotFound, r"ray 127\.0\.0\.1:1: no cluster answers there"),
        ("127.0.0.1:99999", NotFound, "no cluster answers there"),
        ("127.0.0.1", ConfigError, r"127\.0\.0\.1 is not HOST:PORT"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(
    tmp_path: Path, address: str, error: type[PanscopeError], found: str
):
    pytest.importorskip("ray")
    with (
        pytest.raises(error, match=found),
        on_ray(read_recipe("demo"), tmp_path, silent, None, address),
    ):
        pass


def test_a_cluster_that_does_not_start_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def init(**options: Any) -> None:
        raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(pytest.importorskip("ray"), "init", init)
    wanted = pytest.raises(Incomplete, match=r"did not start \(The current node timed out during s")
    with wanted, on_ray(read_recipe("demo"), tmp_path, silent, 2, None):
        pass
