"""This machine's rates: with the model and without it; nothing is left on the disk."""

from pathlib import Path

import pytest

from panscope.errors import PanscopeError
from panscope.events import Advanced, Event, Finished, Started, silent
from panscope.model import load
from panscope.plan import calibrate, plan
from panscope.plan.cost import Prices
from panscope.plan.work import Wanted
from panscope.recipe import Recipe
from panscope.stages.train import memory


def wanted(folder: Path, name: str | None = None, site: str = "resid_post.1") -> Wanted:
    shape = load.read_shape(load.Config(name=str(folder)))
    model = {"name": name or str(folder), "shape": shape.model_dump()}
    train = {"sites": [site], "widths": [64], "target_l0": [4.0], "batch_tokens": 64}
    harvest = {"batch_rows": 2}
    return Wanted(Recipe.parse({"model": model, "train": train, "harvest": harvest}, "test"), shape)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "CHUNK", 1 << 20)


@pytest.mark.parametrize("name", [None, "owner/elsewhere", "."])
def test_every_rate_is_measured_and_nothing_left(
    tiny_model_folder: Path, tmp_path: Path, name: str | None
):
    """With the model, with nothing but its name, and with a folder that has no weights."""
    events: list[Event] = []
    out = tmp_path / "not" / "yet"
    here = calibrate.here(wanted(tiny_model_folder, name), out, events.append, seconds=0.2)
    device = load.device_of(load.Config(name=str(tiny_model_folder)))
    assert here.memory_bytes == memory.memory_of(device)
    assert here.is_gpu == (device.type == "cuda")
    for rate in (here.model_flops, here.train_flops, here.write_bytes, here.read_bytes):
        assert 1e5 < rate < 1e13
    assert list(tmp_path.iterdir()) == []
    assert events[0] == Started("calibrate", 0, "seconds")
    assert isinstance(events[-1], Finished)
    assert any(isinstance(event, Advanced) for event in events)


def test_the_embedding_alone_is_planned_too(tiny_model_folder: Path, tmp_path: Path):
    asked = wanted(tiny_model_folder, site="embed")
    here = calibrate.here(asked, tmp_path, silent, seconds=0.0)
    (found,) = plan(asked, [here], Prices()).costs
    assert found.streaming.hours == 0
    assert found.total_hours > 0


def test_a_slow_measurement_is_made_once():
    clock = calibrate._Clock(silent, seconds=0.0)
    asked: list[float] = []
    assert clock.median(lambda: asked.append(1.0) or 7.0) == 7.0
    assert len(asked) == 1


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux has /proc")
def test_a_folder_that_cannot_be_written_is_named(tiny_model_folder: Path):
    with pytest.raises(PanscopeError, match=r"/proc: the disk's speed cannot be measured") as error:
        calibrate.here(wanted(tiny_model_folder), Path("/proc/runs"), silent, seconds=0.0)
    assert "--no-calibration" in str(error.value)
