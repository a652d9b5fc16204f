"""Live tests with the pocket model, and Saes whose latents can be computed by hand."""

import gc
import os
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from tests.web.conftest import SAES
from tests.web.fixture_run import CONTEXT

from panscope.allocator import free_frozen
from panscope.atlas.features import Atlas, write_pieces
from panscope.atlas.queries import Catalogue
from panscope.edits import Edit
from panscope.errors import ConfigError, NotFound, Unsupported
from panscope.files import MANIFEST, seal
from panscope.model import load, tap
from panscope.model.generate import generate
from panscope.sae.sae import Sae
from panscope.sae.suite import write_sae
from panscope.sites import Site
from panscope.web import run as run_module
from panscope.web.app import create_app
from panscope.web.live import Live
from panscope.web.run import RunFolder

TEXT = "The dog slept under the table in January."


@pytest.fixture(scope="module")
def model() -> load.Model:
    return load.load(load.Config())


@pytest.fixture(scope="module")
def real_run(run_folder: Path, model: load.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture's atlas with the pocket model's pieces, and random Saes at its three sites."""
    run = Path(shutil.copytree(run_folder, tmp_path_factory.mktemp("live") / "run"))
    facts = Atlas(run / "atlas").manifest.facts
    write_pieces(run / "atlas", model.pieces())
    seal(run / "atlas", "atlas", {}, {}, facts)
    generator = torch.Generator().manual_seed(0)
    for name in SAES:
        write_sae(run / "suite", name, random_sae(model, name, generator))
    seal(run / "suite", "suite", {}, {}, {"saes": [{"sae": name, "width": 64} for name in SAES]})
    return run


def random_sae(model: load.Model, name: str, generator: torch.Generator) -> Sae:
    site = Site.parse(name.partition("/")[0])
    w_dec = torch.randn(64, model.d_at(site), generator=generator)
    return Sae(
        w_enc=w_dec.T.clone(),
        b_enc=torch.zeros(64),
        w_dec=w_dec,
        b_dec=torch.zeros(model.d_at(site)),
        threshold=torch.full((64,), 0.5),
        reads=(site,),
        writes=(site,),
    )


@pytest.fixture(scope="module")
def live(real_run: Path) -> Live:
    return Live(real_run / "suite", Catalogue(Atlas(real_run / "atlas")))


def expected(model: load.Model, live: Live, name: str) -> torch.Tensor:
    sae = live._suite.load(name)
    ids = torch.tensor([model.encode(TEXT)])
    values = tap.run(model, ids, read=sae.reads).values[sae.reads[0]]
    pre = values[0, 1:] @ sae.w_enc
    return pre * (pre > sae.threshold)


@pytest.mark.parametrize("name", SAES)
def test_activations_are_the_sae_of_the_site(model: load.Model, live: Live, name: str) -> None:
    answer = live.activations(TEXT, name, 3)
    ids = model.encode(TEXT)
    assert list(answer.ids) == ids[1:]
    assert "".join(answer.tokens) == TEXT
    assert answer.values == pytest.approx(expected(model, live, name)[:, 3].tolist(), abs=1e-4)
    assert answer.note == ""


def test_the_microscope_lists_the_strongest(model: load.Model, live: Live) -> None:
    answer = live.microscope(TEXT, 4, 1.0, SAES)
    for reading in answer.saes:
        values = expected(model, live, reading.sae)
        best = values.topk(4).indices.tolist()
        for token, places in enumerate(reading.strongest):
            listed = [reading.features[place].index for place in places]
            assert listed == [n for n in best[token] if values[token, n] > 0]
        for seen in reading.features:
            assert list(seen.positions) == values[:, seen.index].nonzero().flatten().tolist()
            shown = values[list(seen.positions), seen.index].tolist()
            assert list(seen.values) == pytest.approx(shown, abs=1e-4)


def test_saes_unused_longest_are_let_go(
    live: Live, real_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = live.microscope(TEXT, 4, 1.0, SAES)
    monkeypatch.setattr("panscope.web.live.SAES_BYTES", 2 * live._saes.bytes // 3)
    small = Live(real_run / "suite", Catalogue(Atlas(real_run / "atlas")))
    assert small.microscope(TEXT, 4, 1.0, SAES) == whole
    assert [name in small._saes for name in SAES] == [False, True, True]
    assert small.activations(TEXT, SAES[0], 3) == live.activations(TEXT, SAES[0], 3)
    assert [name in small._saes for name in SAES] == [True, False, True]


def test_dense_features_are_left_out(live: Live, real_run: Path) -> None:
    density = Catalogue(Atlas(real_run / "atlas")).columns(SAES[0]).density
    answer = live.microscope(TEXT, 20, 0.03, SAES[:1])
    listed = [seen.index for seen in answer.saes[0].features]
    assert listed
    assert all(density[index] <= 0.03 for index in listed)


def test_long_texts_are_cut_to_the_context_and_the_note_says_so(live: Live) -> None:
    answer = live.activations("word " * 500, SAES[0], 0)
    assert len(answer.tokens) == CONTEXT - 1
    assert answer.note.startswith(f"cut to the first {CONTEXT - 1} of ")


def test_an_empty_text_is_refused(live: Live) -> None:
    with pytest.raises(ConfigError, match="text: is empty; write a word or more"):
        live.microscope(" \n", 3, 1.0)


def test_the_app_loads_the_model_when_asked(real_run: Path) -> None:
    client = TestClient(create_app(real_run))
    body = {"sae": SAES[0], "index": 3, "text": TEXT}
    assert len(client.post("/api/test", json=body).json()["values"]) > 5
    seen = client.post("/api/microscope", json={"text": TEXT}).json()
    assert [reading["sae"] for reading in seen["saes"]] == SAES


def test_a_model_is_gone_before_another_is_loaded(
    real_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two may not fit in memory."""
    run = RunFolder(Path(shutil.copytree(real_run, tmp_path / "run")))
    first, left = weakref.ref(run.live._model.lm), []  # type: ignore[attr-defined]

    def freeing() -> None:
        free_frozen()
        left.append(first())

    monkeypatch.setattr(run_module, "free_frozen", freeing)
    os.utime(run.folder / "suite" / MANIFEST)
    assert run.live._model.lm is not None  # type: ignore[attr-defined]
    assert left == [None]


def test_the_model_of_a_run_that_is_closed_is_gone_at_once(real_run: Path) -> None:
    run = RunFolder(real_run)
    run.close()
    model = weakref.ref(run.live._model.lm)  # type: ignore[attr-defined]
    run.close()
    assert model() is None
    assert gc.isenabled() and gc.get_freeze_count() > 0
    gc.unfreeze()


def resealed(real_run: Path, tmp_path: Path, **facts: object) -> Path:
    run = Path(shutil.copytree(real_run, tmp_path / "run"))
    known: Mapping[str, object] = Atlas(run / "atlas").manifest.facts
    kept = {key: value for key, value in {**known, **facts}.items() if value is not None}
    seal(run / "atlas", "atlas", {}, {}, kept)
    return run


def test_an_atlas_of_no_known_model_is_refused(real_run: Path, tmp_path: Path) -> None:
    run = resealed(real_run, tmp_path, model=None)
    with pytest.raises(Unsupported, match="does not say which model it is of"):
        Live(run / "suite", Catalogue(Atlas(run / "atlas")))


def test_a_model_that_is_gone_is_named(real_run: Path, tmp_path: Path) -> None:
    run = resealed(real_run, tmp_path, model={"name": str(tmp_path / "gone")})
    body = {"sae": SAES[0], "index": 3, "text": TEXT}
    answer = TestClient(create_app(run)).post("/api/test", json=body)
    assert answer.status_code == 404
    assert f"model {tmp_path}/gone: " in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["model", "suite"])
