import json
from pathlib import Path

import pytest

from panscope.events import Advanced, Event, Finished, Measured, Started, Warned, to_jsonl
from panscope.relay import FOLDER, Relay, to_relay


@pytest.fixture
def shown() -> list[Event]:
    return []


@pytest.fixture
def relay(tmp_path: Path, shown: list[Event]) -> Relay:
    return Relay(tmp_path, shown.append)


def test_progress_is_added_up_and_metrics_are_averaged(
    relay: Relay, tmp_path: Path, shown: list[Event]
):
    first, second = (to_relay(tmp_path, rank, "train-share") for rank in (0, 1))
    for worker in (first, second):
        worker(Started("train", 100, "tokens"))
    first(Advanced("train", 10, {"loss": 1.0, "fvu": 0.5}))
    first(Advanced("train", 20, {"loss": 2.0, "fvu": 0.5}))
    second(Advanced("train", 30, {"loss": 4.0}))
    relay.look()
    assert shown == [
        Started("train", 100, "tokens"),
        Advanced("train", 50, {"loss": 3.0, "fvu": 0.5}),
    ]
    second(Advanced("train", 90, {}))
    measured = Measured("train", 5, 50, {"a": {"loss": 1.0}}, {"a": [1, 2]}, [0.0, 1.0])
    second(measured)
    relay.look()
    assert shown[2:] == [measured, Advanced("train", 100, {"loss": 2.0, "fvu": 0.5})], "not 110"


def test_a_stage_begins_and_ends_once(relay: Relay, tmp_path: Path, shown: list[Event]):
    worker = to_relay(tmp_path, 1, "harvest-share")
    relay(Started("harvest", 9, "tokens"))
    worker(Started("harvest", 9, "tokens"))
    relay(Advanced("harvest", 3))
    relay(Finished("harvest", 0.0))
    worker(Advanced("harvest", 9))
    relay.look()
    assert [type(event) for event in shown] == [Started, Advanced, Finished]
    assert isinstance(shown[-1], Finished) and shown[-1].seconds > 0, "since the first began"
    relay(Finished("train", 0.0, reused=True))
    assert shown[-1] == Finished("train", 0.0, reused=True)


def test_half_a_line_waits_for_its_other_half(relay: Relay, tmp_path: Path, shown: list[Event]):
    to_relay(tmp_path, 0, "train-share")(Warned("train", "naïve"))
    path = next((tmp_path / FOLDER).iterdir())
    line = path.read_bytes()
    path.write_bytes(line[:-10])
    relay.look()
    assert shown == []
    path.write_bytes(line)
    relay.look()
    relay.look()
    assert shown == [Warned("train", "naïve")]


def test_a_job_that_begins_again_is_warned_of(relay: Relay, tmp_path: Path, shown: list[Event]):
    def life(job: str, process: str) -> None:
        emit = to_jsonl(tmp_path / FOLDER / f"1.{job}.node-{process}.jsonl")
        emit(Advanced("train", 1))
        relay.look()

    life("train-begin", "7")
    life("train-share", "8")
    assert shown == [], "another job"
    life("train-share", "9")
    text = "worker 1 (node-9) goes on with the work of one that was lost"
    assert shown == [Warned("launch", text)]


def test_files_of_an_earlier_run_are_gone_before_and_after(tmp_path: Path, shown: list[Event]):
    to_relay(tmp_path, 1, "train-share")(Warned("train", "old"))
    relay = Relay(tmp_path, shown.append)
    relay.look()
    assert shown == []
    to_relay(tmp_path, 1, "train-share")(Warned("train", "new"))
    relay.close()
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_json_lacks_arrives(relay: Relay, tmp_path: Path, shown: list[Event]):
    emit = to_relay(tmp_path, 1, "train-share")
    emit(Started("train", 1, "tokens"))
    emit(Advanced("train", 1, {"loss": float("nan")}))
    assert json.loads(next((tmp_path / FOLDER).iterdir()).read_text().splitlines()[1])
    relay.look()
    assert isinstance(shown[1], Advanced) and str(shown[1].metrics["loss"]) == "nan"
