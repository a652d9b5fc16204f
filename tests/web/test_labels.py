import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from time import sleep

import pytest
from fastapi.testclient import TestClient
from tests.stages.loopback import Reply, serving
from tests.web.conftest import SAES, TOKEN
from tests.web.fixture_run import FakeLive, build

from panscope.web.app import create_app

SAE = SAES[2]
PATH = f"/api/sae/{SAE}/feature/9/labels"
GIVEN = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def writable(tmp_path: Path) -> Iterator[TestClient]:
    run = build(tmp_path / "run")
    with TestClient(create_app(run, FakeLive(SAES), TOKEN)) as client:
        yield client


def test_a_label_is_written_shown_and_found(writable: TestClient) -> None:
    assert "No label yet" in writable.get(f"/sae/{SAE}/9").text
    said = {"text": "code that <b>defines</b>", "author": "Ada"}
    first = writable.post(PATH, json=said, headers=GIVEN)
    assert first.status_code == 200
    second = writable.post(PATH, json=said | {"text": "keywords"}, headers=GIVEN).json()
    assert (second["method"], second["author"]) == ("human", "Ada")
    assert [label["text"] for label in writable.get(PATH).json()] == ["keywords", said["text"]]
    html = writable.get(f"/sae/{SAE}/9").text
    assert '<h2 id="label-title">keywords</h2>' in html
    assert "code that &lt;b&gt;defines&lt;/b&gt;" in html
    found = writable.get("/api/search/labels", params={"text": "keyword"}).json()
    assert [hit["row"]["index"] for hit in found["hits"]] == [9]


def test_nobody_writes_without_the_token(writable: TestClient, client: TestClient) -> None:
    said = {"text": "months", "author": "Ada"}
    assert writable.post(PATH, json=said).status_code == 401
    wrong = writable.post(PATH, json=said, headers={"authorization": f"Bearer {TOKEN}x"})
    assert wrong.status_code == 401
    assert client.post(PATH, json=said, headers=GIVEN).status_code == 403
    assert writable.get(PATH).json() == []


@pytest.mark.parametrize("text", ["", " ", "x" * 2_001, "a\0b"])
def test_what_is_no_label_is_refused(writable: TestClient, text: str) -> None:
    answer = writable.post(PATH, json={"text": text, "author": "Ada"}, headers=GIVEN)
    assert answer.status_code == 422
    assert writable.get(PATH).json() == []


def test_labels_of_what_is_not_there(writable: TestClient) -> None:
    said = {"text": "months", "author": "Ada"}
    assert writable.get(f"/api/sae/{SAE}/feature/64/labels").status_code == 404
    there = writable.post(f"/api/sae/{SAE}x/feature/0/labels", json=said, headers=GIVEN)
    assert there.status_code == 404
    assert f"did you mean {SAE}" in there.json()["error"]["message"]


def test_a_feature_is_explained_and_a_person_s_label_scored(writable: TestClient) -> None:
    feature = f"/api/sae/{SAE}/feature/0"
    found = writable.post(f"{feature}/explain", headers=GIVEN)
    assert found.status_code == 200, found.text
    label = found.json()
    assert (label["method"], len(label["scores"])) == ("rules", 3)
    assert all(score["baseline"] is not None for score in label["scores"])
    again = writable.post(f"{feature}/explain", headers=GIVEN).json()
    assert again["id"] == label["id"]

    early = writable.post(f"{feature}/rescore", headers=GIVEN)
    assert early.status_code == 422 and "write one first" in early.text
    said = {"text": "January, April", "author": "Ada"}
    writable.post(f"{feature}/labels", json=said, headers=GIVEN)
    scored = writable.post(f"{feature}/rescore", headers=GIVEN).json()
    assert scored["author"] == "Ada"
    assert [score["scorer"] for score in scored["scores"]] == ["detection", "fuzzing", "simulation"]
    html = writable.get(f"/sae/{SAE}/0").text
    assert 'id="rescore"' in html and 'id="rescore"' not in writable.get(f"/sae/{SAE}/1").text


def test_a_label_comes_with_what_its_scores_were_judged_on(writable: TestClient) -> None:
    feature = f"/api/sae/{SAE}/feature/0"
    number = writable.post(f"{feature}/explain", headers=GIVEN).json()["id"]
    label = writable.get(f"{feature}/labels/{number}").json()
    assert (label["author"], label["method"]) == ("panscope", "rules")
    for score in label["scores"]:
        assert len(score["judgements"]) == score["n"] > 0
        for one in score["judgements"]:
            assert len(one["tokens"]) == len(one["values"]) == 24
            assert all(str(token) in label["pieces"] for token in one["tokens"])
    assert f'data-judged="{number}"' in writable.get(f"/sae/{SAE}/0").text
    wrong = writable.get(f"{feature}/labels/{number + 1}")
    assert wrong.status_code == 404 and f"known: {number}" in wrong.json()["error"]["message"]
    assert writable.get(f"/api/sae/{SAE}/feature/1/labels/{number}").status_code == 404


@pytest.mark.parametrize("route", ["explain", "rescore"])
def test_what_cannot_be_explained_is_said(
    writable: TestClient, client: TestClient, route: str
) -> None:
    dead = writable.post(f"/api/sae/{SAE}/feature/5/{route}", headers=GIVEN)
    assert dead.status_code == 422
    assert ("too few examples" if route == "explain" else "no label by a person") in dead.text
    assert writable.post(f"/api/sae/{SAE}/feature/64/{route}", headers=GIVEN).status_code == 404
    assert writable.post(f"/api/sae/{SAE}/feature/0/{route}").status_code == 401
    assert client.post(f"/api/sae/{SAE}/feature/0/{route}", headers=GIVEN).status_code == 403


def test_a_stop_does_not_wait_for_a_language_model(writable: TestClient) -> None:
    """Two tries of 30 s each; nothing half scored is left."""
    app, said = writable.app, []
    with serving(lambda number, request: Reply(after_seconds=20)) as model:
        endpoint = {"base_url": model.url, "model": "tiny-judge"}
        recipe = {"explain": {"by": "endpoint", "endpoint": endpoint}}
        (app.state.run.folder / "recipe.json").write_text(json.dumps(recipe))

        def ask() -> None:
            said.append(writable.post(f"/api/sae/{SAE}/feature/0/explain", headers=GIVEN))

        asking = Thread(target=ask)
        asking.start()
        while not model.requests:
            sleep(0.01)
        app.state.stop()
        asking.join(5)
    assert not asking.is_alive()
    assert said[0].status_code == 503
    assert "was stopped before all answers came" in said[0].json()["error"]["message"]
    assert writable.get(f"/api/sae/{SAE}/feature/0/labels").json() == []
