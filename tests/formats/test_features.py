"""Features for other libraries' pages: the keys their readers ask for, the numbers of the Atlas."""

import gzip
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.web.fixture_run import build_atlas

from panscope.atlas.features import Atlas
from panscope.atlas.labels import Label, Score
from panscope.atlas.notes import Notes
from panscope.errors import ConfigError, NotFound
from panscope.stages import exchange

SAE, WIDTH = "resid_post.1/w8_l0_3_s0", 8

# The tables of neuronpedia_utils.db_models, and SAEDashboard's NeuronpediaDashboardFeature.
FEATURE = """
modelId layer index creatorId createdAt maxActApprox hasVector vector vectorLabel
vectorDefaultSteerStrength hookName topkCosSimIndices topkCosSimValues neuron_alignment_indices
neuron_alignment_values neuron_alignment_l1 correlated_neurons_indices correlated_neurons_pearson
correlated_neurons_l1 correlated_features_indices correlated_features_pearson
correlated_features_l1 neg_str neg_values pos_str pos_values frac_nonzero
freq_hist_data_bar_heights freq_hist_data_bar_values logits_hist_data_bar_heights
logits_hist_data_bar_values decoder_weights_dist sourceSetName
"""
ACTIVATION = """
id tokens index layer modelId maxValue maxValueTokenIndex minValue values creatorId dataSource
dataIndex dfaValues dfaTargetIndex dfaMaxValue createdAt lossValues logitContributions binMin
binMax binContains qualifyingTokenIndex zIndices zValues
"""
SOURCE = """
id modelId setName creatorId hasDashboards inferenceEnabled inferenceHosts saelensConfig
saelensRelease saelensSaeId hfRepoId hfFolderId visibility defaultOfModelId hasUmap
hasUmapLogSparsity hasUmapClusters num_prompts num_tokens_in_prompt dataset notes createdAt
"""
EXPLANATION = """
id modelId layer index description embedding authorId typeName explanationModelName notes createdAt
"""
DASHBOARD = """
feature_index neuron_alignment_indices neuron_alignment_values neuron_alignment_l1
correlated_neurons_indices correlated_neurons_l1 correlated_neurons_pearson
correlated_features_indices correlated_features_l1 correlated_features_pearson neg_str neg_values
pos_str pos_values frac_nonzero freq_hist_data_bar_values freq_hist_data_bar_heights
logits_hist_data_bar_heights logits_hist_data_bar_values n_prompts_total n_tokens_in_prompt
dataset decoder_weights_dist activations vector
"""


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    folder = tmp_path_factory.mktemp("run")
    build_atlas(folder, [SAE], WIDTH)
    return Atlas(folder / "atlas")


def lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.splitlines()]


def test_neuronpedia(atlas: Atlas, tmp_path: Path):
    exchange.write(atlas.folder, "neuronpedia", tmp_path / "out", (), "google/gemma-2-2b")
    (source,) = (tmp_path / "out/v1/gemma-2-2b").iterdir()
    assert source.name == "1-panscope-resid-post-w8-l0-3-s0"
    features = lines(source / "features/batch-0.jsonl.gz")
    activations = lines(source / "activations/batch-0.jsonl.gz")
    assert all(set(row) == set(FEATURE.split()) for row in features)
    assert all(list(row) == list(activations[0]) for row in activations), "columns of line one"
    assert set(activations[0]) == set(ACTIVATION.split())
    (about,) = lines(source / "source.jsonl")
    assert set(about) == set(SOURCE.split())
    assert about["id"] == source.name == features[0]["layer"]
    ids = [row["id"] for row in activations]
    assert len(set(ids)) == len(ids)
    assert {len(i) for i in ids} == {25}
    for name in ("release", "model", "sourceset"):
        assert len(lines(source / f"{name}.jsonl")) == 1
    living = [f for f in atlas.features(SAE, range(atlas.sae(SAE).width)) if f.count]
    assert [row["index"] for row in features] == [str(f.index) for f in living]
    assert features[0]["frac_nonzero"] == living[0].density
    assert features[0]["topkCosSimIndices"] == list(living[0].neighbours)
    assert features[0]["hookName"] == "blocks.1.hook_resid_post"


def test_labels_become_explanations(atlas: Atlas, tmp_path: Path):
    living = [f.index for f in atlas.features(SAE, range(WIDTH)) if f.count]
    dead = next(n for n in range(WIDTH + 1) if n not in living)
    first, second = living[:2]
    scores = (Score("detection", 0.75, 0.5, 20), Score("fuzzing", None, None, 0, 8))
    with closing(Notes.open(atlas.folder.parent / "notes.sqlite")) as notes:
        for text in ("rivers", "rain"):
            notes.add(Label(SAE, first, text, "rules", "top tokens", scores=scores))
        notes.add(Label(SAE, first, "water", "Ada"))
        notes.add(Label(SAE, second, "months", "gpt", "prompt"))
        notes.add(Label(SAE, dead, "nothing", "Ada"))
    try:
        exchange.write(atlas.folder, "neuronpedia", tmp_path / "out", (), None)
    finally:
        (atlas.folder.parent / "notes.sqlite").unlink()
    (path,) = (tmp_path / "out").rglob("explanations/*.gz")
    rows = {row["description"]: row for row in lines(path)}
    assert set(rows) == {"rain", "water", "months"}, "neither history nor dead features"
    assert all(set(row) == set(EXPLANATION.split()) for row in rows.values())
    assert (rows["rain"]["index"], rows["months"]["index"]) == (str(first), str(second))
    assert rows["rain"]["layer"] == path.parents[1].name
    assert rows["rain"]["notes"] == (
        "by rules; detection 0.750, 0.500 by another's label (20 answers); fuzzing not answered"
    )
    assert rows["water"]["typeName"] is rows["water"]["explanationModelName"] is None
    assert rows["water"]["notes"] == "by Ada"
    for table, column in (
        ("explanation_type", "typeName"),
        ("explanation_model_type", "explanationModelName"),
    ):
        known = {row["name"] for row in lines(tmp_path / f"out/v1/config/{table}.jsonl")}
        assert known == {row[column] for row in rows.values()} - {None}


