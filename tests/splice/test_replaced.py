"""Spliced passes: the bits of a whole pass with edits; special tokens left alone; refusals."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from panscope import splice
from panscope.errors import Unsupported
from panscope.model import tap, text
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.sae.sae import Sae, Size
from panscope.sites import Site, all_sites

SITE = Site("resid_post", 1)
ALONE = [(site,) for site in all_sites(3) if site.kind != "mlp_in_unit"]
TOGETHER = [
    (Site("mlp_out", 1), Site("resid_post", 1)),
    (Site("resid_post", 0), Site("resid_post", 2)),
    (Site("resid_post", 2), Site("attn_z", 1), Site("mlp_out", 0)),
    (Site("embed"), Site("mlp_out", 1)),
]


@pytest.fixture(scope="module")
def batch(tiny_model: Model, tiny_text: Path) -> Rows:
    """Rows with documents that end within them, and so special tokens that see edited ones."""
    config = text.Config(path=str(tiny_text), context=48, held_out=0.0)
    rows = next(text.rows(config, tiny_model, "train", 3))
    assert not rows.mask[:, 1:].all()
    return rows


def drawn(model: Model, batch: Rows, sites: tuple[Site, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    d_out = sum(model.d_at(site) for site in sites)
    return torch.randn(int(batch.mask.sum()), d_out, generator=generator)


@pytest.mark.parametrize("sites", ALONE + TOGETHER, ids=lambda sites: "+".join(map(str, sites)))
def test_a_spliced_pass_has_the_bits_of_a_whole_pass(
    tiny_model: Model, batch: Rows, sites: tuple[Site, ...]
):
    values = drawn(tiny_model, batch, sites)
    parts = values.split([tiny_model.d_at(site) for site in sites], dim=1)
    edits = {
        site: lambda old, new=new: old.masked_scatter(batch.mask[..., None], new)
        for site, new in zip(sites, parts, strict=True)
    }
    whole = tap.run(tiny_model, batch.ids, edits=edits, with_logits=True).logits
    base = splice.clean(tiny_model, batch, [], [sites])
    assert torch.equal(splice.logits(tiny_model, base, sites, values), whole)
    assert not torch.equal(whole, base.logits)


@pytest.mark.parametrize("sites", ALONE + TOGETHER, ids=lambda sites: "+".join(map(str, sites)))
def test_what_was_there_changes_no_bit(tiny_model: Model, batch: Rows, sites: tuple[Site, ...]):
    base = splice.clean(tiny_model, batch, [], [sites])
    same = splice.logits(tiny_model, base, sites, base.at(sites))
    assert torch.equal(same, base.logits)


def test_special_tokens_are_left_alone(tiny_model: Model, batch: Rows):
    base = splice.clean(tiny_model, batch, [], [(SITE,)])
    edited = splice.logits(tiny_model, base, [SITE], torch.zeros_like(base.at([SITE])))
    assert torch.equal(edited[:, 0], base.logits[:, 0]), "the BOS predicts as before"
    assert not torch.equal(edited[:, 1], base.logits[:, 1])


def test_a_pass_runs_only_what_lies_above(tiny_model: Model, batch: Rows):
    base = splice.clean(tiny_model, batch, [], [(Site(kind, 1),) for kind in ("attn_z", "mlp_out")])
    ran: list[int] = []
    layers = tiny_model.lm.model.layers
    hooks = [
        layer.mlp.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, layer in enumerate(layers)
    ]
    for kind, expected in (("attn_z", [1, 2]), ("mlp_out", [2])):
        site = Site(kind, 1)
        splice.logits(tiny_model, base, [site], torch.zeros_like(base.at([site])))
        assert ran == expected
        ran.clear()
    for hook in hooks:
        hook.remove()


def test_what_cannot_be_edited_is_refused(tiny_model: Model, batch: Rows):
    site = Site("mlp_in_unit", 1)
    base = splice.clean(tiny_model, batch, [], [(site,)])
    with pytest.raises(Unsupported, match=r"site mlp_in_unit\.1: can be read but not edited"):
        splice.logits(tiny_model, base, [site], base.at([site]))


@pytest.mark.parametrize("size", [None, "deviation"])
@pytest.mark.parametrize("has_skip", [False, True])
def test_rebuilding_from_pairs_equals_decoding_all_latents(has_skip: bool, size: Size | None):
    generator = torch.Generator().manual_seed(5)
    x, w_enc = torch.randn(30, 6, generator=generator), torch.randn(6, 20, generator=generator)
    sae = Sae(
        w_enc=w_enc,
        b_enc=torch.randn(20, generator=generator),
        w_dec=torch.randn(20, 9, generator=generator),
        b_dec=torch.randn(9, generator=generator),
        threshold=torch.full((20,), 3.0),
        reads=(SITE,),
        writes=(SITE,),
        skip=torch.randn(9, 6, generator=generator) if has_skip else None,
        size=size,
    )
    pairs = sae.pairs(x)
    assert (pairs.offsets.diff() == 0).any(), "some token has no latent"
    torch.testing.assert_close(splice.rebuilt(sae, pairs, x), sae.decode(sae.encode(x), x))


def test_sites_stand_side_by_side_without_special_tokens(tiny_model: Model, batch: Rows):
    sites = (Site("attn_z", 2), Site("embed"))
    base = splice.clean(tiny_model, batch, sites, [])
    beside = base.at(sites)
    assert torch.equal(beside[:, :32], base.values[sites[0]].flatten(0, 1)[batch.mask.flatten()])
    assert torch.equal(beside[:, 32:], base.values[sites[1]].flatten(0, 1)[batch.mask.flatten()])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_no_numbers_are_named_but_large_ones_are_taken(bad: float):
    fine, spoilt = torch.full((3, 4), 3e38), torch.ones(3, 4)
    assert torch.equal(splice.finite({SITE: fine}), fine)
    spoilt[2, 1] = bad
    words = r"activations of mlp_out\.0: hold NaN or infinity at 1 of 3 tokens; load the model"
    with pytest.raises(Unsupported, match=words):
        splice.finite({SITE: fine, Site("mlp_out", 0): spoilt})
