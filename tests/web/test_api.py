import csv
import io
import json
import re

import numpy as np
import pytest
from fastapi.testclient import TestClient
from tests.web.conftest import SAES
from tests.web.fixture_run import PIECES

SAE = SAES[2]


def test_suite_joins_metrics_and_atlas(client: TestClient) -> None:
    suite = client.get("/api/suite").json()
    assert (suite["run"], suite["model"], suite["notice"]) == ("demo", "pocket", "")
    assert suite["clean_loss"] == 3.213
    assert [sae["sae"] for sae in suite["saes"]] == SAES
    first = suite["saes"][0]
    assert first["n_alive"] == 62
    assert first["metrics"]["l0"] == pytest.approx(31.29)
    assert first["facts"] == {"steps": 3000}, "what else the manifest says"
    html = client.get(f"/sae/{first['sae']}").text
    assert re.search(r"<dt>Steps</dt><dd title=\"3000\">", html)
    assert client.get("/api/saes").json() == suite["saes"]
    assert client.get(f"/api/sae/{SAES[0]}").json() == first


def test_features_are_sorted_filtered_and_cut(client: TestClient) -> None:
    query = {"sort": "max", "descending": "false", "alive": "true", "offset": 10, "limit": 5}
    page = client.get(f"/api/sae/{SAE}/features", params=query).json()
    every = client.get(f"/api/sae/{SAE}/features", params={**query, "offset": 0, "limit": 500})
    maxima = [row["max"] for row in every.json()["rows"]]
    assert page["total"] == 62
    assert len(maxima) == 62
    assert maxima == sorted(maxima)
    assert page["rows"] == every.json()["rows"][10:15]
    for token in page["rows"][0]["top_tokens"]:
        assert page["pieces"][str(token)] == PIECES[token]


def test_features_by_text_and_nearest_text(client: TestClient) -> None:
    found = client.get(f"/api/sae/{SAE}/features", params={"text": "·january"}).json()
    assert 0 in [row["index"] for row in found["rows"]]
    for row in found["rows"]:
        shown = "|".join(PIECES[token] for token in row["top_tokens"] + row["peak_tokens"])
        assert " january" in shown.lower()
    none = client.get(f"/api/sae/{SAE}/features", params={"text": "janury"}).json()
    assert none["total"] == 0
    assert none["nearest"].startswith("did you mean january")


def test_dead_features_are_listed_on_request(client: TestClient) -> None:
    query = {"high": 0, "alive": "false", "sort": "index", "descending": "false"}
    dead = client.get(f"/api/sae/{SAE}/features", params=query).json()
    assert [row["index"] for row in dead["rows"]] == [5, 63]
    densities = client.get(f"/api/sae/{SAE}/densities").json()
    assert densities["n_dead"] == 2
    assert sum(densities["counts"]) == 62


def test_one_feature_is_joined_to_contexts_and_pieces(client: TestClient) -> None:
    view = client.get(f"/api/sae/{SAE}/feature/0").json()
    contexts = {context["context"]: context for context in view["contexts"]}
    assert view["previous"] is None
    assert view["next"] == 1
    for example in view["feature"]["examples"]:
        token = contexts[example["context"]]["tokens"][example["peak"]]
        assert view["pieces"][str(token)] == PIECES[token]
        assert example["peak"] in example["positions"]
    assert [row["index"] for row in view["neighbours"]] == view["feature"]["neighbours"]


def test_a_map_is_three_columns_of_numbers(client: TestClient) -> None:
    numbers = np.frombuffer(client.get(f"/api/sae/{SAE}/map").content, "<f4").reshape(3, 64)
    for index in (0, 7):
        feature = client.get(f"/api/sae/{SAE}/feature/{index}").json()["feature"]
        place = [feature["x"], feature["y"], np.log10(feature["density"])]
        assert numbers[:, index].tolist() == pytest.approx(place)
    assert numbers[2, 5] == -np.inf


def test_random_features_are_alive(client: TestClient) -> None:
    for _ in range(20):
        assert client.get(f"/api/sae/{SAE}/random").json()["density"] > 0


def test_csv_holds_what_the_query_finds(client: TestClient) -> None:
    answer = client.get(f"/api/sae/{SAE}/features.csv", params={"sort": "index", "alive": "false"})
    assert answer.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert [int(line["index"]) for line in lines] == list(range(63, -1, -1))
    assert json.loads(lines[-1]["peak_tokens"])[0] in PIECES
    suite = list(csv.DictReader(io.StringIO(client.get("/api/suite.csv").text)))
    assert [line["sae"] for line in suite] == SAES


def test_live_test_and_microscope(client: TestClient) -> None:
    text = "The dog slept under the table in January."
    answer = client.post("/api/test", json={"sae": SAE, "index": 0, "text": text}).json()
    fired = [answer["tokens"][n] for n, value in enumerate(answer["values"]) if value > 0]
    assert " January" in fired
    seen = client.post("/api/microscope", json={"text": text, "k": 3}).json()
    assert [reading["sae"] for reading in seen["saes"]] == SAES
    for reading in seen["saes"]:
        assert len(reading["strongest"]) == len(seen["tokens"])
        assert max(map(len, reading["strongest"])) <= 3
    one = client.post("/api/microscope", json={"text": text, "saes": [SAE]}).json()
    assert [reading["sae"] for reading in one["saes"]] == [SAE]


def test_openapi_describes_every_api_route(client: TestClient) -> None:
    spec = client.get("/openapi.json").json()
    assert len(spec["paths"]) == 45
    assert all(path.startswith("/api/") for path in spec["paths"])
    for verbs in spec["paths"].values():
        for operation in verbs.values():
            failed = operation["responses"]["422"]["content"]["application/json"]["schema"]
            assert failed["$ref"].endswith("/ErrorShape")
            assert operation["description"].endswith((".", "finds", "peaks on."))
