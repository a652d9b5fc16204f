import pytest

from panscope.errors import ConfigError, NotFound
from panscope.sites import Site, all_sites, match_sites


def test_names_round_trip():
    for site in all_sites(3):
        assert Site.parse(str(site)) == site


def test_globs_expand_in_the_order_of_a_forward_pass():
    sites = match_sites(("resid_post.*", "attn_z.0", "embed"), 2)
    assert [str(site) for site in sites] == ["embed", "attn_z.0", "resid_post.0", "resid_post.1"]


def test_a_site_named_twice_comes_once():
    assert len(match_sites(("mlp_out.1", "mlp_out.*"), 2)) == 2


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
