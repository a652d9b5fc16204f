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
from panscope.sites import HEAD_KINDS, KINDS, SCORE_KINDS, Site, all_sites

ALL = (*FAMILIES.values(), PARALLEL_NEOX)


def test_every_kind_has_a_place_in_every_family_or_a_reason():
    for family in ALL:
        assert set(family.places) | set(family.absent) == set(KINDS), family.name
        assert not set(family.places) & set(family.absent)


def test_places_name_modules_of_the_whole_model():
    assert GEMMA2.place(Site("resid_post", 2)) == Place("model.layers.2", "output")
    assert GEMMA2.place(Site("attn_z", 0)) == Place("model.layers.0.self_attn.o_proj", "input")
    assert GEMMA2.place(Site("embed")) == Place("model.embed_tokens", "output")
    with_images = FAMILIES["gemma3"].place(Site("mlp_in", 1)).path
    assert with_images == "model.language_model.layers.1.pre_feedforward_layernorm"


def test_no_two_sites_share_a_place():
    for family in ALL:
        inside = (*HEAD_KINDS, *SCORE_KINDS)
        sites = [s for s in all_sites(3, family.places) if s.kind not in inside]
        assert len({family.place(site) for site in sites}) == len(sites)


def test_a_site_that_an_architecture_lacks_says_why():
    with pytest.raises(Unsupported, match=r"resid_mid\.1: does not exist .* side by side"):
        PARALLEL_NEOX.place(Site("resid_mid", 1))
    with pytest.raises(Unsupported, match=r"resid_mid\.1: does not exist"):
        PARALLEL_NEOX.refuse_edit(Site("resid_mid", 1))


def test_an_edit_that_would_not_reach_all_is_refused():
    found = r"site mlp_in_unit\.2: can be read but not edited; edit mlp_in\.2, which is this times"
    with pytest.raises(Unsupported, match=found):
        GEMMA2.refuse_edit(Site("mlp_in_unit", 2))


def test_all_other_sites_may_be_edited():
    for site in all_sites(1, KINDS):
        if site.kind != "mlp_in_unit":
            GEMMA2.refuse_edit(site)


def test_a_path_that_leads_to_a_named_site_is_that_site():
    for family in ALL:
        for site in all_sites(3, family.places):
            place = family.place(site)
            if place.end != "inside" and place.end != "unit" and place.path:
                assert family.named(Site(f"{place.path}.{place.end}")) == site
    neurons = Site("model.layers.1.mlp.down_proj.input")
    assert GEMMA2.named(neurons) == neurons
    assert GEMMA2.place(neurons) == Place("model.layers.1.mlp.down_proj", "input")


def test_the_same_path_is_another_site_elsewhere():
    path = Site("model.layers.1.post_attention_layernorm.output")
    assert GEMMA2.named(path) == Site("attn_out", 1)
    assert FAMILIES["llama"].named(path) == Site("mlp_in", 1)


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


@pytest.mark.parametrize("described", [{"model_type": None}, {}])
def test_a_configuration_without_an_architecture_is_refused(described: dict[str, Any]):
    with pytest.raises(Unsupported, match=r"model m: .*no model_type; give it one, such as gemma2"):
        family_of(described, "m")


def test_an_architecture_without_a_row_has_the_ends_of_its_modules():
    family = family_of({"model_type": "mamba"}, "m")
    assert family.place(Site("backbone.norm_f.input")) == Place("backbone.norm_f", "input")
    with pytest.raises(Unsupported, match=r"site resid_post\.3: nobody has said .*'mamba'.*path"):
        family.place(Site("resid_post", 3))


def test_families_are_found_by_their_model_type():
    for key, family in FAMILIES.items():
        assert family_of({"model_type": key, "use_parallel_residual": False}, "m") is family
        assert family.name == key
    assert family_of({"model_type": "gpt_neox"}, "m") is PARALLEL_NEOX
