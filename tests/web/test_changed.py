"""Commands change a run beside its server: the next request shows what is there then."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.web.conftest import SAES
from tests.web.fixture_run import FakeLive, build, build_atlas, build_notes, build_suite

from panscope.atlas.labels import Label
from panscope.atlas.notes import Notes
from panscope.atlas.queries import Catalogue
from panscope.events import Started, to_jsonl
from panscope.web import run as run_module
from panscope.web.app import create_app
from panscope.web.run import RunFolder

SAE = SAES[2]


@pytest.fixture
def run(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


@pytest.fixture
def open_server(run: Path) -> Iterator[TestClient]:
    """A server that has read the atlas, its features and the notes."""
    build_notes(run, SAES)
    with TestClient(create_app(run), raise_server_exceptions=False) as client:
        for path in ("/", f"/sae/{SAE}", f"/sae/{SAE}/40", "/microscope", "/notes", "/progress"):
            assert client.get(path).status_code == 200
        yield client


def test_an_atlas_described_anew_is_shown(open_server: TestClient, run: Path) -> None:
    shutil.rmtree(run / "atlas")
    build_atlas(run, ["resid_post.0/new", SAE], 32)
    assert open_server.get(f"/api/sae/{SAE}").json()["width"] == 32
    assert "resid_post.0/new" in open_server.get("/").text
    assert open_server.get(f"/sae/{SAE}/31").status_code == 200
    assert open_server.get(f"/sae/{SAE}/40").status_code == 404


def test_an_atlas_that_is_being_written_is_said_and_then_shown(
    open_server: TestClient, run: Path
) -> None:
    made = (run / "atlas/manifest.json").read_bytes()
    (run / "atlas/manifest.json").unlink()
    to_jsonl(run / "events.jsonl")(Started("describe", 10, "tokens"))
    for path in ("/", f"/sae/{SAE}", f"/sae/{SAE}/3", "/search", "/microscope"):
        answer = open_server.get(path)
        assert (answer.status_code, "see /progress" in answer.text) == (409, True)
    assert open_server.get("/api/progress").json()["stages"][0]["stage"] == "describe"
    (run / "atlas/manifest.json").write_bytes(made)
    assert open_server.get(f"/sae/{SAE}/3").status_code == 200


@pytest.mark.parametrize("is_changed", [False, True])
def test_an_atlas_made_anew_within_a_request_is_no_damage(
    open_server: TestClient, run: Path, monkeypatch: pytest.MonkeyPatch, is_changed: bool
) -> None:
    def moved(*_: object) -> None:
        if is_changed:
            shutil.rmtree(run / "atlas")
            build_atlas(run, SAES[:1], 32)
        raise FileNotFoundError("features.parquet")

    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "feature", moved)
        status, kind, words = (
            (409, "Incomplete", "ask again") if is_changed else (500, "PanscopeError", "report it")
        )
        answer = open_server.get(f"/api/sae/{SAES[0]}/feature/3")
        error = answer.json()["error"]
        assert (answer.status_code, error["kind"]) == (status, kind)
        assert words in error["message"]
    assert open_server.get(f"/api/sae/{SAES[0]}/feature/3").status_code == 200


def test_notes_that_are_remade_are_read_anew(open_server: TestClient, run: Path) -> None:
    labels = f"/api/sae/{SAE}/feature/0/labels"
    assert len(open_server.get(labels).json()) == 2
    shutil.copyfile(run / "notes.sqlite", run / "copy.sqlite")
    for path in run.glob("notes.sqlite*"):
        path.unlink()
    assert open_server.get(labels).json() == []
    notes = Notes.open(run / "notes.sqlite")
    notes.add(Label(SAE, 0, "quite new", "Ada"))
    notes.close()
    assert [label["text"] for label in open_server.get(labels).json()] == ["quite new"]
    shutil.copyfile(run / "copy.sqlite", run / "notes.sqlite")  # into the file that is open
    assert len(open_server.get(labels).json()) == 2


def test_a_run_folder_that_is_gone_is_said_until_it_is_back(
    open_server: TestClient, run: Path
) -> None:
    away = run.rename(run.with_name("away"))
    for path in ("/", f"/sae/{SAE}", f"/sae/{SAE}/3", "/search", "/contrast"):
        assert open_server.get(path).status_code == 404
        assert "holds no atlas" in open_server.get(path).text
    assert open_server.get("/api/progress").json()["stages"] == []
    away.rename(run)
    assert open_server.get(f"/sae/{SAE}/3").status_code == 200


def test_another_suite_or_atlas_is_loaded_anew(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_loaded", lambda suite, catalogue: FakeLive(SAES))
    folder = RunFolder(run)
    first = folder.live
    assert folder.live is first
    build_suite(run, SAES, 64, with_metrics=False)
    second = folder.live
    assert second is not first
    shutil.rmtree(run / "atlas")
    build(run)
    assert folder.live is not second
