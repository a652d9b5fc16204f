"""A folder of runs: one list, each run whole behind its own address."""

import re
import shutil
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.web.conftest import SAES

from panscope.errors import NotFound
from panscope.events import Advanced, Started, to_jsonl
from panscope.web import pages, runs
from panscope.web.app import create_app, create_runs_app, serve
from panscope.web.run import RunFolder

SAE, NAME = SAES[2], "second run"


@pytest.fixture(scope="module")
def folder(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for name in ("first", NAME):
        shutil.copytree(run_folder, folder / name)
    emit = to_jsonl(folder / "at_work/events.jsonl")
    emit(Started("train", 200, "tokens"))
    emit(Advanced("train", 50))
    (folder / "at_work/atlas/features").mkdir(parents=True)
    (folder / "broken/atlas").mkdir(parents=True)
    (folder / "no_run").mkdir()
    return folder


@pytest.fixture(scope="module")
def many(folder: Path) -> TestClient:
    return TestClient(create_runs_app(folder))


def test_all_runs_are_listed_and_what_is_broken_says_so(many: TestClient, folder: Path) -> None:
    listed = {run["name"]: run for run in many.get("/api/runs").json()}
    assert list(listed) == ["at_work", "broken", "first", NAME]
    assert listed["first"]["n_features"] == 192
    assert "has no manifest.json" in listed["broken"]["problem"]
    assert listed["at_work"]["stages"][0]["done"] == 50
    assert listed["at_work"]["problem"] == "not described yet"
    html = many.get("/").text
    assert "train 25 %" in html
    assert 'href="/run/second%20run/"' in html


@pytest.mark.parametrize("path", ["/", f"/sae/{SAE}", f"/sae/{SAE}/0", "/microscope", "/progress"])
def test_a_runs_pages_stay_behind_its_address(many: TestClient, path: str) -> None:
    html = many.get(f"/run/second%20run{path}").text
    assert 'data-root="/run/second%20run"' in html
    assert '<li><a href="/">Runs</a></li>' in html
    for link in re.findall(r'(?:href|src|action)="(/[^"]*)"', html):
        assert link == "/" or link.startswith("/run/second%20run/")
    for link in re.findall(r'(?:href|src)="(/run/[^"#]+)', html)[:20]:
        assert many.get(link).status_code == 200, link


def test_a_runs_api_is_that_of_the_run_alone(many: TestClient, folder: Path) -> None:
    alone = TestClient(create_app(folder / "first"))
    for path in (f"/api/sae/{SAE}/feature/3", "/api/suite", "/openapi.json"):
        assert many.get(f"/run/first{path}").json() == alone.get(path).json()


def test_redirects_stay_behind_the_address(many: TestClient) -> None:
    answer = many.get(f"/run/first/sae/{SAE}/random", follow_redirects=False)
    assert answer.headers["location"].startswith(f"/run/first/sae/{SAE}/")

    answer = many.get("/run/first/docs/", follow_redirects=False)
    assert answer.headers["location"] == "/run/first/docs", "the router's own names the host"


def test_refusals_have_one_shape_before_a_run_is_open(many: TestClient) -> None:
    elsewhere = {"sec-fetch-site": "cross-site"}
    unknown = many.get("/run/fist/api/suite")
    refused = many.post("/run/first/api/test", headers=elsewhere)
    assert [unknown.json()["error"]["kind"], refused.json()["error"]["kind"]] == [
        "NotFound",
        "Refused",
    ]


def test_a_run_with_something_at_work_stays_open(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "N_OPEN", 1)
    opened = runs.Runs(folder, create_app)
    at_work = opened.app("first")
    background = at_work.state.run.background
    background.start("pages", ["serve", str(folder / "first"), "--port", "0"], {})
    opened.app(NAME)
    assert opened.app("first") is at_work
    assert background.cancel().state == "cancelled"
    for turns in (at_work.state.run.turns, at_work.state.run.explaining):
        with turns.take() as ending:  # as a steered text does, or a feature's explanation
            opened.app(NAME)
            assert opened.app("first") is at_work
    opened.stop()
    assert ending.is_set()
    opened.app(NAME)
    assert opened.app("first") is not at_work


@pytest.mark.parametrize("name", ["fist", "no_run", "..", "%2e%2e", "../many/first"])
def test_only_runs_of_the_folder_are_shown(many: TestClient, name: str) -> None:
    assert many.get(f"/run/{name}/api/suite").status_code == 404


def test_few_runs_are_open_at_once(folder: Path) -> None:
    made: list[str] = []

    def make(run: Path) -> FastAPI:
        made.append(run.name)
        return create_app(run)

    opened = runs.Runs(folder, make)
    for name in ("first", NAME, "first", "at_work", "broken"):
        opened.app(name)
    assert made == ["first", NAME, "at_work", "broken"]
    assert len(opened._open) == runs.N_OPEN


def test_a_run_that_is_closed_lets_its_model_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(RunFolder, "close", lambda run: closed.append(run.folder.name))
    monkeypatch.setattr(runs, "N_OPEN", 1)
    opened = runs.Runs(folder, create_app)
    for name in ("first", NAME, "first"):
        opened.app(name)
    assert closed == ["first", NAME]


def test_a_folder_without_runs_is_refused(folder: Path) -> None:
    with pytest.raises(NotFound, match="holds no atlas"):
        serve(folder / "no_run", "127.0.0.1", 0)


# What is handed to `ask`, there or by a function that returns it, keys, what a copy is asked for.
SAID = r"\b(address|ask)\(|return [`\[]|^const PLACES|^const answers|name === "


def test_scripts_make_addresses_in_one_place() -> None:
    for script in (pages.HERE / "static").glob("*.js"):
        for line in script.read_text().splitlines():
            if re.search(r"""["'`]/(api|sae|microscope|progress)\b""", line):
                assert re.search(SAID, line), (script.name, line)
