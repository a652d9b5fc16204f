import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from tests.stages.loopback import Model, Reply, serving
from tests.web.conftest import SAES
from tests.web.fixture_run import IDS, PIECES, SITES, FakeLive, World, build, build_notes

from panscope.atlas.labels import Label
from panscope.atlas.notes import Notes
from panscope.stages.explain import embedding_of
from panscope.stages.explain.meaning import learn
from panscope.web.app import create_app

SAE = SAES[2]
TEXT = "The dog slept in January."


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    run = build(tmp_path_factory.mktemp("runs") / "labelled")
    build_notes(run, SAES)
    with TestClient(create_app(run, FakeLive(SAES))) as client:
        yield client


def get(client: TestClient, path: str, **query: Any) -> Mapping[str, Any]:
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(client: TestClient, path: str, **body: Any) -> Mapping[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def names(found: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [(hit["sae"], hit["row"]["index"]) for hit in found["hits"]]


def test_words_find_labels_a_person_s_first(client: TestClient) -> None:
    found = get(client, "/api/search/labels", text="french month")
    assert names(found) == [(SAE, 0)]
    assert found["hits"][0]["label"] == "months, in English and French"
    assert get(client, "/api/search/labels", text="zzz")["hits"] == []
    assert get(client, "/api/search/labels", text='" NEAR(')["hits"] == []


def test_windows_on_labels_meet(client: TestClient) -> None:
    whole = names(get(client, "/api/search/labels", text="words", limit=100))
    assert len(whole) == 8 * len(SAES)
    assert names(get(client, "/api/search/features", offset=10**20)) == []
    behind = get(client, "/api/search/labels", text="words", offset=10**20)
    assert behind["total"] == len(whole), "not the offset"
    parts = [get(client, "/api/search/labels", text="words", offset=n, limit=7) for n in (0, 7)]
    assert [name for part in parts for name in names(part)] == whole[:14]
    assert parts[0]["total"] > 7


def test_numbers_are_those_of_each_sae_together(client: TestClient) -> None:
    query = {"text": "January", "high": 0.5, "sort": "max", "alive": "true"}
    found = get(client, "/api/search/features", **query, limit=500)
    alone = {
        (sae, row["index"])
        for sae in SAES
        for row in get(client, f"/api/sae/{sae}/features", **query, limit=500)["rows"]
    }
    assert set(names(found)) == alone
    assert found["total"] == len(alone) > 3
    maxima = [hit["row"]["max"] for hit in found["hits"]]
    assert maxima == sorted(maxima, reverse=True)
    window = get(client, "/api/search/features", **query, offset=2, limit=2)
    assert names(window) == names(found)[2:4]


def test_numbers_bound_the_maximum_the_site_and_the_score(client: TestClient) -> None:
    found = get(client, "/api/search/features", max_low=5, max_high=10, limit=500)
    assert all(5 <= hit["row"]["max"] <= 10 for hit in found["hits"])
    assert found["total"] > 0
    at = get(client, "/api/search/features", sites="mlp_out.*", limit=500)
    assert {hit["sae"] for hit in at["hits"]} == {SAES[1]}
    # eight labels a Sae have scores; a feature is dead, and over one a person's label stands
    n_scored = 8 * len(SAES) - len(SAES) - 1
    for bounds, total in (
        ({"min_score": 0.9}, n_scored),
        ({"min_score": 0.95}, 0),
        ({"scorer": "fuzzing", "max_score": 0.9}, n_scored),
        ({"scorer": "fuzzing", "min_score": 0.9}, 0),
        ({"scorer": "simulation"}, 0),
    ):
        assert get(client, "/api/search/features", **bounds)["total"] == total, bounds


def test_a_layer_is_that_of_the_sites(client: TestClient) -> None:
    at = get(client, "/api/search/features", layer=1, limit=500)
    assert {hit["sae"] for hit in at["hits"]} == set(SAES[1:])
    assert client.get("/api/search/features", params={"layer": 2}).status_code == 404
    fired = post(client, "/api/search/prompt", text=TEXT, layer=0, limit=500)
    assert {hit["sae"] for hit in fired["hits"]} == {SAES[0]}
    none = client.get("/api/search/features", params={"layer": 0, "sites": "resid_post.*"})
    assert "layer 0: has no such Sae; known: 1" in none.json()["error"]["message"]


@pytest.mark.parametrize("path", ["features", "prompt", "direction"])
def test_a_wrong_site_is_answered_with_the_nearest(client: TestClient, path: str) -> None:
    asked = {"sites": "resid_pots.1"}
    url = f"/api/search/{path}"
    bodies = {"prompt": {"text": "a"}, "direction": {"sae": SAE, "index": 0}}
    answer = (
        client.get(url, params=asked)
        if path == "features"
        else client.post(url, json=bodies[path] | asked)
    )
    assert answer.status_code == 404
    assert "did you mean resid_post.1?" in answer.json()["error"]["message"]


@pytest.mark.parametrize("by", ["share", "value", "sum"])
def test_a_text_finds_what_fires_most_on_its_tokens(client: TestClient, by: str) -> None:
    found = post(client, "/api/search/prompt", text=TEXT, tokens=[4], by=by, limit=500)
    assert found["tokens"][4] == " January"
    live = FakeLive(SAES)
    expected = {}
    for sae in SAES:
        seen = live.microscope(TEXT, 20, 1.0, [sae]).saes[0]
        for feature in seen.features:
            for position, value in zip(feature.positions, feature.values, strict=True):
                if position == 4:
                    share = value / feature.max
                    expected[sae, feature.index] = share if by == "share" else value
    assert dict(zip(names(found), [hit["value"] for hit in found["hits"]], strict=True)) == expected
    values = [hit["value"] for hit in found["hits"]]
    assert values == sorted(values, reverse=True)
    for hit in found["hits"]:
        fired = dict(zip(hit["positions"], hit["values"], strict=True))
        assert by == "share" or fired[4] == hit["value"]


def test_the_sum_is_over_all_tokens_and_those_behind_the_end_are_refused(
    client: TestClient,
) -> None:
    one = post(client, "/api/search/prompt", text="said", by="sum", limit=1)
    two = post(client, "/api/search/prompt", text="said said", by="sum", limit=1)
    assert two["hits"][0]["value"] > 1.5 * one["hits"][0]["value"]
    beyond = client.post("/api/search/prompt", json={"text": "said", "tokens": [7]})
    assert beyond.status_code == 422
    assert "token 7: is behind the end of the text" in beyond.json()["error"]["message"]


def test_a_feature_finds_its_nearest_and_not_itself(client: TestClient) -> None:
    found = post(client, "/api/search/direction", sae=SAE, index=0, limit=20)
    assert len(found["hits"]) == 20
    assert (SAE, 0) not in names(found)
    cosines = [hit["value"] for hit in found["hits"]]
    assert cosines == sorted(cosines, reverse=True)


def test_two_texts_find_what_tells_them_apart(client: TestClient) -> None:
    asked = {"text": "January", "without": "the dog", "site": SITES[2], "limit": 3}
    found = post(client, "/api/search/direction", **asked)
    for sae, index in names(found):
        strength = World(sae, 64).strength[index]
        assert strength[IDS[" January"]] > strength.max() / 2
        assert strength[IDS[" dog"]] < strength.max() / 2
    nothing = client.post("/api/search/direction", json={"text": "January"})
    assert nothing.status_code == 422
    assert "neither a feature's nor a vector nor a difference" in nothing.json()["error"]["message"]


def test_a_vector_finds_the_features_that_write_like_it(client: TestClient) -> None:
    vector = World(SAE, 64).strength[3].tolist()
    found = post(client, "/api/search/direction", vector=vector, site=SITES[2], limit=3)
    assert names(found)[0] == (SAE, 3)
    assert found["hits"][0]["value"] == pytest.approx(1)
    for wrong in ([1.0], ["a"], [1e999]):
        body = json.dumps({"vector": wrong, "site": SITES[2]})
        headers = {"content-type": "application/json"}
        answer = client.post("/api/search/direction", content=body, headers=headers)
        assert answer.status_code == 422


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[tuple[TestClient, Model]]:
    """A run whose recipe names an embedding model, which has vectors of its labels."""
    with serving() as model:
        recipe = {"explain": {"meaning": {"base_url": model.url, "model": "words"}}}
        (tmp_path / "recipe.json").write_text(json.dumps(recipe))
        run = build(tmp_path)
        texts = ("May and June", "a river, snow", "the and of")
        with closing(Notes.open(run / "notes.sqlite")) as notes:
            notes.add_all([Label(SAE, n, text, "rules", "rules") for n, text in enumerate(texts)])
            learn(embedding_of(run), notes)
        with TestClient(create_app(run, FakeLive(SAES))) as client:
            yield client, model


def test_meaning_finds_labels_without_their_words(embedded: tuple[TestClient, Model]) -> None:
    client, model = embedded
    found = post(client, "/api/search/meanings", text="rain", limit=2)
    assert names(found)[0] == (SAE, 1)
    assert found["hits"][0]["value"] > found["hits"][1]["value"]
    assert 'id="missing"' not in client.get("/search", params={"by": "meaning"}).text
    asked = len(model.requests)
    model.misbehave = lambda number, request: Reply(status=500)
    answer = client.post("/api/search/meanings", json={"text": "rain"})
    assert answer.status_code == 500 and "gave no vectors" in answer.json()["error"]["message"]
    assert len(model.requests) == asked + 1  # once: who searches waits


def test_a_run_without_an_embedding_model_says_so(client: TestClient) -> None:
    answer = client.post("/api/search/meanings", json={"text": "rain"})
    assert answer.status_code == 422
    said = answer.json()["error"]["message"]
    assert "name an embedding model in [explain.meaning]" in said
    assert f"{said}.".replace("'", "&#39;") in client.get("/search", params={"by": "meaning"}).text


def test_features_elsewhere_come_with_their_rows_and_labels(client: TestClient) -> None:
    near = get(client, f"/api/sae/{SAE}/feature/0")["feature"]["elsewhere"]
    found = get(client, f"/api/sae/{SAE}/feature/0/elsewhere")
    assert names(found) == [(n["sae"], n["index"]) for n in near]
    assert [hit["value"] for hit in found["hits"]] == [n["cosine"] for n in near]
    assert all(hit["label"] for hit in found["hits"] if hit["row"]["index"] < 5)


def test_the_direction_of_a_feature(client: TestClient) -> None:
    found = get(client, f"/api/sae/{SAE}/feature/3/direction")
    assert np.array_equal(found["direction"], World(SAE, 64).strength[3])
    assert len(found["direction"]) == len(PIECES)
    assert client.get(f"/api/sae/{SAE}/feature/64/direction").status_code == 404


@pytest.mark.parametrize("by", ["words", "meaning", "numbers", "text", "direction"])
def test_each_kind_of_search_has_its_form(client: TestClient, by: str) -> None:
    html = client.get("/search", params={"by": by}).text
    assert f'data-by="{by}"' in html
    assert html.count('aria-current="page"') >= 2
    wrong = client.get("/search", params={"by": by[:-1] + "x"})
    assert wrong.status_code == 404
    assert f"did you mean {by}?" in wrong.text
