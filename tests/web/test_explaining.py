"""Explaining and scoring as somebody chooses: by whom, by which scorers, which label."""

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.stages.loopback import Model, Reply, serving
from tests.web.conftest import SAES, TOKEN
from tests.web.fixture_run import FakeLive, build

from panscope.web.app import create_app

SAE = SAES[2]
FEATURE = f"/api/sae/{SAE}/feature/0"
GIVEN = {"authorization": f"Bearer {TOKEN}"}
AS_JSON = {"content-type": "application/json"}


@pytest.fixture
def writable(tmp_path: Path) -> Iterator[TestClient]:
    run = build(tmp_path / "run")
    with TestClient(create_app(run, FakeLive(SAES), TOKEN), headers=GIVEN) as client:
        yield client


@pytest.fixture
def model(writable: TestClient) -> Iterator[Model]:
    """A language model that the run's recipe names, beside the rules."""
    with serving() as model:
        write_recipe(
            writable, endpoint={"base_url": model.url, "model": "tiny-judge", "a_minute": 1e6}
        )
        yield model


def write_recipe(client: TestClient, **explain: Any) -> None:
    path = client.app.state.run.folder / "recipe.json"
    path.write_text(json.dumps({"explain": explain}))


def explained(client: TestClient, **chosen: Any) -> dict[str, Any]:
    answer = client.post(f"{FEATURE}/explain", json=chosen)
    assert answer.status_code == 200, answer.text
    return answer.json()


def rescored(client: TestClient, **chosen: Any) -> dict[str, Any]:
    answer = client.post(f"{FEATURE}/rescore", json=chosen)
    assert answer.status_code == 200, answer.text
    return answer.json()


def names(label: dict[str, Any]) -> list[str]:
    return [score["scorer"] for score in label["scores"]]