def test_an_atlas_of_another_model_or_suite_is_refused(
    real_run: Path, tmp_path: Path, name: str
) -> None:
    run = Path(shutil.copytree(real_run, tmp_path / "run"))
    seal(run / "atlas", "atlas", {}, {name: "0" * 64}, Atlas(run / "atlas").manifest.facts)
    with pytest.raises(Unsupported, match=f"was made from another {name} than the one there now"):
        Live(run / "suite", Catalogue(Atlas(run / "atlas")))


def test_without_a_suite_a_live_test_says_what_is_missing(real_run: Path, tmp_path: Path) -> None:
    run = resealed(real_run, tmp_path)
    shutil.rmtree(run / "suite")
    with pytest.raises(NotFound, match="suite: no such folder"):
        Live(run / "suite", Catalogue(Atlas(run / "atlas")))


def test_the_nearest_directions_are_those_of_the_same_space(live: Live) -> None:
    """`attn_z` is a space of its own; what an MLP and a layer write is the residual stream."""
    own, beside = (live._suite.load(name).w_dec for name in (SAES[1], SAES[2]))
    near = live.nearest_to_feature(SAES[1], 7, SAES, 40)
    assert {found.sae for found in near} == {SAES[1], SAES[2]}
    assert (SAES[1], 7) not in [(found.sae, found.index) for found in near]
    rows = torch.cat([own, beside])
    cosines = torch.cosine_similarity(rows, own[7][None]).sort(descending=True).values[1:41]
    assert [found.cosine for found in near] == pytest.approx(cosines.tolist(), abs=1e-6)
    assert live.direction(SAES[1], 7) == pytest.approx(own[7].tolist())


