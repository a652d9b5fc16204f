"""Values inside functions: patches that are seen by one model, while it runs, and leave nothing."""

import inspect
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.models.gemma2 import modeling_gemma2

from panscope.errors import Unsupported
from panscope.model import inside, load, tap
from panscope.model.load import Model
from panscope.model.patch import patch
from panscope.model.walk import walk
from panscope.sites import HEAD_KINDS, KINDS, SCORE_KINDS, Site, all_sites

IDS = torch.randint(4, 4096, (2, 7), generator=torch.Generator().manual_seed(1))
ALL = all_sites(3, KINDS)
Q, PATTERN, MID = (Site(kind, 1) for kind in ("q", "attn_pattern", "resid_mid"))
FUNCTIONS = [
    modeling_gemma2.eager_attention_forward,
    inspect.unwrap(modeling_gemma2.Gemma2Attention.forward),
    inspect.unwrap(modeling_gemma2.Gemma2DecoderLayer.forward),
]


@pytest.fixture
def other(tiny_model_folder: Path) -> Model:
    """A second model of the same classes."""
    return load.load(load.Config(name=str(tiny_model_folder), device="cpu"))


@pytest.fixture(autouse=True)
def _nothing_is_left(tiny_model: Model):
    codes = [function.__code__ for function in FUNCTIONS]
    yield
    assert [function.__code__ for function in FUNCTIONS] == codes
    assert not any(inside.PASS in vars(module) for module in tiny_model.lm.modules())
    assert not inside._IN_FORCE


def plain(model: Model) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.lm(IDS).logits
    return logits


def test_while_a_pass_runs_the_functions_are_others(tiny_model: Model):
    codes = [function.__code__ for function in FUNCTIONS]
    with walk(tiny_model, IDS, [Q, PATTERN, MID]) as steps:
        for _ in steps:
            assert all(f.__code__ is not c for f, c in zip(FUNCTIONS, codes, strict=True))


def test_an_idle_patch_changes_no_bit_of_another_model(tiny_model: Model, other: Model):
    expected = plain(other)
    with walk(tiny_model, IDS, [Q, PATTERN, MID]) as steps:
        for _, value in steps:
            steps.send(value.flip(1))
            assert torch.equal(plain(other), expected)


def test_a_model_is_saved_whole_after_a_pass(other: Model):
    tap.run(other, IDS, ALL, {MID: lambda x: 2 * x})
    again = pickle.loads(pickle.dumps(other.lm))
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, plain(other))


