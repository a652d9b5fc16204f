"""Evaluation: the definitions on examples worked by hand, and on a model by a plain loop."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from panscope import files, splice
from panscope.errors import ConfigError
from panscope.events import Event, Finished, silent
from panscope.model import tap, text
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.sae.sae import Sae
from panscope.sae.suite import KIND, Suite, write_sae
from panscope.sites import Site
from panscope.stages import evaluate
from panscope.stages.evaluate import loss
from panscope.stages.evaluate.fidelity import Fidelity
from panscope.stages.evaluate.loss import Damage

SITE = Site("resid_post", 1)


def mirror(d: int, threshold: float = 1e-9, bias: float = 0.0, site: Site = SITE) -> Sae:
    """A Sae of 2 d latents, x and -x, that rebuilds what exceeds the threshold, plus a bias."""
    eye = torch.eye(d)
    b_dec = torch.zeros(d)
    b_dec[0] = bias
    return Sae(
        w_enc=torch.cat([eye, -eye], dim=1),
        b_enc=torch.zeros(2 * d),
        w_dec=torch.cat([eye, -eye]),
        b_dec=b_dec,
        threshold=torch.full((2 * d,), threshold),
        reads=(site,),
        writes=(site,),
    )


def measured(sae: Sae, x: list[list[float]]) -> dict[str, object]:
    vectors = torch.tensor(x, dtype=torch.float32)
    fidelity = Fidelity.zero(sae.width, len(x) // 2)
    fidelity.add_(sae, vectors, vectors.mean(0), torch.ones(2, len(x) // 2, dtype=torch.bool))
    return fidelity.metrics()


def test_fvu_of_a_constant_error():
    """x' = x + (1, 0): squared errors 4, squared distances from the mean 10."""
    metrics = measured(mirror(2, bias=1.0), [[1, 0], [-1, 0], [0, 2], [0, -2]])
    assert metrics["fvu"] == pytest.approx(0.4)
    assert metrics["l0"] == 1.0


def test_fvu_where_small_vectors_are_lost():
    """The first two rows are rebuilt as nothing: errors 2 of 202; their latents are dead."""
    metrics = measured(mirror(2, threshold=5.0), [[1, 0], [-1, 0], [0, 10], [0, -10]])
    assert metrics["fvu"] == pytest.approx(2 / 202)
    assert metrics["l0"] == 0.5
    assert metrics["dead_share"] == 0.5
    assert metrics["position_l0"] == [0.5, 0.5]
    assert sum(metrics["density_histogram"]) == 2


@pytest.fixture(scope="module")
def batch(tiny_model: Model, tiny_text: Path) -> Rows:
    config = text.Config(path=str(tiny_text), context=16, held_out=0.0)
    return next(text.rows(config, tiny_model, "train", 4))


def plain_losses(model: Model, logits: Tensor, rows: Rows) -> list[float]:
    """Cross-entropies of the predictions that count, one by one."""
    found = []
    for row in range(len(rows.ids)):
        for position in range(rows.ids.shape[1] - 1):
            source, target = rows.ids[row, position : position + 2].tolist()
            if {source, target}.isdisjoint(model.special_ids):
                found.append(-float(logits[row, position].log_softmax(-1)[target]))
    return found


def test_the_clean_loss_equals_a_plain_loop(tiny_model: Model, batch: Rows):
    logits = tiny_model.lm(batch.ids).logits
    base = loss.clean(logits, batch)
    expected = plain_losses(tiny_model, logits, batch)
    assert int(base.counts.sum()) == len(expected)
    assert float(base.losses.sum()) == pytest.approx(sum(expected), rel=1e-6)


def test_delta_loss_and_kl_equal_a_plain_loop(tiny_model: Model, batch: Rows):
    clean_logits = tiny_model.lm(batch.ids).logits
    edited = splice.logits(tiny_model, batch, {SITE: splice.zeros})
    damage = Damage()
    damage.add_(edited, loss.clean(clean_logits, batch), batch)
    before = plain_losses(tiny_model, clean_logits, batch)
    after = plain_losses(tiny_model, edited, batch)
    delta = (sum(after) - sum(before)) / len(before)
    assert damage.delta.value == pytest.approx(delta, rel=1e-5)
    p, q = clean_logits.log_softmax(-1), edited.log_softmax(-1)
    counted = batch.mask[:, :-1] & batch.mask[:, 1:]
    kl = (p.exp() * (p - q)).sum(-1)[:, :-1][counted].mean()
    assert damage.kl.value == pytest.approx(float(kl), rel=1e-5)
    assert damage.kl.value > 0.001


def test_a_perfect_reconstruction_costs_nothing(tiny_model: Model, batch: Rows):
    sae = mirror(tiny_model.d_at(SITE), threshold=0.0)
    unedited = tap.run(tiny_model, batch.ids, with_logits=True).logits
    edited = splice.logits(tiny_model, batch, {SITE: splice.reconstruction(sae)})
    assert torch.equal(edited, unedited)


def test_special_tokens_are_left_alone(tiny_model: Model, batch: Rows):
    edited = splice.logits(tiny_model, batch, {SITE: splice.zeros})
    only_bos = Rows(batch.ids, batch.documents, torch.zeros_like(batch.mask), batch.kinds)
    untouched = splice.logits(tiny_model, only_bos, {SITE: splice.zeros})
    clean = tap.run(tiny_model, batch.ids, with_logits=True).logits
    assert torch.equal(untouched, clean)
    assert torch.equal(edited[:, 0], clean[:, 0]), "the BOS predicts as before"
    assert not torch.equal(edited[:, 1], clean[:, 1])


@pytest.fixture
def suite(tmp_path: Path, tiny_model: Model) -> Suite:
    sites = (SITE, Site("attn_z", 0))
    facts = []
    for site in sites:
        sae = mirror(tiny_model.d_at(site), threshold=0.2, site=site)
        write_sae(tmp_path, f"{site}/mirror", sae)
        facts.append({"sae": f"{site}/mirror", "site": str(site), "width": sae.width})
    files.seal(tmp_path, KIND, {}, {}, {"saes": facts})
    return Suite.open(tmp_path)


def test_metrics_land_in_the_manifest_and_are_reused(tiny_model: Model, batch: Rows, suite: Suite):
    config = evaluate.Config(tokens=64)
    measured = evaluate.run(config, tiny_model, suite, [batch, batch], {"text": "t"}, silent)
    for facts in Suite.open(suite.folder).facts.values():
        metrics = facts["metrics"]
        assert metrics["n_tokens"] == 2 * int(batch.mask.sum())
        assert 0 < metrics["fvu"] < 1
        assert metrics["loss_recovered_zero"] <= 1
        assert metrics["position_l0"][0] is None, "the BOS counts nowhere"
    events: list[Event] = []
    again = evaluate.run(config, tiny_model, measured, [batch], {"text": "t"}, events.append)
    assert again is measured
    assert isinstance(events[0], Finished)
    assert events[0].reused


def test_no_text_is_an_error(tiny_model: Model, suite: Suite):
    with pytest.raises(ConfigError, match="no held-out text"):
        evaluate.run(evaluate.Config(), tiny_model, suite, [], {}, silent)