def test_two_texts_differ_along_their_mean_difference(model: load.Model, live: Live) -> None:
    texts = ("The dog slept.", "In January it rained.")
    site = Site.parse("resid_post.1")
    means = [
        tap.run(model, torch.tensor([model.encode(text)]), read={site}).values[site][0, 1:].mean(0)
        for text in texts
    ]
    near = live.nearest_to_difference(*texts, "resid_post.1", SAES, 5)
    w_dec = live._suite.load(SAES[2]).w_dec
    of_last = torch.cosine_similarity(w_dec, (means[0] - means[1])[None])
    assert max(found.cosine for found in near) >= float(of_last.max()) - 1e-5
    for found in near:
        if found.sae == SAES[2]:
            assert found.cosine == pytest.approx(float(of_last[found.index]), abs=1e-5)
    refused = {
        "resid_pots.1": "did you mean",
        "resid_post.*": "means several sites",
        "q.0": "has no direction",
    }
    for wrong, said in refused.items():
        with pytest.raises((ConfigError, NotFound), match=said):
            live.nearest_to_difference(*texts, wrong, SAES, 5)


def test_a_vector_is_compared_where_it_stands(live: Live) -> None:
    vector = live.direction(SAES[2], 7)
    near = live.nearest_to_vector(vector, "resid_post.1", SAES, 3)
    assert (near[0].sae, near[0].index) == (SAES[2], 7)
    assert near[0].cosine == pytest.approx(1)
    for wrong, said in (
        (vector[1:], f"give the {len(vector)} that"),
        ([0.0] * len(vector), "points nowhere"),
    ):
        with pytest.raises(ConfigError, match=said):
            live.nearest_to_vector(wrong, "resid_post.1", SAES, 3)


def test_texts_beside_each_other_are_told_in_pieces(model: load.Model, live: Live):
    edit = Edit(action="set", sae=SAES[2], index=3, value=40.0)
    told = list(live.beside("The dog slept", [edit], 6, 0.0, 0))
    made = generate(model, [model.encode("The dog slept")], 6).ids[0][-6:]
    assert [both.normal.id for both in told if both.normal] == made
    assert [both.normal.piece for both in told if both.normal] == [model.pieces()[i] for i in made]
    assert told[0].kl_nats and told[0].shares[0] > 0
    assert told[0].steered and told[0].steered.likeliest[0][0] == told[0].steered.piece


def test_a_multiple_is_of_the_atlas_maximum(live: Live):
    feature = next(f for f in range(64) if live._catalogue.columns(SAES[2]).max[f] > 0)
    largest = float(live._catalogue.columns(SAES[2]).max[feature])
    times = Edit(sae=SAES[2], index=feature, value=2.0, unit="max")
    raw = Edit(sae=SAES[2], index=feature, value=2 * largest)
    one, other = (list(live.beside("The dog", [edit], 3, 0.7, 1)) for edit in (times, raw))
    assert one == other
