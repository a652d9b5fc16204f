"""Neuronpedia's routes: its keys, its types, its names; the numbers are the atlas's."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from tests.web.conftest import SAES
from tests.web.fixture_run import N_HEADS, PIECES, FakeLive

from panscope.atlas.labels import Label, Score
from panscope.atlas.notes import Notes
from panscope.sites import all_sites
from panscope.web import sources
from panscope.web.app import create_app

SAE, SOURCE, SET = SAES[2], "1-resid_post-w64_l0_30_s0", "resid_post-w64_l0_30_s0"
TEXT = "The dog slept under the table in January."
PATH = f"/api/feature/pocket/{SOURCE}"
LABEL = Label(SAE, 0, "names of months", "a-model", "tokens", scores=(Score("fuzz", 0.9, 0.5, 20),))


@pytest.fixture(scope="module")
def labelled(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    run = Path(shutil.copytree(run_folder, tmp_path_factory.mktemp("labelled") / "run"))
    notes = Notes.open(run / "notes.sqlite")
    notes.add(LABEL)
    notes.add(Label(SAES[0], 3, "months in code", "someone"))
    notes.close()
    with TestClient(create_app(run, FakeLive(SAES))) as client:
        yield client


names = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,20}", fullmatch=True)


@given(st.lists(st.tuples(st.sampled_from(all_sites(30)), names), unique=True, min_size=1))
def test_sources_go_both_ways(pairs: list[tuple[object, str]]) -> None:
    saes = [f"{site}/{name}" for site, name in pairs]
    for sae in saes:
        source = sources.source_of(sae)
        layer, _, own_set = source.partition("-")
        assert layer.isdecimal()
        assert sources.sae_of(source, saes) == sae
        assert sae in sources.chosen(own_set, [], saes)
        assert sources.chosen(own_set, [layer], saes) == sources.chosen(own_set, [source], saes)


def test_a_feature_has_neuronpedias_keys_and_types(client: TestClient) -> None:
    answer = client.get(f"{PATH}/0").json()
    ours = client.get(f"/api/sae/{SAE}/feature/0").json()
    feature = ours["feature"]
    assert (answer["modelId"], answer["layer"], answer["index"]) == ("pocket", SOURCE, "0")
    assert answer["sourceSetName"] == SET
    assert answer["maxActApprox"] == feature["max"]
    assert answer["frac_nonzero"] == feature["density"]
    assert answer["pos_str"] == [PIECES[token] for token in feature["top_tokens"]]
    assert answer["neg_values"] == feature["bottom_logits"]
    assert answer["topkCosSimIndices"] == feature["neighbours"]
    heights, middles = (answer[f"freq_hist_data_bar_{name}"] for name in ("heights", "values"))
    assert len(heights) == len(middles) == len(ours["sae"]["bin_edges"]) - 1
    assert sum(heights) == sum(feature["histogram"])
    assert middles == sorted(middles)
    assert answer["explanations"] == answer["lists"] == answer["comments"] == []


def test_a_feature_of_heads_has_their_shares(client: TestClient) -> None:
    source = "0-attn_z-w64_l0_30_s0"
    ours = client.get(f"/api/sae/{SAES[0]}/feature/0").json()["feature"]["head_shares"]
    answer = client.get(f"/api/feature/pocket/{source}/0").json()
    assert len(ours) == N_HEADS
    assert answer["decoder_weights_dist"] == ours
    assert client.get(f"{PATH}/0").json()["decoder_weights_dist"] == []


def test_activations_hold_every_token(client: TestClient) -> None:
    answer = client.get(f"{PATH}/0").json()
    ours = client.get(f"/api/sae/{SAE}/feature/0").json()
    examples = ours["feature"]["examples"]
    assert len(answer["activations"]) == len(examples)
    for activation, example in zip(answer["activations"], examples, strict=True):
        assert len(activation["tokens"]) == len(activation["values"])
        assert activation["tokens"][0] == "<bos>"
        assert activation["values"][0] == 0
        assert activation["qualifyingTokenIndex"] == example["peak"]
        assert activation["maxValue"] == max(example["values"])
        assert activation["values"][activation["maxValueTokenIndex"]] == activation["maxValue"]
        assert (activation["binMin"] == activation["binContains"] == -1) == (example["band"] == -1)
    inside = [a for a in answer["activations"] if a["binMin"] >= 0]
    shares = {a["binMin"]: a["binContains"] for a in inside}
    assert 0 < sum(shares.values()) <= answer["frac_nonzero"] * 1.000001


def test_a_text_on_one_feature(client: TestClient) -> None:
    name = {"modelId": "pocket", "source": SOURCE, "index": "0"}
    answer = client.post("/api/activation/new", json={"feature": name, "customText": TEXT}).json()
    live = client.post("/api/test", json={"sae": SAE, "index": 0, "text": TEXT}).json()
    assert answer["tokens"] == ["<bos>", *live["tokens"]]
    assert answer["values"] == [0, *live["values"]]
    assert answer["maxValue"] == max(live["values"])
    assert answer["tokens"][answer["maxValueTokenIndex"]] == " January"


def search(client: TestClient, **more: object) -> dict[str, object]:
    body = {"modelId": "pocket", "sourceSet": SET, "text": TEXT, "selectedLayers": [], **more}
    answer = client.post("/api/search-all", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_search_all_lists_the_strongest(client: TestClient) -> None:
    found = search(client, numResults=5)
    assert len(found["result"]) == 5
    maxima = [hit["maxValue"] for hit in found["result"]]
    assert maxima == sorted(maxima, reverse=True)
    for hit in found["result"]:
        assert (hit["modelId"], hit["layer"]) == ("pocket", SOURCE)
        assert hit["neuron"]["index"] == hit["index"]
        assert len(hit["values"]) == len(found["tokens"])
        assert hit["values"][hit["maxValueIndex"]] == hit["maxValue"]
        body = {"sae": SAE, "index": int(hit["index"]), "text": TEXT}
        assert client.post("/api/test", json=body).json()["values"] == hit["values"][1:]


def test_search_all_sorts_by_chosen_tokens(client: TestClient) -> None:
    tokens = search(client)["tokens"]
    at = tokens.index(" January")
    found = search(client, sortIndexes=[at, 4_000], selectedLayers=["1"])
    assert found["sortIndexes"] == [at]
    values = [hit["values"][at] for hit in found["result"]]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0


def test_the_strongest_of_each_token(client: TestClient) -> None:
    body = {"modelId": "pocket", "source": SOURCE, "text": TEXT, "numResults": 3}
    answer = client.post("/api/search-topk-by-token", json=body).json()
    assert answer["source"] == SOURCE
    assert [result["position"] for result in answer["results"]] == list(
        range(1, 1 + len(answer["results"]))
    )
    for result in answer["results"]:
        values = [top["activationValue"] for top in result["topFeatures"]]
        assert values == sorted(values, reverse=True)
        assert len(values) <= 3
        for top in result["topFeatures"]:
            assert top["feature"]["index"] == str(top["featureIndex"])
    with_bos = client.post("/api/search-topk-by-token", json={**body, "ignoreBos": False}).json()
    assert with_bos["results"][0]["isSpecial"]
    assert with_bos["results"][1:] == answer["results"]


def test_explanations_come_with_their_scores(labelled: TestClient) -> None:
    found = labelled.get(f"{PATH}/0").json()["explanations"]
    assert [(e["description"], e["typeName"]) for e in found] == [("names of months", "tokens")]
    assert found[0]["index"] == "0"
    assert found[0]["scores"][0]["value"] == 0.9
    assert found[0]["scores"][0]["explanationScoreTypeName"] == "fuzz"


def test_explanations_are_searched(labelled: TestClient) -> None:
    body = {"modelId": "pocket", "query": "month", "offset": 0}
    every = labelled.post("/api/explanation/search", json=body).json()
    assert {e["description"] for e in every["results"]} == {"names of months", "months in code"}
    assert (every["resultsCount"], every["hasMore"], every["nextOffset"]) == (2, False, 2)
    here = labelled.post("/api/explanation/search", json={**body, "layers": [SOURCE]}).json()
    assert [e["layer"] for e in here["results"]] == [SOURCE]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (f"/api/feature/pocked/{SOURCE}/0", "this server shows pocket"),
        (f"/api/feature/pocket/{SOURCE[:-1]}/0", f"did you mean {SOURCE}"),
        (f"{PATH}/64", "give an index from 0 to 63"),
    ],
)
def test_wrong_names_are_answered_with_right_ones(
    client: TestClient, path: str, words: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize("more", [{"sourceSet": SET[:-1]}, {"selectedLayers": ["7"]}])
def test_a_search_of_what_is_not_there_names_the_nearest(
    client: TestClient, more: dict[str, object]
) -> None:
    body = {"modelId": "pocket", "sourceSet": SET, "text": TEXT, **more}
    answer = client.post("/api/search-all", json=body)
    assert answer.status_code == 404
    assert "did you mean" in answer.json()["error"]["message"]
