from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import LayerNorm, Module, init
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from panscope.errors import Unsupported
from panscope.model.families import FAMILIES, GEMMA2, PARALLEL_NEOX, Place, family_of, unit
from panscope.sites import KINDS, Site, all_sites

ALL = (*FAMILIES.values(), PARALLEL_NEOX)


def test_every_kind_has_a_place_in_every_family_or_a_reason():
    for family in ALL:
        assert set(family.places) | set(family.absent) == set(KINDS)
        assert not set(family.places) & set(family.absent)


def test_places_name_modules_of_the_whole_model():
    assert GEMMA2.place(Site("resid_post", 2)) == Place("model.layers.2", "output")
    assert GEMMA2.place(Site("attn_z", 0)) == Place("model.layers.0.self_attn.o_proj", "input")
    assert GEMMA2.place(Site("embed")) == Place("model.embed_tokens", "output")
    with_images = FAMILIES["gemma3"].place(Site("mlp_in", 1)).path
    assert with_images == "model.language_model.layers.1.pre_feedforward_layernorm"


def test_no_two_sites_share_a_place():
    for family in ALL:
        sites = [site for site in all_sites(3) if site.kind not in family.absent]
        assert len({family.place(site) for site in sites}) == len(sites)


def test_a_site_that_an_architecture_lacks_says_why():
    with pytest.raises(Unsupported, match=r"resid_mid\.1: does not exist .* side by side"):
        PARALLEL_NEOX.place(Site("resid_mid", 1))
    with pytest.raises(Unsupported, match=r"resid_mid\.1: does not exist"):
        PARALLEL_NEOX.refuse_edit(Site("resid_mid", 1))


@pytest.mark.parametrize(
    ("kind", "do"),
    [
        ("resid_mid", r"edit attn_out\.2 by the same"),
        ("mlp_in_unit", r"edit mlp_in\.2, which is this times the norm's gain"),
    ],
)
def test_an_edit_that_would_not_reach_all_is_refused(kind: str, do: str):
    with pytest.raises(Unsupported, match=rf"site {kind}\.2: can be read but not edited; {do}"):
        GEMMA2.refuse_edit(Site(kind, 2))


def test_all_other_sites_may_be_edited():
    for site in all_sites(1):
        if site.kind not in ("resid_mid", "mlp_in_unit"):
            GEMMA2.refuse_edit(site)


def gained(norm: Module) -> Module:
    """The norm with a gain and a bias that are not the identity."""
    for parameter in norm.parameters():
        init.normal_(parameter, 0.5, 0.3)
    return norm


@pytest.mark.parametrize(
    ("norm", "finish"),
    [
        (Gemma2RMSNorm(16), lambda norm, x: x * (1 + norm.weight)),
        (LlamaRMSNorm(16), lambda norm, x: norm.weight * x),
        (LayerNorm(16), lambda norm, x: x * norm.weight + norm.bias),
    ],
    ids=["gemma 2", "llama", "layer norm"],
)
def test_the_gain_times_the_unit_is_what_the_norm_returns(
    norm: Module, finish: Callable[[Module, Tensor], Tensor]
):
    x = torch.randn(3, 5, 16) * 7 + 1
    with torch.no_grad():
        expected = gained(norm)(x)
        torch.testing.assert_close(finish(norm, unit(norm, x)), expected)
        assert torch.equal(unit(norm, x.bfloat16()), unit(norm, x.bfloat16().float()).bfloat16())


@pytest.mark.parametrize("described", [{"model_type": "mamba"}, {"model_type": None}, {}])
def test_an_unknown_architecture_is_answered_with_the_known_ones(described: dict[str, Any]):
    found = str(described.get("model_type"))
    with pytest.raises(Unsupported, match=f"model m: .*'{found}'.*use a model of gemma2 or"):
        family_of(described, "m")


def test_families_are_found_by_their_model_type():
    for key, family in FAMILIES.items():
        assert family_of({"model_type": key, "use_parallel_residual": False}, "m") is family
        assert family.name == key
    assert family_of({"model_type": "gpt_neox"}, "m") is PARALLEL_NEOX
