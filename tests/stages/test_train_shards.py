"""Latents split over processes: the same Saes as of one process; killed, stopped, resumed."""

import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from panscope import dist, files
from panscope.dist import Group
from panscope.errors import ConfigError, Corrupt
from panscope.kernels.pairs import Pairs
from panscope.sae.sae import WEIGHTS
from panscope.sae.suite import Suite
from panscope.stages.train import checkpoint, memory, shards, sweep
from panscope.stages.train.objective import Config

SCRIPT = Path(__file__).with_name("sharded_train.py")
SCENE = runpy.run_path(str(SCRIPT))
CASES, KILLED, SITES = SCENE["CASES"], SCENE["KILLED"], SCENE["SITES"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `sharded_train` fills."""
    folder = tmp_path_factory.mktemp("sharded")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, str(SCRIPT), str(folder)]
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def found(scene: Path) -> dict[str, Any]:
    """How its processes ended, and what they said."""
    ended: dict[str, Any] = json.loads((scene / "found.json").read_bytes())
    return ended


@pytest.fixture(scope="module")
def trajectories(scene: Path) -> dict[str, dict[int, Any]]:
    """What sixty steps made of each case, by the number of processes."""
    made: dict[str, dict[int, Any]] = torch.load(scene / "trajectories.pt")
    return made


def bytes_of(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def measured(events: Path) -> list[dict[str, dict[str, float]]]:
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    return [line["saes"] for line in lines if line["event"] == "Measured"]


# Equal


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_trajectory_is_that_of_one_process(case: str, trajectories: dict[str, dict[int, Any]]):
    """In float64 to rounding: what all rebuild is added up in another order."""
    alone, *others = trajectories[case].values()
    for split in others:
        assert torch.equal(split["drawn"], alone["drawn"])
        for name, value in alone["own"].items():
            torch.testing.assert_close(split["own"][name], value, rtol=1e-9, atol=1e-12)
        assert torch.equal(split["own"]["seen"], alone["own"]["seen"])
        for name, value in alone["common"].items():
            torch.testing.assert_close(split["common"][name][:1], value, rtol=1e-9, atol=1e-12)
        assert split["metrics"] == pytest.approx(alone["metrics"], rel=1e-6)
        assert split["metrics"]["l0"] == alone["metrics"]["l0"]
        assert split["densities"] == alone["densities"]


@pytest.mark.slow
def test_what_all_share_has_the_same_bits_in_all(trajectories: dict[str, dict[int, Any]]):
    seen = set()
    for by_size in trajectories.values():
        for size, made in by_size.items():
            for name, everyones in made["common"].items():
                assert len(everyones) == size
                assert all(torch.equal(one, everyones[0]) for one in everyones)
                seen.add((name, size))
    assert {("b_dec", 2), ("skip", 2), ("floor", 2), ("least", 2), ("least", 4)} <= seen


@pytest.mark.slow
def test_a_suite_of_two_processes_is_that_of_one(scene: Path, found: dict[str, Any]):
    """In float32, through drawing, scales, readings, checkpoints and the files."""
    assert found["whole"] == [0, 0]
    one, two = (Suite.open(scene / name) for name in ("suite-1", "suite-2"))
    assert one.names == two.names
    for name in one.names:
        assert one.facts[name] == two.facts[name]
        ours, theirs = two.load(name), one.load(name)
        for weight in (*WEIGHTS, *(["skip"] if theirs.skip is not None else [])):
            a, b = getattr(ours, weight), getattr(theirs, weight)
            assert (a - b).norm() <= 1e-5 * b.norm(), (name, weight)


@pytest.mark.slow
def test_metrics_are_those_of_one_process(scene: Path):
    one, two = (measured(scene / f"suite-{n}.jsonl") for n in (1, 2))
    assert len(one) == len(two) > 3
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for sae, metrics in a.items():
            assert b[sae] == pytest.approx(metrics, rel=1e-5, abs=1e-6)


# Killed, stopped


@pytest.mark.slow
def test_killed_at_any_instant_it_ends_with_the_same_bytes(scene: Path, found: dict[str, Any]):
    uninterrupted = bytes_of(scene / "suite-2")
    assert not any(name.startswith(".") for name in uninterrupted)
    for n, (victim, *codes, said) in enumerate(found["killed"]):
        assert codes[victim] == -9
        assert codes[1 - victim] == 1
        assert said.startswith(f"process {1 - victim} of 2: an exchange with the others failed (")
        assert bytes_of(scene / f"killed-{n}") == uninterrupted
    assert len(found["killed"]) == KILLED


@pytest.mark.slow
def test_a_signal_to_one_stops_all_after_the_same_step(scene: Path, found: dict[str, Any]):
    assert found["stopped"] == [143, 143]
    for said in found["stopped said"]:
        assert said.startswith("train: SIGTERM stopped it after step 21 of 30 of bank 1 of 2")
    assert bytes_of(scene / "stopped") == bytes_of(scene / "suite-2")


@pytest.mark.slow
def test_another_number_of_processes_does_not_go_on(found: dict[str, Any]):
    assert found["four"] == [2, 1, 1, 1]
    assert "was begun with latent_shards = 2, not 4" in found["four said"]


@pytest.mark.slow
def test_processes_that_read_different_activations_are_found_out(found: dict[str, Any]):
    assert found["unlike"] == [1, 1]
    assert "b_dec: is not the same in all 2 processes" in found["unlike said"]


@dataclass(frozen=True)
class Two(Group):
    """This process, and another that has these steps."""

    rank: int = 0
    size: int = 2
    theirs: tuple[int, ...] = ()

    def gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, torch.tensor([[*self.theirs[::-1], 0, 0][:2]])])


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [((8, 16), (0, 8), 8), ((8,), (), 0), ((8, 16), (16, 24), 16), ((8, 16), (8, 16), 16)],
)
def test_processes_go_on_from_the_newest_step_of_all(
    tmp_path: Path, ours: tuple[int, ...], theirs: tuple[int, ...], agreed: int
):
    for step in ours:
        checkpoint.write(tmp_path, step, "key", {"w": torch.full((3,), float(step))})
    found = checkpoint.read(tmp_path, "key", print, Two(theirs=theirs))
    assert (found.step if found else 0) == agreed
    assert all(int(path.stem[5:]) <= agreed for path in tmp_path.iterdir())


def test_processes_without_a_common_step_do_not_start_anew(tmp_path: Path):
    for step in (8, 16):
        checkpoint.write(tmp_path, step, "key", {"w": torch.zeros(3)})
    with pytest.raises(Corrupt, match="the 2 processes have no checkpoint of the same step"):
        checkpoint.read(tmp_path, "key", print, Two())


# Asked for


def test_widths_must_split_evenly():
    message = r"width 50 does not split into 4 equal latent_shards"
    with pytest.raises(ConfigError, match=message):
        Config.parse({"target_l0": [3.0], "widths": [64, 50], "latent_shards": 4}, "r.toml")


def test_as_many_processes_must_be_started_as_are_asked_for():
    assert dist.together(dist.WHOLE, 1) is dist.ALONE
    match = "wants 2 processes, and 3 started; start them with torchrun --nproc-per-node 2"
    with pytest.raises(ConfigError, match=match):
        dist.together(dist.Share(0, 3), 2)


def test_memory_is_divided():
    d_at = dict.fromkeys(SITES, 512)

    def needed(n_shards: int) -> tuple[int, int]:
        settings = SCENE["config"](n_shards, widths=(1 << 15,), target_l0=(3.0,))
        specs = sweep.specs(settings, n_layers=2)
        state = memory.state_bytes(specs[0], d_at, settings)
        return state, memory.group_bytes(specs, d_at, settings, CPU)

    (state, group), (half_state, half_group) = needed(1), needed(2)
    assert half_state == pytest.approx(state / 2, rel=1e-3)
    assert half_group < 0.55 * group


def test_alone_nothing_is_exchanged():
    x = torch.zeros(3, 2)
    assert dist.ALONE.sum_(x) is x
    assert dist.ALONE.gathered(x) is x
    assert (dist.ALONE.total(3), dist.ALONE.most(3)) == (3, 3)


def test_the_largest_of_equal_values_are_told_apart_as_one_process_would():
    z = torch.tensor([[2.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    chosen = shards.are_largest(z, 2, dist.ALONE)
    assert chosen.sum(1).tolist() == [2, 2]
    assert chosen[0, 3]
    offsets = torch.tensor([0, 3, 4])
    token, latent = torch.tensor([0, 0, 0, 1]).int(), torch.tensor([0, 1, 4, 2]).int()
    pairs = Pairs(token, latent, torch.tensor([1.0, 3.0, 2.0, 5.0]), offsets, 5)
    assert pairs.slot.tolist() == [0, 1, 2, 0]
    assert pairs.padded().tolist() == [[1.0, 3.0, 2.0], [5.0, -torch.inf, -torch.inf]]
    assert shards.largest(pairs, 2, dist.ALONE).latent.tolist() == [1, 4, 2]


@pytest.mark.slow
def test_torchrun_trains_from_a_recipe(tmp_path: Path, tiny_model_folder: Path, tiny_text: Path):
    """Two processes read the same live stream of a model and make one suite."""
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    recipe = ["-m", "panscope", "train", "demo", "--output", str(tmp_path)]
    changes = [
        f"model.name={tiny_model_folder}",
        "model.device=cpu",
        f"text.path={tiny_text}",
        'train.sites=["resid_post.1", "mlp_out.0"]',
        "train.tokens=2048",
        "train.batch_tokens=128",
        "train.widths=[64]",
        "train.target_l0=[8.0]",
        "train.latent_shards=2",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*run, *recipe, *changes], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert files.verify(tmp_path / "suite") == []
    suite = Suite.open(tmp_path / "suite")
    assert {suite.load(name).width for name in suite.names} == {64}
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines].count("Finished") == 1
