"""One error shape for programs, a page for people, the right status for both."""

import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.web.conftest import SAES
from tests.web.fixture_run import FakeLive, build_suite

from panscope.files import read_manifest
from panscope.web.app import create_app

SAE = SAES[2]
REFUSED = [
    ("GET", "/api/nothing", None, 404, "NotFound"),
    ("DELETE", "/api/suite", None, 405, "ConfigError"),
    ("GET", "/api/sae/resid_post.1/w46", None, 404, "NotFound"),
    ("GET", "/api/sae/nope/features", None, 404, "NotFound"),
    ("GET", "/api/sae/nope/features.csv", None, 404, "NotFound"),
    ("GET", "/api/sae/nope/densities", None, 404, "NotFound"),
    ("GET", "/api/sae/nope/random", None, 404, "NotFound"),
    ("GET", f"/api/sae/{SAE}/feature/64", None, 404, "NotFound"),
    ("GET", f"/api/sae/{SAE}/feature/-1", None, 404, "NotFound"),
    ("GET", f"/api/sae/{SAE}/feature/one", None, 422, "ConfigError"),
    ("GET", f"/api/sae/{SAE}/features?sort=beauty", None, 422, "ConfigError"),
    ("GET", f"/api/sae/{SAE}/features?limit=501", None, 422, "ConfigError"),
    ("GET", f"/api/sae/{SAE}/features?offset=-1", None, 422, "ConfigError"),
    ("POST", "/api/test", {"sae": "nope", "index": 0, "text": "a"}, 404, "NotFound"),
    ("POST", "/api/test", {"sae": SAE, "index": 64, "text": "a"}, 404, "NotFound"),
    ("POST", "/api/test", {"sae": SAE, "index": 0, "text": " "}, 422, "ConfigError"),
    ("POST", "/api/test", {"sae": SAE, "index": 0, "text": "a" * 20_001}, 422, "ConfigError"),
    ("POST", "/api/test", {"sae": SAE, "index": 0, "txt": "a"}, 422, "ConfigError"),
    ("POST", "/api/microscope", {"text": "a", "k": 0}, 422, "ConfigError"),
    ("POST", "/api/microscope", {"text": "a", "saes": ["nope"]}, 404, "NotFound"),
    ("POST", "/api/microscope", {"text": ""}, 422, "ConfigError"),
]


