"""An edit at positions meets the tokens it names, and says so where there are none."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from panscope.errors import ConfigError, Unsupported
from panscope.model import tap
from panscope.model.load import Model
from panscope.model.positions import At, Where
from panscope.sites import Site

VALUE = torch.arange(24.0).reshape(2, 4, 3)
SITE = Site("resid_pre", 1)


def doubled(value: Tensor, where: Where) -> Tensor:
    return 2 * value


def test_the_same_positions_in_every_row():
    expected = VALUE.clone()
    expected[:, [1, 3]] *= 2
    assert torch.equal(At([3, 1], doubled)(VALUE), expected)
    assert torch.equal(At(range(4), doubled)(VALUE), 2 * VALUE)


def test_positions_of_each_row():
    expected = VALUE.clone()
    expected[0, 2] *= 2
    assert torch.equal(At([[2], []], doubled)(VALUE), expected)


def test_an_edit_is_told_where_its_tokens_are():
    """So that it can put values from elsewhere there, whichever tokens a pass has."""
    other = torch.randn(2, 4, 3)

    def put(value: Tensor, where: Where) -> Tensor:
        assert torch.equal(value, VALUE[where.rows, where.positions])
        return other[where.rows, where.positions]

    expected = VALUE.clone()
    expected[:, 1:3] = other[:, 1:3]
    assert torch.equal(At([1, 2], put)(VALUE), expected)


def test_a_pass_of_some_tokens_gives_those():
    positions = torch.tensor([[-1, 0, 1, 2], [3, 4, 5, 6]])
    expected = VALUE.clone()
    expected[0, 3] *= 2  # position 2
    expected[1, 2] *= 2  # position 5
    assert torch.equal(At([2, 5], doubled).placed(positions)(VALUE), expected)


def test_a_pass_of_none_does_not_call_the_edit():
    def fail(value: Tensor, where: Where) -> Tensor:
        raise ZeroDivisionError

    assert At([7], fail).placed(torch.tensor([[5, 6]]))(VALUE[:1, :2]).equal(VALUE[:1, :2])
    assert At([], fail)(VALUE).equal(VALUE)


def test_it_is_an_edit_of_a_pass(tiny_model: Model):
    ids = torch.randint(4, 4096, (2, 9))

    def whole(value: Tensor) -> Tensor:
        value[:, 4] = 2 * value[:, 4]
        return value

    run = tap.run(tiny_model, ids, edits={SITE: At([4], doubled)}, with_logits=True)
    same = tap.run(tiny_model, ids, edits={SITE: whole}, with_logits=True)
    assert torch.equal(run.logits, same.logits)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([4], r"position 4: is outside row 0, of which 4 tokens are run; use 0 to 3"),
        ([0, -1], r"position -1: is outside row 0"),
        ([[0], [5]], r"position 5: is outside row 1"),
        ([0, [1]], r"positions: are 1 lists and 1 numbers for 2 rows"),
        (
            [[0], [1], [2]],
            r"positions: are 3 lists and 0 numbers for 2 rows; give numbers, or one list",
        ),
    ],
)
def test_positions_that_are_not_there(positions: Sequence[int], message: str):
    with pytest.raises(ConfigError, match=message):
        At(positions, doubled)(VALUE)


@pytest.mark.parametrize(
    "edit", [lambda x, _: x[:1], lambda x, _: x.sum(0), lambda x, _: x.half(), lambda x, _: None]
)
def test_an_edit_returns_what_it_was_given(edit: object):
    with pytest.raises(
        ConfigError, match=r"edit at positions: the edit returned .* for \(4, 3\) fl"
    ):
        At([0, 1], edit)(VALUE)


def test_heads_have_no_tokens(tiny_model: Model):
    with pytest.raises(Unsupported, match=r"\(1, 4, 2, 8\) .* is not \(batch, position, d\)"):
        tap.run(tiny_model, torch.tensor([[2, 5]]), edits={Site("q", 1): At([0], doubled)})


def test_what_an_edit_does_in_place_stays_with_it():
    value = VALUE.clone()
    At([0], lambda x, _: x.zero_())(value)
    assert torch.equal(value, VALUE)
