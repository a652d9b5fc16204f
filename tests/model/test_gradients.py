"""Gradients at sites against finite differences and against one another; no trace of them."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from panscope.errors import ConfigError, NotFound, Unsupported
from panscope.model import tap
from panscope.model.gradients import gradients
from panscope.model.load import Model
from panscope.model.positions import At
from panscope.sites import Site, all_sites

IDS = torch.randint(4, 4096, (2, 9), generator=torch.Generator().manual_seed(5))
LAST = Site("resid_post", 2)
ADDED = Site("mlp_out", 0)


def sites_of(model: Model) -> list[Site]:
    absent = {*model.family.absent, "mlp_in_unit"}
    return [site for site in all_sites(3) if site.kind not in absent]


def surprise(run: tap.Run) -> Tensor:
    """Nats a token, of each next token."""
    assert run.logits is not None
    shares = run.logits[:, :-1].log_softmax(-1)
    return -shares.gather(2, IDS[:, 1:, None]).mean()


def moved(by: Tensor) -> tap.Edit:
    return lambda value: value + by


def then(edit: tap.Edit, site: Site, value: Tensor) -> Tensor:
    return edit(value)


def in_float64(model: Model) -> Model:
    return replace(model, lm=copy.deepcopy(model.lm).double())


def test_they_are_finite_differences(precise: Model):
    """GPT-2 and GPT-NeoX in float64 throughout; the others' norms and softmax keep to float32."""
    model = in_float64(precise)
    is_exact = model.family.name.startswith("gpt")
    step, close = (1e-5, 1e-8) if is_exact else (1e-3, 2e-3)
    found = gradients(model, IDS, sites_of(model), surprise).by_site
    for site in found:
        if site.kind in model.family.read_only:
            continue
        towards = torch.randn(found[site].shape, dtype=torch.float64)
        up, down = (
            surprise(tap.run(model, IDS, edits={site: moved(by)}, with_logits=True))
            for by in (step * towards, -step * towards)
        )
        expected = float((up - down) / (2 * step))
        assert float((found[site] * towards).sum()) == pytest.approx(expected, rel=close, abs=close)


def test_the_sum_at_a_site_is_the_gradient_of_a_vector_added_there(precise: Model):
    for site in (Site("embed"), Site("attn_z", 1), ADDED, LAST):
        found = gradients(precise, IDS, [site], surprise).by_site[site]
        added = torch.zeros(precise.d_at(site), requires_grad=True)
        logits = tap.visit(precise, IDS, [site], partial(then, moved(added)), with_logits=True)
        surprise(tap.Run({}, logits)).backward()
        assert added.grad is not None
        torch.testing.assert_close(found.sum((0, 1)), added.grad, rtol=1e-5, atol=1e-7)


def test_one_site_alone_has_the_gradient_it_has_among_all(precise: Model):
    together = gradients(precise, IDS, sites_of(precise), surprise)
    values = tap.run(precise, IDS, sites_of(precise)).values
    for site in sites_of(precise):
        assert torch.equal(together.values[site], values[site])
        alone = gradients(precise, IDS, [site], surprise).by_site[site]
        torch.testing.assert_close(alone, together.by_site[site], rtol=1e-4, atol=1e-7)


def test_the_stream_and_what_is_added_to_it_have_one_gradient(precise: Model):
    """Also where the value can only be read."""
    found = gradients(precise, IDS, sites_of(precise), surprise).by_site
    for layer in range(3):
        assert torch.equal(found[Site("mlp_out", layer)], found[Site("resid_post", layer)])
        if "resid_mid" not in precise.family.absent:
            assert torch.equal(found[Site("resid_mid", layer)], found[Site("attn_out", layer)])


def test_a_shift_of_all_scores_changes_nothing(tiny_model: Model):
    """The softmax does not see it: gradients of a query's scores sum to zero."""
    site = Site("attn_scores_capped", 1)
    found = gradients(tiny_model, IDS, [site], surprise).by_site[site]
    assert found.shape == (2, 4, 9, 9) and found.abs().max() > 1e-5
    torch.testing.assert_close(found.sum(-1), torch.zeros(2, 4, 9), rtol=0, atol=1e-7)


