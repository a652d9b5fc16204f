import pytest

from panscope.errors import Unsupported
from panscope.model.families import FAMILIES, GEMMA2, Place, family_of
from panscope.sites import KINDS, Site, all_sites


def test_every_kind_has_a_place_in_every_family():
    for family in FAMILIES.values():
        assert set(family.places) == set(KINDS)


def test_places_name_modules_of_the_whole_model():
    assert GEMMA2.place(Site("resid_post", 2)) == Place("model.layers.2", "output")
    assert GEMMA2.place(Site("attn_z", 0)) == Place("model.layers.0.self_attn.o_proj", "input")
    assert GEMMA2.place(Site("embed")) == Place("model.embed_tokens", "output")


def test_no_two_sites_share_a_place():
    places = [GEMMA2.place(site) for site in all_sites(3)]
    assert len(set(places)) == len(places)


def test_an_edit_that_would_reach_the_mlp_alone_is_refused():
    with pytest.raises(Unsupported, match=r"site resid_mid\.2: .*edit attn_out\.2 by the same"):
        GEMMA2.refuse_edit(Site("resid_mid", 2))
    for site in all_sites(1):
        if site.kind != "resid_mid":
            GEMMA2.refuse_edit(site)


@pytest.mark.parametrize("model_type", ["gpt2", "gemma3", "None"])
def test_an_unknown_architecture_is_answered_with_the_known_ones(model_type: str):
    with pytest.raises(Unsupported, match=f"model m: .*'{model_type}'.*use a model of gemma2"):
        family_of(model_type, "m")


def test_the_names_of_families_are_their_keys():
    assert all(family_of(key, "m").name == key for key in FAMILIES)
