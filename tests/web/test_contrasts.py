"""Contrasts on the pages and over REST: what is finished is shown, a wrong name answered."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.web.conftest import SAES
from tests.web.fixture_contrast import build_contrast
from tests.web.fixture_run import FakeLive, build

from panscope.web.app import create_app


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