@pytest.mark.parametrize("site", [Q, PATTERN, MID], ids=str)
def test_an_error_in_an_edit_takes_the_patch_away(tiny_model: Model, site: Site):
    def fail(value: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        tap.run(tiny_model, IDS, edits={site: fail})
    with walk(tiny_model, IDS, [site]) as steps:
        next(steps)  # and is left there


def test_an_edit_in_a_walk_is_one_in_a_run(tiny_model: Model):
    for site in (Q, PATTERN, MID):
        edited = tap.run(tiny_model, IDS, edits={site: lambda x: x.flip(1)}, with_logits=True)
        with walk(tiny_model, IDS, [site]) as steps:
            for _, value in steps:
                steps.send(value.flip(1))
        assert steps.logits is not None and edited.logits is not None
        assert torch.equal(steps.logits, edited.logits)
        assert not torch.equal(steps.logits, plain(tiny_model))


def test_a_reading_of_one_value_is_that_of_all(tiny_model: Model):
    values = tap.run(tiny_model, IDS, ALL).values
    for site in all_sites(3, (*HEAD_KINDS, *SCORE_KINDS, "resid_mid")):
        assert torch.equal(tap.run(tiny_model, IDS, [site]).values[site], values[site])


def test_a_site_and_its_path_are_read_alike(tiny_model: Model):
    path = Site("model.layers.1.pre_feedforward_layernorm.input")
    values = tap.run(tiny_model, IDS, [MID, path]).values
    assert torch.equal(values[MID], values[path])
    by_name = tap.run(tiny_model, IDS, edits={MID: lambda x: 2 * x}, with_logits=True).logits
    by_path = tap.run(tiny_model, IDS, edits={path: lambda x: 2 * x}, with_logits=True).logits
    assert by_name is not None and by_path is not None and torch.equal(by_name, by_path)


def test_two_models_in_two_threads_do_not_see_each_other(tiny_model: Model, other: Model):
    """Each waits inside its pass until the other is inside its own."""
    both = threading.Barrier(2, timeout=60)
    expected = {
        factor: tap.run(other, IDS, edits=edits(factor), with_logits=True).logits
        for factor in (2, 3)
    }
    found: dict[int, Tensor | None] = {}

    def run(model: Model, factor: int) -> None:
        def meeting(value: Tensor) -> Tensor:
            both.wait()
            return factor * value

        edited = {**edits(factor), Q: meeting, MID: meeting}
        found[factor] = tap.run(model, IDS, edits=edited, with_logits=True).logits

    threads = [threading.Thread(target=run, args=pair) for pair in ((tiny_model, 2), (other, 3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for factor, logits in expected.items():
        assert logits is not None and found[factor] is not None
        assert torch.equal(found[factor], logits)


def edits(factor: int) -> dict[Site, Callable[[Tensor], Tensor]]:
    return dict.fromkeys((Q, PATTERN, MID), lambda value: factor * value)


def test_a_patch_of_ones_own_stays(tiny_model: Model):
    kept: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    change = ("attn_weights + attention_mask", "keep(attn_weights) + attention_mask")
    capped = Site("attn_scores_capped", 2)
    with patch(modeling_gemma2.eager_attention_forward, [change], {"keep": keep}):
        value = tap.run(tiny_model, IDS, [capped], with_logits=True).values[capped]
        assert torch.equal(kept[-1], value)
        plain(tiny_model)
        assert len(kept) == 6


# ---- what cannot be


def test_scores_need_an_attention_that_keeps_them(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tiny_model.lm.config, "_attn_implementation", "sdpa")
    found = (
        r'attn_pattern\.1: .* loaded with sdpa, .*; load it with attention = "eager" in \[model\]'
    )
    with pytest.raises(Unsupported, match=found):
        tap.run(tiny_model, IDS, [PATTERN])


def test_an_attention_in_another_order_is_refused(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tiny_model.lm.config, "reorder_and_upcast_attn", True, raising=False)
    with pytest.raises(Unsupported, match=r"attn_scores\.1: .*set reorder_and_upcast_attn to fal"):
        tap.run(tiny_model, IDS, [Site("attn_scores", 1)])


@pytest.fixture
def _unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a version of transformers whose functions nobody has read."""
    strangers = {
        kind: tuple(replace(row, known=()) for row in rows) for kind, rows in inside.ROWS.items()
    }
    monkeypatch.setattr(inside, "ROWS", strangers)


@pytest.mark.usefixtures("_unknown")
@pytest.mark.parametrize("site", [Q, PATTERN], ids=str)
def test_a_function_of_another_version_is_named(tiny_model: Model, site: Site):
    found = (
        rf"site {site}: transformers 5.* has another .*gemma2\.\w+.* \([0-9a-f]{{12}}\); install"
    )
    with pytest.raises(Unsupported, match=found):
        tap.run(tiny_model, IDS, [site])


@pytest.mark.usefixtures("_unknown")
def test_in_another_version_the_stream_can_be_read_and_not_written(tiny_model: Model):
    read = tap.run(tiny_model, IDS, [MID, Site("resid_pre", 1), Site("attn_out", 1)]).values
    assert torch.equal(read[MID], sum(v for site, v in read.items() if site != MID))
    with pytest.raises(Unsupported, match=r"resid_mid\.1: .*Gemma2DecoderLayer\.forward \("):
        tap.run(tiny_model, IDS, edits={MID: lambda x: x}, with_logits=True)


def test_a_version_without_an_eager_body_is_named(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delattr(modeling_gemma2, "eager_attention_forward")
    with pytest.raises(Unsupported, match=r"attn_pattern\.1: transformers .* has no eager body in"):
        tap.run(tiny_model, IDS, [PATTERN])
