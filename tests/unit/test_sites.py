import pytest

from panscope.errors import ConfigError, NotFound
from panscope.sites import KINDS, SCORE_KINDS, Site, all_sites, match_sites


def test_names_round_trip():
    for site in (*all_sites(3, KINDS), Site("model.layers.1.mlp.output")):
        assert Site.parse(str(site)) == site


def test_globs_expand_in_the_order_of_a_forward_pass():
    sites = match_sites(("resid_post.*", "attn_z.0", "embed"), 2)
    assert [str(site) for site in sites] == ["embed", "attn_z.0", "resid_post.0", "resid_post.1"]


def test_a_site_named_twice_comes_once():
    assert len(match_sites(("mlp_out.1", "mlp_out.*"), 2)) == 2


def test_sites_come_in_the_order_of_a_forward_pass():
    sites = all_sites(2, KINDS)
    assert sites == tuple(sorted(sites, key=lambda site: site.order))
    assert [site.kind for site in sites if site.layer in (0, None)] == list(KINDS)


def test_globs_mean_vectors_and_a_kind_spelt_out_means_itself():
    assert match_sites(["*"], 2) == all_sites(2)
    assert match_sites(["attn_*.*"], 1) == (Site("attn_z", 0), Site("attn_out", 0))
    for kind in ("q", *SCORE_KINDS):
        assert match_sites([f"{kind}.*"], 2) == (Site(kind, 0), Site(kind, 1))


def test_paths_are_taken_as_they_are_and_sorted_by_their_layer():
    names = ["model.layers.1.mlp.output", "resid_post.0", "model.norm.input", "resid_pre.1"]
    assert list(map(str, match_sites(names, 2))) == [names[2], names[1], names[3], names[0]]
    with pytest.raises(NotFound, match="matches no site"):
        match_sites(["model.layers.*.output"], 2)


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        (
            "resid_pots.1",
            NotFound,
            "site resid_pots.1: no site kind 'resid_pots'; did you mean resid_post",
        ),
        (
            "resid_post.7",
            NotFound,
            "site resid_post.7: the model has 4 layers; use resid_post.0 to resid_post.3",
        ),
        ("resid_post", ConfigError, "site resid_post: has no layer number; write resid_post.0"),
        ("embed.1", ConfigError, "site embed.1: embed has no layers; write embed"),
        ("mlp_ot.*", NotFound, "site mlp_ot.*: matches no site; did you mean mlp_out"),
    ],
)
def test_a_wrong_site_is_answered_with_the_right_ones(
    pattern: str, error: type[Exception], message: str
):
    with pytest.raises(error) as caught:
        match_sites((pattern,), 4)
    assert str(caught.value).startswith(message)
