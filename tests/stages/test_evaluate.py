"""Evaluation: the definitions on examples worked by hand, and on a model by a plain loop."""

from collections.abc import Callable
from dataclasses import replace
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
    mask = torch.ones(2, len(x) // 2, dtype=torch.bool)
    pairs = sae.pairs(vectors)
    rebuilt = splice.rebuilt(sae, pairs, vectors)
    fidelity.add_(pairs, rebuilt, vectors, vectors.mean(0), mask)
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
    unedited = splice.clean(tiny_model, batch, [], [(SITE,)])
    nothing = torch.zeros_like(unedited.at([SITE]))
    edited = splice.logits(tiny_model, unedited, [SITE], nothing)
    damage = Damage()
    damage.add_(edited, loss.clean(unedited.logits, batch), batch)
    before = plain_losses(tiny_model, unedited.logits, batch)
    after = plain_losses(tiny_model, edited, batch)
    delta = (sum(after) - sum(before)) / len(before)
    assert damage.delta.value == pytest.approx(delta, rel=1e-5)
    p, q = unedited.logits.log_softmax(-1), edited.log_softmax(-1)
    counted = batch.mask[:, :-1] & batch.mask[:, 1:]
    kl = (p.exp() * (p - q)).sum(-1)[:, :-1][counted].mean()
    assert damage.kl.value == pytest.approx(float(kl), rel=1e-5)
    assert damage.kl.value > 0.001


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


def saes_of_every_kind(model: Model) -> dict[str, Sae]:
    """An autoencoder, a skip transcoder from the unit norm, a crosscoder over two layers."""
    generator = torch.Generator().manual_seed(4)
    d = model.d_model

    def drawn(reads: list[str], writes: list[str], has_skip: bool) -> Sae:
        d_in, d_out = d * len(reads), d * len(writes)
        return Sae(
            w_enc=torch.randn(d_in, 50, generator=generator) / d_in**0.5,
            b_enc=torch.randn(50, generator=generator) / 10,
            w_dec=torch.randn(50, d_out, generator=generator) / 7,
            b_dec=torch.randn(d_out, generator=generator) / 10,
            threshold=torch.full((50,), 1.0),
            reads=tuple(map(Site.parse, reads)),
            writes=tuple(map(Site.parse, writes)),
            skip=torch.randn(d_out, d_in, generator=generator) / 20 if has_skip else None,
        )

    both = ["resid_post.0", "resid_post.1"]
    return {
        "resid_post.1/autoencoder": drawn(["resid_post.1"], ["resid_post.1"], False),
        "mlp_out.1/transcoder": drawn(["mlp_in_unit.1"], ["mlp_out.1"], True),
        "resid_post.0/crosscoder": drawn(both, both, False),
    }


def test_every_kind_of_sae_is_measured_by_what_it_writes(
    tmp_path: Path, tiny_model: Model, batch: Rows
):
    """Against a plain loop: dense products, whole passes with edits."""
    saes = saes_of_every_kind(tiny_model)
    for name, sae in saes.items():
        write_sae(tmp_path, name, sae)
    files.seal(tmp_path, KIND, {}, {}, {"saes": [{"sae": name} for name in saes]})
    suite = Suite.open(tmp_path)
    measured = evaluate.run(evaluate.Config(), tiny_model, suite, [batch], {}, silent)
    sites = {site for sae in saes.values() for site in (*sae.reads, *sae.writes)}
    clean = tap.run(tiny_model, batch.ids, sites, with_logits=True)
    n = int(batch.mask.sum())
    for name, sae in saes.items():
        metrics = measured.facts[name]["metrics"]
        x = torch.cat([clean.values[site][batch.mask] for site in sae.reads], dim=1)
        y = torch.cat([clean.values[site][batch.mask] for site in sae.writes], dim=1)
        f = torch.relu(x @ sae.w_enc + sae.b_enc - 1.0)
        f = torch.where(f > 0, f + 1.0, 0)
        rebuilt = f @ sae.w_dec + sae.b_dec + (0 if sae.skip is None else x @ sae.skip.T)
        fvu = (rebuilt - y).square().sum() / (y - y.mean(0)).square().sum()
        assert metrics["fvu"] == pytest.approx(float(fvu), rel=1e-4)
        assert metrics["l0"] == pytest.approx(float((f > 0).sum()) / n)
        parts = rebuilt.split(tiny_model.d_model, dim=1)
        spliced = whole_pass(tiny_model, batch, dict(zip(sae.writes, parts, strict=True)))
        nothing = [torch.zeros_like(part) for part in parts]
        ablated = whole_pass(tiny_model, batch, dict(zip(sae.writes, nothing, strict=True)))
        losses = [
            sum(plain_losses(tiny_model, logits, batch))
            for logits in (clean.logits, spliced, ablated)
        ]
        recovered = (losses[2] - losses[1]) / (losses[2] - losses[0])
        assert metrics["loss_recovered_zero"] == pytest.approx(recovered, abs=1e-4)


def test_parts_of_a_whole_are_measured_by_their_sum(tmp_path: Path, tiny_model: Model, batch: Rows):
    """Two parts that each rebuild half of a layer: FVU 0 together, of which one alone has 1/4."""
    half = mirror(tiny_model.d_model)
    half = replace(half, w_dec=half.w_dec / 2)
    later = replace(half, writes=(Site("resid_post", 2),))
    both = replace(half, w_dec=half.w_dec.repeat(1, 2), b_dec=half.b_dec.repeat(2))
    both = replace(both, writes=(SITE, Site("resid_post", 2)))
    facts = []
    for name, sae in {"a/both": both, "a/half": half, "a/alone": half, "b/later": later}.items():
        write_sae(tmp_path, name, sae)
        facts.append({"sae": name, **({} if name == "a/alone" else {"part_of": "whole"})})
    files.seal(tmp_path, KIND, {}, {}, {"saes": facts})
    suite = Suite.open(tmp_path)
    measured = evaluate.run(evaluate.Config(), tiny_model, suite, [batch], {}, silent)
    of = {name: fact["metrics"] for name, fact in measured.facts.items()}
    assert of["a/half"]["fvu"] == pytest.approx(0, abs=1e-6)
    assert of["a/half"]["delta_loss"] == pytest.approx(0, abs=1e-5)
    clean = tap.run(tiny_model, batch.ids, [SITE]).values[SITE][batch.mask]
    distance = (clean - clean.mean(0)).square().sum()
    assert of["a/alone"]["fvu"] == pytest.approx(float((clean / 2).square().sum() / distance))
    assert of["a/both"]["fvu"] > of["a/half"]["fvu"], "it also writes what the others do not read"


def whole_pass(model: Model, batch: Rows, values: dict[Site, Tensor]) -> Tensor:
    """The logits with values put in at the unmasked tokens, by edits in a whole pass."""

    def put(value: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda old: old.masked_scatter(batch.mask[..., None], value)

    edits = {site: put(value) for site, value in values.items()}
    logits = tap.run(model, batch.ids, edits=edits, with_logits=True).logits
    assert logits is not None
    return logits


def test_no_text_is_an_error(tiny_model: Model, suite: Suite):
    with pytest.raises(ConfigError, match="no held-out text"):
        evaluate.run(evaluate.Config(), tiny_model, suite, [], {}, silent)
