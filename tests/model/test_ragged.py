"""A padded row is the row alone, in every family, on either side."""

import pytest
import torch
from torch import Tensor

from panscope.errors import ConfigError, NotFound, Unsupported
from panscope.model import ragged, tap
from panscope.model.load import Model
from panscope.model.positions import At, Where
from panscope.sites import Site, all_sites

ROWS = [
    torch.randint(4, 4096, (n,), generator=torch.Generator().manual_seed(n)).tolist()
    for n in (11, 3, 7)  # Gemma's window is 4
]
SIDES = ("left", "right")


@pytest.mark.parametrize("side", SIDES)
def test_a_padded_row_is_the_row_alone(precise: Model, side: ragged.Side):
    sites = [site for site in all_sites(3) if site.kind not in precise.family.absent]
    ran = ragged.run(precise, ROWS, sites, with_logits=True, side=side)
    assert ran.logits is not None
    for number, row in enumerate(ROWS):
        alone = tap.run(precise, torch.tensor([row]), sites, with_logits=True)
        assert alone.logits is not None
        pairs = [(ran.values[site][number], alone.values[site][0]) for site in sites]
        for ours, theirs in [*pairs, (ran.logits[number], alone.logits[0])]:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_which_id_pads_changes_no_bit(precise: Model, side: ragged.Side):
    site = Site("resid_post", 2)
    batch = ragged.padded(precise, ROWS, side)
    batch.ids[~batch.mask] = 77
    inputs = tap.NO_CACHE | batch.inputs(precise.device)
    other = batch.rows(tap.run(precise, batch.ids, [site], inputs=inputs).values[site])
    ours = ragged.run(precise, ROWS, [site], side=side).values[site]
    assert all(torch.equal(a, b) for a, b in zip(ours, other, strict=True))


def test_equal_rows_have_the_bits_of_tap(precise: Model):
    rows, site = [ROWS[0], ROWS[0][::-1]], Site("resid_post", 2)
    for side in SIDES:
        ours = ragged.run(precise, rows, [site], side=side).values[site]
        assert torch.equal(
            torch.stack(ours), tap.run(precise, torch.tensor(rows), [site]).values[site]
        )


@pytest.mark.parametrize("side", SIDES)
def test_positions_are_those_of_the_row(precise: Model, side: ragged.Side):
    """The last token of each row, wherever padding has put it."""
    site, shift = Site("mlp_out", 1), torch.randn(32)

    def add(value: Tensor, where: Where) -> Tensor:
        assert where.positions.tolist() == [10, 2, 6] and where.rows.tolist() == [0, 1, 2]
        return value + shift

    last = At([[len(row) - 1] for row in ROWS], add)
    before = ragged.run(precise, ROWS, [site], side=side).values[site]
    after = ragged.run(precise, ROWS, [site], {site: last}, side=side).values[site]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new[:-1], old[:-1])
        assert torch.equal(new[-1], old[-1] + shift)


def test_without_logits_there_are_none(tiny_model: Model):
    assert ragged.run(tiny_model, ROWS, [Site("embed")]).logits is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows: are none"),
        ([[5], []], "row 1: has no tokens"),
        ([[5], [5, 4096]], "row 1: token 4096 is not one of .*; use 0 to 4095"),
        ([[-1]], "row 0: token -1"),
    ],
)
def test_rows_that_cannot_be_read(tiny_model: Model, rows: list[list[int]], message: str):
    with pytest.raises(ConfigError, match=message):
        ragged.run(tiny_model, rows)


def test_what_is_not_there_is_refused(tiny_model: Model):
    with pytest.raises(NotFound, match=r"site mlp_out\.3"):
        ragged.run(tiny_model, ROWS, [Site("mlp_out", 3)])
    with pytest.raises(Unsupported, match=r"not \(batch, position, d\); read and edit such a site"):
        ragged.run(tiny_model, ROWS, [Site("v", 1)])
    with pytest.raises(ConfigError, match="position 3: is outside row 1, of which 3 tokens"):
        ragged.run(tiny_model, ROWS, edits={Site("mlp_out", 1): At([3], lambda x, _: x)})
