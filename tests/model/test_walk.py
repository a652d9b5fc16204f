"""The for loop over a forward pass sees what tap sees, writes what tap writes, and ends clean."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from panscope.errors import ConfigError, NotFound, Unsupported
from panscope.model import load, tap
from panscope.model.load import Model
from panscope.model.walk import walk
from panscope.sites import KINDS, Site, all_sites

IDS = torch.randint(4, 4096, (2, 7), generator=torch.Generator().manual_seed(1))
STREAM = [Site("resid_post", layer) for layer in range(3)]


@pytest.fixture
def n_added(tiny_model: Model) -> Callable[[], int]:
    """How many hooks there are beside those that were there (transformers' own recording)."""

    def n_hooks() -> int:
        modules = tiny_model.lm.modules()
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    before = n_hooks()
    return lambda: n_hooks() - before


def test_it_sees_every_site_in_order_with_the_values_of_tap(tiny_model: Model):
    sites = all_sites(3, KINDS)
    values = tap.run(tiny_model, IDS, sites).values
    with walk(tiny_model, IDS, reversed(sites)) as steps:
        seen = dict(steps)
    assert list(seen) == list(sites)
    assert all(torch.equal(seen[site], values[site]) for site in sites)
    assert steps.logits is not None and torch.equal(steps.logits, values[Site("logits")])


def test_what_is_sent_is_what_the_pass_goes_on_with(tiny_model: Model):
    edited = tap.run(tiny_model, IDS, edits={STREAM[1]: lambda x: 2 * x}, with_logits=True).logits
    with walk(tiny_model, IDS, STREAM) as steps:
        for site, value in steps:
            if site == STREAM[1]:
                steps.send(3 * value)
                steps.send(2 * value)  # the last one counts
    assert steps.logits is not None and edited is not None
    assert torch.equal(steps.logits, edited)


def test_the_loop_may_decide_by_what_it_saw(tiny_model: Model):
    with walk(tiny_model, IDS, STREAM) as steps:
        _, first = next(steps)
        next(steps)
        steps.send(first)
        _, last = next(steps)
    edits = {STREAM[1]: lambda _: first}
    assert torch.equal(last, tap.run(tiny_model, IDS, STREAM, edits).values[STREAM[2]])


def test_a_value_changed_in_place_changes_nothing(tiny_model: Model):
    with walk(tiny_model, IDS, STREAM) as steps:
        for _, value in steps:
            value.zero_()
    plain = tap.run(tiny_model, IDS, with_logits=True).logits
    assert steps.logits is not None and plain is not None and torch.equal(steps.logits, plain)


def test_without_logits_the_pass_ends_at_the_last_site(tiny_model: Model):
    with walk(tiny_model, IDS, STREAM[:1], with_logits=False) as steps:
        assert [site for site, _ in steps] == STREAM[:1]
    assert steps.logits is None


def test_breaking_off_takes_the_hooks_away(tiny_model: Model, n_added: Callable[[], int]):
    with walk(tiny_model, IDS, STREAM) as steps:
        for _ in steps:
            break
        assert n_added() == 3
    assert n_added() == 0 and steps.logits is None
    assert list(steps) == []  # it is over
    with walk(tiny_model, IDS, STREAM):
        pass  # never begun
    assert n_added() == 0


def test_an_exception_in_the_loop_passes_through_and_leaves_nothing(
    tiny_model: Model, n_added: Callable[[], int]
):
    with pytest.raises(KeyError, match="mine"), walk(tiny_model, IDS, STREAM) as steps:
        for _ in steps:
            raise KeyError("mine")
    assert n_added() == 0
    assert torch.is_grad_enabled()


def test_an_exception_in_the_pass_comes_out_of_the_loop(
    tiny_model: Model, n_added: Callable[[], int]
):
    with walk(tiny_model, torch.tensor([[99_999]]), STREAM) as steps, pytest.raises(IndexError):
        next(steps)
    with walk(tiny_model, IDS, [Site("resid_post", 9)]) as steps, pytest.raises(NotFound):
        next(steps)
    assert n_added() == 0


def test_the_loop_has_gradients_though_the_pass_has_none(tiny_model: Model):
    scale = torch.ones(32, requires_grad=True)
    with walk(tiny_model, IDS, STREAM) as steps:
        for _, value in steps:
            assert torch.is_grad_enabled()
            (value * scale).sum().backward()
    assert scale.grad is not None
    with torch.no_grad(), walk(tiny_model, IDS, STREAM) as steps:
        next(steps)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("shape", [(2, 7, 31), (32,), (1, 7, 32)])
def test_a_value_of_another_shape_is_refused_where_it_is_sent(
    tiny_model: Model, shape: tuple[int, ...]
):
    with walk(tiny_model, IDS, STREAM) as steps:
        next(steps)
        with pytest.raises(ConfigError, match="return the same shape"):
            steps.send(torch.zeros(shape))
        assert next(steps)[0] == STREAM[1]  # the pass goes on as it was


def test_a_site_that_can_only_be_read_takes_nothing(tiny_model: Model):
    with walk(tiny_model, IDS, [Site("mlp_in_unit", 1)]) as steps:
        for _, value in steps:
            with pytest.raises(Unsupported, match="can be read but not edited"):
                steps.send(value)
    with pytest.raises(ConfigError, match="walk: is at no site"):
        steps.send(torch.zeros(1))


def test_another_pass_of_the_same_model_inside_is_its_own(
    tiny_model: Model, n_added: Callable[[], int]
):
    run = tap.run(tiny_model, IDS, STREAM, with_logits=True)
    with walk(tiny_model, IDS, STREAM) as steps:
        for site, value in steps:
            inside = tap.run(tiny_model, IDS, STREAM, {STREAM[0]: torch.zeros_like}).values
            assert not inside[STREAM[0]].any()
            with walk(tiny_model, IDS, STREAM) as inner:
                assert [site for site, _ in inner] == STREAM
            assert torch.equal(value, run.values[site])
            assert inner.logits is not None and torch.equal(inner.logits, run.logits)
    assert steps.logits is not None and torch.equal(steps.logits, run.logits)
    assert n_added() == 0


def test_two_models_may_be_walked_together(tiny_model: Model, tiny_model_folder: Path):
    other = load.load(load.Config(name=str(tiny_model_folder), device="cpu"))
    with walk(tiny_model, IDS, STREAM) as one, walk(other, IDS, STREAM) as two:
        for (site, a), (same, b) in zip(one, two, strict=True):
            assert site == same and torch.equal(a, b)
            two.send(a)
    assert one.logits is not None and two.logits is not None
    assert torch.equal(one.logits, two.logits)
