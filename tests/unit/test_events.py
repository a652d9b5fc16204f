"""Events and where they go: JSON lines, bars, TensorBoard, Weights & Biases."""

import io
import json
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from panscope import events, sinks
from panscope.errors import ConfigError, Interrupted, PanscopeError
from panscope.events import (
    Advanced,
    Bars,
    Event,
    Finished,
    Measured,
    Started,
    Warned,
    fan_out,
    to_jsonl,
)

SAE = "resid_post.0/w8_l0_2_s0"


def measured(step: int, loss: float = 0.5) -> Measured:
    edges = (-2.0, -1.0, 0.0)
    return Measured("train", step, 64 * step, {SAE: {"loss": loss}}, {SAE: (3, 5)}, edges)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_event_is_a_line(tmp_path: Path):
    emit = to_jsonl(tmp_path / "run" / "events.jsonl")
    for event in (Started("train", 9, "tokens"), measured(20), Warned("train", "größer")):
        emit(event)
    started, numbers, warned = lines(tmp_path / "run" / "events.jsonl")
    assert (started["event"], started["stage"], started["total"]) == ("Started", "train", 9)
    assert numbers["saes"] == {SAE: {"loss": 0.5}}
    assert (numbers["densities"], numbers["density_edges"]) == ({SAE: [3, 5]}, [-2, -1, 0])
    assert warned["text"] == "größer"
    assert started["time"] <= warned["time"]


def test_what_json_has_no_number_for_is_null(tmp_path: Path):
    emit = to_jsonl(tmp_path / "events.jsonl")
    emit(measured(20, float("nan")))
    emit(Advanced("train", 1, {"loss": float("-inf"), "l0": 2.0}))
    text = (tmp_path / "events.jsonl").read_text()
    assert "NaN" not in text
    first, second = lines(tmp_path / "events.jsonl")
    assert first["saes"][SAE]["loss"] is None
    assert second["metrics"] == {"loss": None, "l0": 2.0}


@pytest.mark.parametrize("left", [b"", b'{"event": "St', b'{"event": "Whole"}\n{"event": "Ha'])
def test_half_a_line_that_a_killed_process_left_is_dropped(tmp_path: Path, left: bytes):
    path = tmp_path / "events.jsonl"
    path.write_bytes(left)
    emit = to_jsonl(path)
    emit(Finished("train", 1.0))
    emit(Finished("evaluate", 1.0))
    whole = ["Whole"] * left.count(b"\n")
    assert [line["event"] for line in lines(path)] == [*whole, "Finished", "Finished"]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "events.jsonl"
    emit = to_jsonl(path)
    emit(Finished("train", 1.0))

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(memoryview(data)[:5])

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode, buffering: Full(path, mode.replace("b", "")))
        with pytest.raises(
            PanscopeError, match=r"could not be written \(No space left on device\)"
        ):
            emit(Finished("evaluate", 1.0))
    emit(Finished("describe", 1.0))
    assert [line["stage"] for line in lines(path)] == ["train", "describe"]


def test_fan_out_reaches_all():
    seen: list[Event] = []
    fan_out(seen.append, events.silent, seen.append)(measured(1))
    assert seen == [measured(1)] * 2


def drawn(*happening: Event, terminal: bool = True, width: int = 80) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    with Bars(console) as bars:
        for event in happening:
            bars(event)
        bars._progress.refresh()
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_bar_shows_metrics_in_their_order():
    metrics = {"loss": 0.123456, "l0": 20.25, "fvu": 0.25, "tokens/s": 123_456.7, "waiting": 0.5}
    happening = (Started("train", 10**9, "tokens"), Advanced("train", 10**8, metrics), measured(20))
    text = drawn(*happening)
    assert "100,000,000/1,000,000,000 tokens" in text
    assert "\n          loss 0.1235  l0 20.25  fvu 0.25  tokens/s 123,457  waiting 0.5" in text
    assert "tokens/s 12…" in drawn(*happening, width=55)


def test_a_stage_without_metrics_is_one_line():
    text = drawn(Started("describe", 100, "rows"), Advanced("describe", 50))
    assert "50/100 rows" in text
    assert text.count("\n") == 1


def test_without_a_terminal_a_stage_is_two_lines_and_its_warnings():
    said = Warned("train", "s: at step 60 no [/b] latent fires")
    happening = (Started("train", 100, "tokens"), measured(20), said, Finished("train", 2.0))
    text = drawn(*happening, terminal=False)
    assert text.splitlines() == [
        "    train  100 tokens ...",
        "train: s: at step 60 no [/b] latent fires",
        "    train  ✓ 2.0 s",
    ]


# TensorBoard