def test_a_loss_of_values_needs_no_logits(tiny_model: Model):
    found = gradients(
        tiny_model, IDS, [ADDED, LAST], lambda run: run.values[LAST][0, 4, 7], with_logits=False
    )
    expected = torch.zeros_like(found.values[LAST])
    expected[0, 4, 7] = 1
    assert torch.equal(found.by_site[LAST], expected)
    assert torch.equal(found.loss, found.values[LAST][0, 4, 7])
    assert not found.by_site[ADDED][1].any()  # another row
    assert not found.by_site[ADDED][0, 5:].any()  # later tokens
    assert found.by_site[ADDED][0, :5].any()


def test_what_comes_after_the_loss_has_no_gradient(tiny_model: Model):
    found = gradients(tiny_model, IDS, [ADDED, LAST], lambda run: run.values[ADDED].sum())
    assert (found.by_site[ADDED] == 1).all()
    assert not found.by_site[LAST].any()


def test_at_an_edited_site_it_is_that_of_the_edited_value(tiny_model: Model):
    edits = {ADDED: At([3], lambda x, _: 3 * x)}
    found = gradients(tiny_model, IDS, [Site("resid_post", 0), ADDED], surprise, edits)
    run = tap.run(tiny_model, IDS, [ADDED], edits)
    assert torch.equal(found.values[ADDED], run.values[ADDED])
    assert torch.equal(found.by_site[ADDED], found.by_site[Site("resid_post", 0)])


def test_they_go_through_an_edit(tiny_model: Model):
    """Tripled on its way, a stream counts three times."""
    edit = {Site("resid_pre", 2): lambda x: 3 * x}
    before, after = Site("resid_post", 1), Site("resid_pre", 2)
    found = gradients(tiny_model, IDS, [before, after], surprise, edit).by_site
    torch.testing.assert_close(found[before], 3 * found[after])


def test_no_trace_is_left(tiny_model: Model):
    other = torch.randn(2, 9, 32)
    modules = list(tiny_model.lm.modules())
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]
    with torch.no_grad():
        found = gradients(tiny_model, IDS, [ADDED, LAST], surprise, {ADDED: lambda _: other})
        assert not torch.is_grad_enabled()
    tensors = [other, found.loss, *found.values.values(), *found.by_site.values()]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert all(p.grad is None and not p.requires_grad for p in tiny_model.lm.parameters())
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules] == hooks
    assert torch.is_grad_enabled()


def test_parameters_that_want_gradients_get_none(tiny_model: Model):
    model = replace(tiny_model, lm=copy.deepcopy(tiny_model.lm).requires_grad_(True))
    ours = gradients(model, IDS, [ADDED, LAST], surprise).by_site
    frozen = gradients(tiny_model, IDS, [ADDED, LAST], surprise).by_site
    assert all(torch.equal(ours[site], frozen[site]) for site in ours)
    assert all(p.grad is None and p.requires_grad for p in model.lm.parameters())


def test_within_inference_mode(tiny_model: Model):
    expected = gradients(tiny_model, IDS, [ADDED], surprise).by_site[ADDED]
    with torch.inference_mode():
        found = gradients(tiny_model, IDS.clone(), [ADDED], surprise).by_site[ADDED]
        assert torch.is_inference_mode_enabled()
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda run: run.logits, r"loss: has shape \(2, 9, 4096\); return one number"),
        (lambda run: run.logits[:1, :1, 0].sum(1), r"loss: has shape \(1,\)"),
        (lambda run: torch.tensor(1.0), "loss: depends on none of the sites"),
        (lambda run: run.logits.sum().detach(), "loss: depends on none of the sites"),
    ],
)
def test_losses_that_cannot_be(tiny_model: Model, loss: Callable[[tap.Run], Tensor], message: str):
    with pytest.raises(ConfigError, match=message):
        gradients(tiny_model, IDS, [ADDED], loss)
    assert torch.is_grad_enabled()


def test_sites_that_cannot_be(tiny_model: Model):
    with pytest.raises(Unsupported, match=r"site mlp_in_unit\.1: has no gradient: .* mlp_in\.1 t"):
        gradients(tiny_model, IDS, [Site("mlp_in_unit", 1)], surprise)
    with pytest.raises(NotFound, match=r"site mlp_out\.3"):
        gradients(tiny_model, IDS, [Site("mlp_out", 3)], surprise)
    with pytest.raises(Unsupported, match=r"site mlp_in_unit\.1: can be read but not edited"):
        gradients(tiny_model, IDS, [ADDED], surprise, {Site("mlp_in_unit", 1): lambda x: x})