@pytest.mark.parametrize(("verb", "path", "body", "status", "kind"), REFUSED)
def test_refusals_have_one_shape(
    client: TestClient, verb: str, path: str, body: object, status: int, kind: str
) -> None:
    answer = client.request(verb, path, json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"kind", "message"}
    assert error["kind"] == kind
    assert ": " in error["message"]
    assert "; " in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"sae": "%s", "index": 0, "text": "\\ud800"}' % SAE.encode(),  # half a character
        b'{"sae": "%s", "index": 1e400, "text": "a"}' % SAE.encode(),
        b'{"sae": "%s", "index": %s, "text": "a"}' % (SAE.encode(), b"9" * 5_000),
        b"[" * 50_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_text_or_number_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/api/test", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["kind"] == "ConfigError"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/nothing", 404), ("/sae/nope", 404), (f"/sae/{SAE}/64", 404), ("/sae/nope/random", 404)],
)
def test_pages_say_it_readably(client: TestClient, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert "There is nothing here" in answer.text


def test_a_wrong_name_is_answered_with_the_nearest(client: TestClient) -> None:
    message = client.get(f"/api/sae/{SAE[:-1]}").json()["error"]["message"]
    assert f"did you mean {SAE}" in message


def app(run: Path) -> TestClient:
    return TestClient(create_app(run, FakeLive(SAES)), raise_server_exceptions=False)


@pytest.fixture
def own_run(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def assert_fails(run: Path, path: str, status: int, kind: str, words: str) -> None:
    client = app(run)
    answer = client.get(f"/api{path}")
    assert (answer.status_code, answer.json()["error"]["kind"]) == (status, kind)
    assert words in answer.json()["error"]["message"]
    page = client.get(path.replace("/feature/", "/").replace("/suite", "/"))
    assert page.status_code == status
    assert words.partition("'")[0] in page.text


def test_no_run_folder(tmp_path: Path) -> None:
    assert_fails(tmp_path / "none", "/suite", 404, "NotFound", "holds no atlas")


def test_a_run_that_is_at_work(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").touch()
    assert_fails(tmp_path, "/suite", 409, "Incomplete", "holds no atlas yet; see /progress")
    assert 'href="/progress">See its progress' in app(tmp_path).get("/search").text


def test_an_unfinished_atlas(own_run: Path) -> None:
    (own_run / "atlas/manifest.json").unlink()
    assert_fails(own_run, "/suite", 409, "Incomplete", "has no manifest.json")


def test_another_artefact_in_the_place_of_the_atlas(own_run: Path) -> None:
    shutil.rmtree(own_run / "atlas")
    shutil.copytree(own_run / "suite", own_run / "atlas")
    assert_fails(own_run, "/suite", 422, "Unsupported", "is a suite")


@pytest.mark.parametrize("name", [f"features/{SAE}.parquet", "contexts.parquet", "pieces.json"])
def test_a_flipped_byte_is_named_on_every_route(own_run: Path, name: str) -> None:
    path = own_run / "atlas" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert_fails(own_run, f"/sae/{SAE}/feature/0", 500, "Corrupt", f"{name}: blake3 is")


def test_a_missing_file_is_named(own_run: Path) -> None:
    (own_run / "atlas/contexts.parquet").unlink()
    assert_fails(own_run, f"/sae/{SAE}/feature/0", 500, "Corrupt", "contexts.parquet: is missing")


def test_an_atlas_that_appears_later_is_opened(run_folder: Path, tmp_path: Path) -> None:
    client = app(tmp_path)
    assert client.get("/").status_code == 404
    shutil.copytree(run_folder / "atlas", tmp_path / "atlas")
    assert client.get("/").status_code == 200


def test_without_a_suite_the_atlas_can_be_browsed(own_run: Path) -> None:
    shutil.rmtree(own_run / "suite")
    client = app(own_run)
    assert "panscope train makes it" in client.get("/").text
    assert client.get("/api/suite").json()["saes"][0]["metrics"] is None
    for path in (f"/sae/{SAE}", f"/sae/{SAE}/0", "/microscope"):
        assert client.get(path).status_code == 200


def test_without_metrics_the_page_names_the_command(own_run: Path) -> None:
    build_suite(own_run, SAES, 64, with_metrics=False)
    client = app(own_run)
    assert "run panscope evaluate" in client.get("/").text
    assert "run panscope evaluate" in client.get(f"/sae/{SAE}").text


def test_a_broken_suite_is_named_and_the_atlas_still_read(own_run: Path) -> None:
    (own_run / "suite/manifest.json").write_text("{")
    client = app(own_run)
    assert "manifest.json: is not a manifest" in client.get("/api/suite").json()["notice"]
    assert client.get(f"/sae/{SAE}/0").status_code == 200


def test_a_sae_that_is_not_described_yet_is_listed(own_run: Path) -> None:
    build_suite(own_run, [*SAES, "attn_z.1/w64_l0_30_s0"], 64)
    page = app(own_run).get("/").text
    assert "not described: run panscope describe" in page
    assert read_manifest(own_run / "suite").kind == "suite"


def test_what_nobody_foresaw_has_the_shape_too(
    own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = app(own_run)
    monkeypatch.setattr("panscope.web.run.RunFolder.suite", lambda self: 1 / 0)
    answer = client.get("/api/suite")
    assert answer.status_code == 500
    assert "ZeroDivisionError" in answer.json()["error"]["message"]
    assert "ZeroDivisionError" in client.get("/").text