def test_what_can_be_chosen_is_said(writable: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    offer = writable.get("/api/explainers").json()
    assert offer["by"] == ["rules"] and offer["model"] == ""
    assert "no model at" in offer["missing"]
    assert offer["scorers"] == offer["usual"]["scorers"] == ["detection", "fuzzing", "simulation"]
    endpoint = {"model": "qwen3-32b", "key_variable": "A_KEY_OF_THE_TESTS"}
    write_recipe(writable, by="endpoint", scorers=["fuzzing"], endpoint=endpoint)
    offer = writable.get("/api/explainers").json()
    assert offer["by"] == ["rules"] and "A_KEY_OF_THE_TESTS is not set" in offer["missing"]
    monkeypatch.setenv("A_KEY_OF_THE_TESTS", "secret")
    answer = writable.get("/api/explainers")
    assert (answer.json()["by"], answer.json()["model"]) == (["rules", "endpoint"], "qwen3-32b")
    assert answer.json()["usual"] == {"by": "endpoint", "scorers": ["fuzzing"]}
    assert "secret" not in answer.text and "http" not in answer.text


def test_who_may_not_write_is_not_told_what_is_missing(
    writable: TestClient, client: TestClient
) -> None:
    assert writable.get("/api/explainers", headers={"Authorization": ""}).status_code == 401
    assert client.get("/api/explainers").status_code == 403


def test_a_model_is_chosen_where_the_recipe_explains_by_rules(
    writable: TestClient, model: Model
) -> None:
    """Its label is found again whatever it was scored by, and gets the scores that it lacks."""
    first = explained(writable, by="endpoint", scorers=[])
    assert (first["method"], first["author"], names(first)) == ("model", "tiny-judge", [])
    n_asked = len(model.requests)
    scored = explained(writable, by="endpoint", scorers=["fuzzing", "detection", "fuzzing"])
    assert scored["id"] == first["id"] and names(scored) == ["detection", "fuzzing"]
    assert len(model.requests) > n_asked and model.questions.most_common(1)[0][1] == 1
    rules = explained(writable)
    assert rules["method"] == "rules" and len(rules["scores"]) == 3
    n_asked = len(model.requests)
    again = explained(writable, by="endpoint", scorers=["detection"])
    assert again == scored and len(model.requests) == n_asked
    whole = explained(writable, by="endpoint")
    assert sorted(names(whole)) == ["detection", "fuzzing", "simulation"]
    assert len(writable.get(f"{FEATURE}/labels").json()) == 2


def test_any_label_is_scored_by_any_judge(writable: TestClient, model: Model) -> None:
    rules = explained(writable, scorers=["detection"])
    judged = rescored(writable, label=rules["id"], by="endpoint", scorers=["fuzzing"])
    by = [(score["scorer"], score["author"]) for score in judged["scores"]]
    assert by == [("detection", "panscope"), ("fuzzing", "tiny-judge")]
    for text in ("January, April", "months"):
        said = {"text": text, "author": "Ada"}
        writable.post(f"{FEATURE}/labels", json=said)
    older = writable.get(f"{FEATURE}/labels").json()[1]["id"]
    assert names(rescored(writable, scorers=["simulation"])) == ["simulation"]
    scored = rescored(writable, label=older, by="endpoint", scorers=["detection"])
    assert scored["text"] == "January, April"
    labels = writable.get(f"{FEATURE}/labels").json()
    assert [len(label["scores"]) for label in labels] == [1, 1, 2]


def test_a_rule_scored_again_tells_the_same(writable: TestClient) -> None:
    """By its table, as when it was found; what a person says is taken to the letter."""
    first = explained(writable)
    again = rescored(writable, label=first["id"])
    assert again["scores"] == first["scores"]
    part = explained(writable, scorers=["fuzzing"])
    assert part["scores"] == first["scores"]
    said = {"text": first["text"], "author": "Ada"}
    writable.post(f"{FEATURE}/labels", json=said)
    assert rescored(writable)["scores"] != first["scores"]


@pytest.mark.parametrize("route", ["explain", "rescore"])
def test_a_model_that_is_not_there_is_one_refusal(writable: TestClient, route: str) -> None:
    writable.post(f"{FEATURE}/labels", json={"text": "months", "author": "Ada"})
    answer = writable.post(f"{FEATURE}/{route}", json={"by": "endpoint"})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == (
        "explain: no model at http://localhost:8000/v1 is named; add model = ... to the recipe"
    )
    (label,) = writable.get(f"{FEATURE}/labels").json()
    assert label["scores"] == []


@pytest.mark.parametrize(
    ("route", "chosen", "status"),
    [
        ("explain", {"by": "model"}, 422),
        ("explain", {"scorers": ["luck"]}, 422),
        ("explain", {"scorers": ["detection"] * 4}, 422),
        ("explain", {"endpoint": {"base_url": "http://elsewhere"}}, 422),
        ("explain", {"label": 1}, 422),
        ("explain", [], 422),
        ("rescore", {"scorers": []}, 422),
        ("rescore", {"model": "gpt-5"}, 422),
        ("rescore", {"label": 0}, 422),
        ("rescore", {"label": 2**63}, 422),
        ("rescore", {"label": "\ud800"}, 422),
        ("rescore", {"label": 99}, 404),
    ],
)
def test_what_cannot_be_chosen_is_refused(
    writable: TestClient, route: str, chosen: Any, status: int
) -> None:
    body = json.dumps(chosen)
    answer = writable.post(f"{FEATURE}/{route}", content=body, headers=AS_JSON)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert writable.get(f"{FEATURE}/labels").json() == []


def test_a_label_of_another_feature_is_none_of_this_one(writable: TestClient) -> None:
    label = explained(writable)["id"]
    other = writable.post(f"/api/sae/{SAE}/feature/1/rescore", json={"label": label})
    assert other.status_code == 404 and f"has no label {label}" in other.text


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_an_empty_body_asks_as_the_recipe_says(writable: TestClient, body: bytes) -> None:
    write_recipe(writable, scorers=["fuzzing"])
    for _ in range(2):
        label = writable.post(f"{FEATURE}/explain", content=body, headers=AS_JSON).json()
        assert (label["method"], names(label), label["id"]) == ("rules", ["fuzzing"], 1)


def test_a_recipe_that_cannot_be_used_is_named(writable: TestClient) -> None:
    write_recipe(writable, by="magic")
    for answer in (writable.get("/api/explainers"), writable.post(f"{FEATURE}/explain")):
        assert answer.status_code == 422 and "magic" in answer.json()["error"]["message"]


@pytest.mark.parametrize("recipe", ['{"explain": null}', '{"explain": []}', "[" * 100_000, "\xff"])
def test_a_damaged_recipe_is_named(writable: TestClient, recipe: str) -> None:
    (writable.app.state.run.folder / "recipe.json").write_text(recipe, encoding="latin-1")
    for answer in (writable.get("/api/explainers"), writable.post(f"{FEATURE}/explain")):
        assert answer.status_code == 422 and "recipe.json" in answer.json()["error"]["message"]


def test_a_stop_ends_a_judgement(writable: TestClient) -> None:
    """The label keeps what it had; nothing half scored is left."""
    label, said = explained(writable, scorers=[]), []
    with serving(lambda number, request: Reply(after_seconds=20)) as model:
        write_recipe(writable, endpoint={"base_url": model.url, "model": "tiny-judge"})
        chosen = {"label": label["id"], "by": "endpoint"}
        asking = Thread(
            target=lambda: said.append(writable.post(f"{FEATURE}/rescore", json=chosen))
        )
        asking.start()
        while not model.requests:
            sleep(0.01)
        writable.app.state.stop()
        asking.join(5)
    assert not asking.is_alive() and said[0].status_code == 503
    assert writable.get(f"{FEATURE}/labels").json() == [label]
