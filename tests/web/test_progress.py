"""Progress: a run's events, folded as they come."""

import math
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from panscope.errors import Corrupt
from panscope.events import Advanced, Event, Finished, Measured, Started, Warned, to_jsonl
from panscope.web.app import create_app
from panscope.web.progress import Progress

BEGUN = [Started("train", 1_000, "tokens"), Advanced("train", 250, {"fvu": 0.5, "l0": math.nan})]


def written(run: Path, *events: Event) -> Path:
    emit = to_jsonl(run / "events.jsonl")
    for event in events:
        emit(event)
    return run / "events.jsonl"


def test_a_stage_at_work(tmp_path: Path) -> None:
    view = Progress(written(tmp_path, *BEGUN)).view()
    (stage,) = view.stages
    assert (stage.stage, stage.state, stage.done, stage.total) == ("train", "running", 250, 1_000)
    assert stage.metrics == {"fvu": 0.5, "l0": None}
    assert stage.left_seconds == pytest.approx(3 * (stage.last - stage.began))


def test_a_stage_without_news_is_quiet(tmp_path: Path) -> None:
    progress = Progress(written(tmp_path, *BEGUN))
    assert progress.view(time.time() + 100).stages[0].state == "running"
    assert progress.view(time.time() + 150).stages[0].state == "quiet"


def test_stages_end_and_begin_again(tmp_path: Path) -> None:
    path = written(tmp_path, *BEGUN, Finished("train", 3.0), Started("describe", 10, "tokens"))
    progress = Progress(path)
    assert [(s.stage, s.state) for s in progress.view().stages] == [
        ("describe", "running"),
        ("train", "done"),
    ]
    written(tmp_path, Finished("train", 0.0, reused=True), Finished("evaluate", 0.0, reused=True))
    states = {stage.stage: stage.state for stage in progress.view().stages}
    assert states == {"train": "reused", "describe": "running", "evaluate": "reused"}
    written(tmp_path, *BEGUN)
    assert progress.view().stages[0].stage == "train"
    assert progress.view().stages[0].state == "running"


def test_each_line_is_read_once_and_half_a_line_is_waited_for(tmp_path: Path) -> None:
    path = written(tmp_path, *BEGUN)
    progress = Progress(path)
    progress.view()
    with path.open("a") as file:
        file.write('{"time": 1.0, "event": "Advanced", "stage": "train", "done": 99')
    assert progress.view().stages[0].done == 250
    with path.open("a") as file:
        file.write("9}\n")
    assert progress.view().stages[0].done == 999


def test_another_file_in_its_place_is_read_anew(tmp_path: Path) -> None:
    path = written(tmp_path, *BEGUN)
    progress = Progress(path)
    progress.view()
    path.unlink()
    written(tmp_path, Started("harvest", 5, "tokens"))
    assert [stage.stage for stage in progress.view().stages] == ["harvest"]


def test_saes_and_warnings_keep_their_last(tmp_path: Path) -> None:
    measured = [Measured("train", n, 10 * n, {"a": {"fvu": 1 / n}, "b": {}}) for n in (1, 2)]
    warned = [Warned("train", f"w{n}") for n in range(30)]
    view = Progress(written(tmp_path, *measured, *warned)).view()
    assert view.saes == {"a": {"fvu": 0.5}, "b": {}}
    assert view.warnings[-1] == "train: w29"
    assert len(view.warnings) == 20


@pytest.mark.parametrize(
    "line", ["{", '{"time": 1}', '{"time": 1, "event": "Bang"}', "[]", "\udcff"]
)
def test_a_line_that_is_no_event_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line.encode(errors="surrogateescape") + b"\n")
    progress = Progress(path)
    for _ in range(2):
        with pytest.raises(Corrupt, match=r"events.jsonl: holds a line that is no event"):
            progress.view()
    path.unlink()
    assert progress.view().stages == ()


def test_a_run_at_work_has_progress_before_it_has_an_atlas(tmp_path: Path) -> None:
    written(tmp_path, *BEGUN)
    client = TestClient(create_app(tmp_path))
    assert client.get("/api/progress").json()["stages"][0]["done"] == 250
    assert "Progress of" in client.get("/progress").text
    assert "see /progress" in client.get("/api/suite").json()["error"]["message"]


def test_a_run_without_events_says_so(client: TestClient) -> None:
    assert client.get("/api/progress").json() == {"stages": [], "saes": {}, "warnings": []}