def test_without_labels_there_are_no_empty_tables(atlas: Atlas, tmp_path: Path):
    exchange.write(atlas.folder, "neuronpedia", tmp_path / "out", (), None)
    assert not list((tmp_path / "out").rglob("explanation*"))


def test_ids_are_the_same_at_every_export(atlas: Atlas, tmp_path: Path):
    for out in ("a", "b"):
        exchange.write(atlas.folder, "neuronpedia", tmp_path / out, (), None)
    found = [sorted((tmp_path / out).rglob("activations/*.gz")) for out in ("a", "b")]
    first, second = ([row["id"] for path in paths for row in lines(path)] for paths in found)
    assert first == second


def test_sae_dashboard(atlas: Atlas, tmp_path: Path):
    exchange.write(atlas.folder, "sae_dashboard", tmp_path / "out", (SAE,), None)
    batch = json.loads((tmp_path / "out" / SAE / "batch-0.json").read_text())
    assert (batch["model_id"], batch["layer"], batch["sae_set"]) == ("pocket", 1, SAE)
    living = {f.index: f for f in atlas.features(SAE, range(atlas.sae(SAE).width)) if f.count}
    rows = {row["feature_index"]: row for row in batch["features"]}
    assert rows.keys() == living.keys()
    for index, feature in living.items():
        row = rows[index]
        assert set(row) == set(DASHBOARD.split())
        assert sum(row["freq_hist_data_bar_heights"]) == sum(feature.histogram)
        assert sum(row["logits_hist_data_bar_heights"]) == sum(feature.logit_histogram)
        assert row["correlated_features_indices"] == list(feature.companions)
        assert row["pos_str"] == [atlas.pieces[token] for token in feature.top_tokens]
        tops = [a for a in row["activations"] if a["bin_min"] == -1]
        assert len(tops) == sum(example.band == -1 for example in feature.examples)
        assert all(a["bin_contains"] == -1 for a in tops)
        for activation in row["activations"]:
            assert len(activation["tokens"]) == len(activation["values"])
            peak = activation["values"][activation["qualifying_token_index"]]
            if activation["bin_min"] != -1:
                assert activation["bin_min"] - 1e-5 <= peak <= activation["bin_max"] + 1e-5
    skipped = json.loads((tmp_path / "out" / SAE / "skipped_indexes.json").read_text())
    assert skipped["skipped_indexes"] == [n for n in range(WIDTH) if n not in living]


def test_shares_of_heads(tmp_path: Path):
    """In both formats, and shown by who reads them; Saes of other sites have none."""
    heads, stream = "attn_z.0/w8_l0_3_s0", SAE
    build_atlas(tmp_path, [heads, stream], WIDTH)
    atlas = Atlas(tmp_path / "atlas")
    shares = {
        sae: [list(f.head_shares) for f in atlas.features(sae, range(WIDTH)) if f.count]
        for sae in (heads, stream)
    }
    assert all(shares[heads]) and not any(shares[stream])
    exchange.write(atlas.folder, "sae_dashboard", tmp_path / "dashboard", (), None)
    exchange.write(atlas.folder, "neuronpedia", tmp_path / "pedia", (), None)
    for sae, source in ((heads, "0-panscope-attn-z"), (stream, "1-panscope-resid-post")):
        batch = json.loads((tmp_path / "dashboard" / sae / "batch-0.json").read_text())
        (place,) = (tmp_path / "pedia/v1/pocket").glob(f"{source}-*")
        for rows in (batch["features"], lines(place / "features/batch-0.jsonl.gz")):
            found = [row["decoder_weights_dist"] for row in rows]
            assert found == [[round(s, 5) for s in row] for row in shares[sae]]
        (about,) = lines(place / "sourceset.jsonl")
        assert about["showHeadAttribution"] == (sae == heads)


def test_formats_of_saes_are_not_those_of_features(atlas: Atlas, tmp_path: Path):
    with pytest.raises(ConfigError, match="format saelens: is not one of those for atlas"):
        exchange.write(atlas.folder, "saelens", tmp_path / "out", (), None)
    with pytest.raises(NotFound, match="has nothing at 'mlp"):
        exchange.write(atlas.folder, "neuronpedia", tmp_path / "out", ("mlp*",), None)
    assert not list(tmp_path.iterdir())


def test_features_are_read_a_row_group_at_a_time(tmp_path: Path):
    build_atlas(tmp_path, [SAE], 70)
    atlas = Atlas(tmp_path / "atlas")
    assert list(atlas.features(SAE, range(70))) == [atlas.feature(SAE, n) for n in range(70)]