def curve(folder: Path, sae: str = SAE) -> tuple[list[int], list[float], int]:
    """Read back a Sae's loss: its steps, its values, and how many histograms stand beside it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / sae), size_guidance={"histograms": 0})  # 0: keep all
    read.Reload()
    points = read.Scalars("loss")
    return (
        [p.step for p in points],
        [p.value for p in points],
        len(read.Histograms("log10 density")),
    )


def test_tensorboard_gets_every_number_and_a_resumed_run_replaces_what_it_repeats(tmp_path: Path):
    pytest.importorskip("tensorboard")
    emit = sinks.to_tensorboard(tmp_path)
    emit(Started("train", 9, "tokens"))
    assert not list(tmp_path.iterdir())
    for step, loss in ((20, 4.0), (40, 2.0), (60, 1.0)):
        emit(measured(step, loss))
    assert curve(tmp_path) == ([20, 40, 60], [4, 2, 1], 3)
    resumed = sinks.to_tensorboard(tmp_path)
    resumed(measured(40, 2.5))
    resumed(Finished("train", 1.0))
    assert curve(tmp_path) == ([20, 40], [4, 2.5], 2)


def test_another_banks_curves_in_tensorboard_stay(tmp_path: Path):
    """Banks are trained one after another, each from step 0."""
    pytest.importorskip("tensorboard")
    emit = sinks.to_tensorboard(tmp_path)
    emit(measured(20))
    emit(measured(40))
    sinks.to_tensorboard(tmp_path)(Measured("train", 20, 1, {"mlp_out.0/b": {"loss": 7.0}}))
    assert curve(tmp_path)[0] == [20, 40]


def test_tensorboard_on_a_file_is_refused(tmp_path: Path):
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    emit = sinks.to_tensorboard(tmp_path / "file")
    with pytest.raises(PanscopeError, match=r"could not be written \(Not a directory\)"):
        emit(measured(20))


# Weights & Biases, as far as it can be asked without an account


class FakeWandb(ModuleType):
    """Takes what a module and a run of wandb take, and writes it down."""

    class Error(Exception):
        pass

    def __init__(self, refusal: Exception | None = None) -> None:
        super().__init__("wandb")
        self.calls: list[Any] = []
        self.refusal = refusal

    def init(self, **asked: Any) -> "FakeWandb":
        if self.refusal:
            raise self.refusal
        self.calls.append(("init", asked))
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.calls.append(("define_metric", name, step_metric))

    def log(self, row: dict[str, float]) -> None:
        self.calls.append(("log", row))

    def finish(self) -> None:
        self.calls.append(("finish",))


def test_wandb_gets_every_number(monkeypatch: pytest.MonkeyPatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    emit = sinks.to_wandb("suites", "mine", {"tokens": 9})
    emit(Finished("train", 0.0, reused=True))
    assert fake.calls == []
    happening = (Started("harvest", 9, "tokens"), Started("train", 9, "tokens"), measured(20))
    for event in (*happening, Advanced("train", 9), Finished("train", 1.0), measured(40)):
        emit(event)
    (init, asked), *rest = fake.calls
    assert (init, asked["project"], asked["name"]) == ("init", "suites", "mine")
    assert (asked["config"], asked["resume"]) == ({"tokens": 9}, "allow")
    assert rest == [
        ("define_metric", "*", "step"),
        ("log", {"step": 20, "tokens": 1280, f"loss/{SAE}": 0.5}),
        ("finish",),
    ]


def test_the_same_name_and_config_continue_the_same_wandb_run(monkeypatch: pytest.MonkeyPatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name, tokens in (("mine", 9), ("mine", 9), ("mine", 8), ("yours", 9)):
        sinks.to_wandb("suites", name, {"tokens": tokens})(Started("train", 9, "tokens"))
    first, again, shorter, other = (call[1]["id"] for call in fake.calls if call[0] == "init")
    assert first == again
    assert len({first, shorter, other}) == 3


def test_a_wandb_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(FakeWandb.Error("no API key")))
    emit = sinks.to_wandb("suites", "mine", {})
    with pytest.raises(
        PanscopeError, match=r"suites: cannot be opened \(no API key\).*wandb login"
    ):
        emit(Started("train", 9, "tokens"))


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("torch.utils.tensorboard", lambda: sinks.to_tensorboard(Path("unused"))),
        ("wandb", lambda: sinks.to_wandb("suites", "mine", {})),
    ],
)
def test_a_missing_library_is_named_before_any_work(
    monkeypatch: pytest.MonkeyPatch, module: str, make: Any
):
    monkeypatch.setitem(sys.modules, module, None)
    extra = module.rpartition(".")[2]
    with pytest.raises(ConfigError, match=rf"not installed; run pip install 'panscope\[{extra}\]'"):
        make()


def test_a_stopped_process_exits_as_its_signal_says():
    stopped = Interrupted("train", "stopped", "go on", signal.SIGTERM)
    assert (stopped.exit_code, Interrupted.exit_code) == (143, 130)
    assert str(stopped) == "train: stopped; go on"
