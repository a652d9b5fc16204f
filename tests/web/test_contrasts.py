"""Contrasts on the pages and over REST: what is finished is shown, a wrong name answered."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.web.conftest import SAES, TOKEN
from tests.web.fixture_contrast import build_contrast
from tests.web.fixture_run import FakeLive, build

from panscope.cli import main
from panscope.events import Advanced, Started, to_jsonl
from panscope.stages.contrast import prompts
from panscope.web import contrasts
from panscope.web.app import create_app
from panscope.web.background import WorkView

GIVEN = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = build(tmp_path_factory.mktemp("runs") / "contrasted")
    build_contrast(run, "french-english", SAES)
    return run


@pytest.fixture(scope="module")
def contrasted(run: Path) -> Iterator[TestClient]:
    with TestClient(create_app(run, FakeLive(SAES))) as client:
        yield client


def answered(client: TestClient, path: str) -> Any:
    return client.get(path).json()


def test_what_is_finished_is_listed(contrasted: TestClient, client: TestClient, run: Path):
    (run / "contrast" / "begun").mkdir(exist_ok=True)
    assert [*answered(contrasted, "/api/contrasts")] == ["french-english"]
    assert 'href="/contrast/french-english"' in contrasted.get("/contrast").text
    assert answered(client, "/api/contrasts") == {}
    assert "has no contrasts yet" in client.get("/contrast").text


def test_a_damaged_one_is_named_and_hides_no_other(contrasted: TestClient, run: Path):
    damaged = shutil.copytree(run / "contrast/french-english", run / "contrast/damaged")
    manifest = damaged / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"n_a"', b'"n_b"', 1))
    try:
        assert [*answered(contrasted, "/api/contrasts")] == ["french-english"]
        page = contrasted.get("/contrast").text
        assert 'href="/contrast/french-english"' in page
        assert "damaged/manifest.json: does not match its own checksum" in page
        assert contrasted.get("/contrast/french-english").status_code == 200
        assert contrasted.get("/contrast/damaged").status_code == 500
    finally:
        shutil.rmtree(damaged)


def test_one_is_shown_with_links_to_its_features(contrasted: TestClient):
    result = answered(contrasted, "/api/contrast/french-english")
    page = contrasted.get("/contrast/french-english")
    assert page.status_code == 200
    for one in result["found"]:
        assert f'href="/sae/{one["sae"]}/{one["index"]}"' in page.text
        assert f"/steer?feature={one['sae']}/{one['index']}" in page.text


@pytest.mark.parametrize("name", ["french-englsh", "..", "..%2Fsuite", "%2e%2e"])
def test_a_name_that_is_not_listed_reaches_no_file(contrasted: TestClient, name: str):
    answer = contrasted.get(f"/api/contrast/{name}")
    assert answer.status_code == 404
    if name == "french-englsh":
        assert "did you mean french-english" in answer.json()["error"]["message"]


def test_a_flipped_bit_is_named(run: Path, contrasted: TestClient):
    path = run / "contrast" / "french-english" / "result.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"1", b"2", 1))
    try:
        answer = contrasted.get("/api/contrast/french-english")
        assert answer.status_code == 500 and "result.json" in answer.json()["error"]["message"]
    finally:
        path.write_bytes(whole)
    assert json.loads(whole)["n_a"] == answered(contrasted, "/api/contrast/french-english")["n_a"]


class FakeBackground:
    """Remembers what was begun, and runs nothing."""

    def __init__(self) -> None:
        self.begun: list[tuple[Sequence[str], Mapping[str, str]]] = []
        self.now: WorkView | None = None

    def start(self, name: str, arguments: Sequence[str], inputs: Mapping[str, str]) -> WorkView:
        self.begun.append((arguments, inputs))
        self.now = WorkView(name, "running", 0.0, "")
        return self.now

    def view(self) -> WorkView | None:
        return self.now

    def cancel(self) -> WorkView | None:
        self.now = self.now and WorkView(self.now.name, "cancelled", 0.0, "cancelled")
        return self.now


@pytest.fixture(scope="module")
def writable(run: Path) -> Iterator[TestClient]:
    with TestClient(create_app(run, FakeLive(SAES), TOKEN), headers=GIVEN) as client:
        yield client


@pytest.fixture
def background(writable: TestClient) -> FakeBackground:
    writable.app.state.run.background = FakeBackground()
    return writable.app.state.run.background


def test_a_contrast_is_begun_followed_and_cancelled(
    writable: TestClient, background: FakeBackground, run: Path
):
    assert answered(writable, "/api/contrasts/work") == {"work": None, "stage": None}
    sets = {"a": ["le chat", *["la nuit\ntombe"] * 7], "b_kind": "news"}
    asked = {"name": "french-news", **sets, "pool": "last", "answers": [" où", " 🦊"]}
    begun = writable.post("/api/contrasts", json=asked)
    assert begun.status_code == 202 and begun.json()["state"] == "running"
    ((arguments, inputs),) = background.begun
    params = main.commands["contrast"].make_context("contrast", list(arguments[1:])).params
    assert params["output"] == run / "contrast" / "french-news"
    assert params["overrides"] == ("pool=last", 'answers=[" où", " 🦊"]')
    assert {str(params["file_a"]), str(params["file_b"])} == inputs.keys()
    assert json.loads(inputs["a.json"]) == sets["a"]
    passages = json.loads(inputs["b.json"])
    assert len(passages) == 10 == len([p for p in passages if len(p) > 60])

    emit = to_jsonl(run / "events.jsonl")
    emit(Started("contrast", 24, "steps"))
    emit(Advanced("contrast", 7))
    assert answered(writable, "/api/contrasts/work")["stage"]["done"] == 7
    cancelled = writable.post("/api/contrasts/cancel").json()["work"]
    assert cancelled["state"] == "cancelled"


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"name": "french-english"}, 409, "'french-english' is there already; choose another"),
        ({"name": "../x"}, 422, "body.name"),
        ({"a": ["one", " "]}, 422, "set a: has 1 prompts; give 8 or more"),
        ({"b_kind": "new"}, 404, "has no kind 'new'; did you mean news"),
        ({"pool": "sum"}, 422, "body.pool"),
    ],
)
def test_what_cannot_be_begun_is_refused(
    writable: TestClient, background: FakeBackground, change: dict[str, Any], status: int, said: str
):
    asked = {"name": "new", "a": ["a b"] * 8, "b": ["c d"] * 8, **change}
    answer = writable.post("/api/contrasts", json=asked)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]
    assert background.begun == []


def test_nobody_begins_without_the_token(contrasted: TestClient, writable: TestClient):
    for path in ("/api/contrasts", "/api/contrasts/cancel"):
        assert contrasted.post(path, json={}).status_code == 403
        no_token = writable.post(path, json={}, headers={"authorization": "Bearer x"})
        assert no_token.status_code == 401


def test_a_server_asks_for_as_many_prompts_as_the_stage():
    assert contrasts.FEWEST == prompts.FEWEST
