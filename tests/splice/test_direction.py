"""Directions that are named: a decoder's row, the difference of two texts."""

import pytest
import torch
from tests.splice.conftest import MakeSae, values_at

from panscope import splice
from panscope.edits import Edit
from panscope.errors import ConfigError, NotFound
from panscope.model.load import Model
from panscope.sites import Site

NAME, SITE = "resid_post.2/a", Site("resid_post", 1)
TEXTS = {"toward": "Rain fell on the roof.", "away": "The lamp stood on the table, unlit."}


def along(numbers: torch.Tensor, **keys: object) -> Edit:
    return Edit(site=str(SITE), direction=tuple(numbers.tolist()), **keys)


def test_a_decoders_row_is_a_direction_at_any_site_of_its_size(
    tiny_model: Model, make_sae: MakeSae, row: list[int]
):
    sae = make_sae("resid_post.2")
    named = Edit(site=str(SITE), along=f"{NAME}:3", value=5.0)
    once = splice.steered(tiny_model, {NAME: sae}, [named], [row]).logits[0]
    again = splice.steered(tiny_model, {}, [along(sae.w_dec[3], value=5.0)], [row]).logits[0]
    assert torch.equal(once, again)
    with pytest.raises(NotFound, match="no feature 16"):
        splice.steering(tiny_model, {NAME: sae}, [named.model_copy(update={"along": f"{NAME}:16"})])


def test_the_difference_of_two_texts_is_that_of_their_means(tiny_model: Model, row: list[int]):
    means = [
        values_at(tiny_model, tiny_model.encode(text), SITE)[1:].mean(0) for text in TEXTS.values()
    ]
    named = Edit(action="zero", site=str(SITE), **TEXTS)
    once = splice.steered(tiny_model, {}, [named], [row]).logits[0]
    again = splice.steered(tiny_model, {}, [along(means[0] - means[1], action="zero")], [row])
    assert torch.equal(once, again.logits[0])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"away": TEXTS["toward"]}, "toward and away do not differ at resid_post.1"),
        ({"site": "attn_scores.1"}, "attn_scores.1 has no direction"),
        ({"away": "rain " * 9_000}, "away is too long: .* shorten it"),
    ],
)
def test_what_gives_no_direction_is_refused(tiny_model: Model, keys: dict[str, str], words: str):
    edit = Edit.parse({"site": str(SITE), **TEXTS, "value": 1.0, **keys}, "edit")
    with pytest.raises(ConfigError, match=words):
        splice.steering(tiny_model, {}, [edit])
