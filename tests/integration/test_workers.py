"""Many workers make what one process makes, byte for byte, though one is killed in mid-run."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from panscope import files
from panscope.cluster import on_ray
from panscope.errors import Incomplete
from panscope.events import Advanced, Event, Finished, Measured, Started, Warned
from panscope.recipe import Recipe, read_recipe
from panscope.relay import FOLDER

SIZES = (
    "text.context=16",
    "harvest.sites=['resid_post.*']",
    "harvest.bucket_tokens=512",
    "harvest.batch_rows=8",
    "harvest.tokens=40000",
    "train.sites=['resid_post.*', 'mlp_out.1']",
    "train.widths=[48]",
    "train.target_l0=[6.0]",
    "train.tokens=64000",
    "train.batch_tokens=128",
    "train.checkpoint_steps=10",
    "evaluate.tokens=256",
    "describe.tokens=1024",
)


ALONE = """
import sys
from pathlib import Path
from panscope.events import silent
from panscope.launch import Launch
from panscope.recipe import read_recipe
run = Launch(read_recipe("demo", tuple(sys.argv[2:])), Path(sys.argv[1]), silent)
for verb in (run.harvest, run.train, run.evaluate, run.describe):
    verb()
"""
ONE_THREAD = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}  # one GPU is too few


def assignments(model: Path, text: Path) -> tuple[str, ...]:
    return (*SIZES, f"model.name={model}", f"text.path={text}", "text.held_out=0.2")


@pytest.fixture(scope="module")
def recipe(tiny_model_folder: Path, long_text: Path) -> Recipe:
    return read_recipe("demo", assignments(tiny_model_folder, long_text))


@pytest.fixture(scope="module")
def long_text(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "long.jsonl"
    path.write_text(tiny_text.read_text(encoding="utf-8") * 8, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def alone(
    tiny_model_folder: Path, long_text: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What one process makes by itself; not this one, whose checks of types take most of a step."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    program = [sys.executable, "-c", ALONE, str(out), *assignments(tiny_model_folder, long_text)]
    subprocess.run(program, env=ONE_THREAD, check=True)
    return out


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Ray cluster of four CPUs, most of whose start is waiting."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    sizes = {"num_cpus": 4, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=sizes)
    yield cluster.address
    cluster.shutdown()


def hashes(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): files.blake3_of(path) for path in paths}


def written_at(paths: list[Path]) -> dict[Path, tuple[int, int]]:
    """Tell files that stay from files that are written again."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


@dataclass
class Killer:
    """A display that kills worker 1 as soon as it sees some of that worker's work done."""

    out: Path
    done_by_it: Callable[[], list[Path]]
    events: list[Event] = field(default_factory=list)
    kept: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if not self.kept and self.done_by_it():
            process = next((self.out / FOLDER).glob("1.*-share.*")).stem.rpartition("-")[2]
            os.kill(int(process), signal.SIGKILL)
            self.kept = written_at(self.done_by_it())

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.mark.slow
def test_harvest_on_ray_with_a_worker_killed(
    recipe: Recipe, alone: Path, address: str, tmp_path: Path
):
    def sealed() -> list[Path]:
        shards = sorted((tmp_path / "store").glob("shard-*/seal.json"))
        return [seal for seal in shards if int(seal.parent.name[-5:]) % 3 == 1]

    killer = Killer(tmp_path, sealed)
    with on_ray(recipe, tmp_path, killer, 3, address) as crew:
        crew.run("harvest")
    assert hashes(tmp_path / "store") == hashes(alone / "store")
    assert "goes on with the work of one that was lost" in killer.of(Warned)[0].text
    assert 0 < len(killer.kept) < len(sealed()) / 2, "killed in mid-run"
    assert written_at(list(killer.kept)) == killer.kept, "nothing sealed is done twice"
    assert len(killer.of(Started)) == len(killer.of(Finished)) == 1, "one display"
    assert killer.of(Advanced)[-1].done == recipe.harvest.tokens
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.slow
def test_train_on_ray_with_a_worker_killed(
    recipe: Recipe, alone: Path, address: str, tmp_path: Path
):
    killer = Killer(
        tmp_path, lambda: sorted((tmp_path / "suite/.checkpoints/bank-1").glob("step-*"))
    )
    with on_ray(recipe, tmp_path, killer, 2, address) as crew:
        for verb in ("train", "evaluate", "describe"):
            crew.run(verb)
    assert hashes(tmp_path / "suite") == hashes(alone / "suite")
    assert hashes(tmp_path / "atlas") == hashes(alone / "atlas")
    assert "goes on with the work of one that was lost" in killer.of(Warned)[0].text
    step = int(next(iter(killer.kept)).stem.removeprefix("step-"))
    counts = Counter((sae, e.step) for e in killer.of(Measured) for sae in e.saes)
    assert {sae for sae, _ in counts} == set(read_names(alone))
    assert all(n == 1 for (_, at), n in counts.items() if at <= step), "no step is done twice"
    trained = [event for event in killer.of(Advanced) if event.stage == "train"]
    assert trained[-1].done == killer.of(Started)[0].total


def read_names(run: Path) -> list[str]:
    return [fact["sae"] for fact in files.read_manifest(run / "suite").facts["saes"]]


@pytest.mark.slow
def test_what_a_job_on_ray_refuses_is_said_once(recipe: Recipe, address: str, tmp_path: Path):
    events: list[Event] = []
    (tmp_path / "store").mkdir()
    from_store = recipe.model_copy(update={"source": "store"})
    refused = pytest.raises(Incomplete, match=r"store: has no manifest.json; run the stage")
    with on_ray(from_store, tmp_path, events.append, 2, address) as crew, refused:
        crew.run("train")
    assert events == []


@contextmanager
def torchrun(*args: object, processes: int = 2) -> Iterator[subprocess.Popen[str]]:
    torchrun = (
        "torch.distributed.run",
        "--nproc-per-node",
        processes,
        "--max-restarts",
        1,
        "--standalone",
    )
    command = [sys.executable, "-m", *torchrun, "-m", "panscope", *args]
    process = subprocess.Popen(
        [str(arg) for arg in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ONE_THREAD,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_torchrun_with_a_process_killed(
    tiny_model_folder: Path, long_text: Path, alone: Path, tmp_path: Path
):
    run = tmp_path / "run"
    args = ("demo", "--no-serve", *assignments(tiny_model_folder, long_text), "--output", run)
    with torchrun(*args) as process:
        while not list((run / "suite/.checkpoints/bank-1").glob("step-*")):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        second = next((run / FOLDER).glob("1.torchrun.*")).stem.rpartition("-")[2]
        os.kill(int(second), signal.SIGKILL)
        output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "all go on from what they had (restart 1)" in output.replace("\n", " ")
    assert output.count("train  ✓") == 1, "one process speaks"
    assert hashes(run / "suite") == hashes(alone / "suite")
    assert hashes(run / "atlas") == hashes(alone / "atlas")
