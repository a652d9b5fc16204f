"""Edits in a pass: the one primitive, to the bit where nothing moves; order, tokens, refusals."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.splice.conftest import WIDTH, MakeSae, values_at
from torch import Tensor

from panscope import splice
from panscope.edits import Edit
from panscope.errors import ConfigError, NotFound, Unsupported
from panscope.model import load, ragged
from panscope.model.load import Model
from panscope.model.ragged import padded
from panscope.sae.sae import Sae, Size
from panscope.sites import Site

SITE = Site("resid_post", 1)
NAME = "resid_post.1/a"
AXIS = (0.0, 3.0, *([0.0] * 30))  # a direction: scaled to length 1 it is the second axis


@pytest.fixture(scope="module")
def sae(make_sae: MakeSae) -> Sae:
    return make_sae("resid_post.1")


def edit(index: int | None = 0, sae: str | None = NAME, **keys: Any) -> Edit:
    return Edit.parse({"sae": sae, "index": index, "action": "zero", **keys}, "edit")


def along(**keys: Any) -> Edit:
    return edit(None, None, site=str(SITE), direction=AXIS, **keys)


def run(
    model: Model, row: list[int], saes: Mapping[str, Sae], *edits: Edit, read: Site = SITE
) -> tuple[Tensor, Tensor]:
    """The value at a site, and the logits."""
    ran = splice.steered(model, saes, edits, [row], [read])
    assert ran.logits is not None
    return ran.values[read][0], ran.logits[0]


def an_active_latent(sae: Sae, f: Tensor) -> int:
    """One that fires on some tokens and not on others."""
    return next(i for i in range(sae.width) if 2 < (f[1:, i] > 0).sum() < len(f) - 2)


# ---- nothing to do


def test_no_edits_change_no_bit(tiny_model: Model, sae: Sae, row: list[int]):
    rows = [row, row[:5]]
    plain = ragged.run(tiny_model, rows, with_logits=True).logits
    edited = splice.steered(tiny_model, {NAME: sae}, [], rows).logits
    assert plain is not None and edited is not None
    assert all(map(torch.equal, edited, plain))


@pytest.mark.parametrize(
    "nothing", [{"action": "add", "value": 0}, {"action": "scale", "value": 1}]
)
def test_edits_that_move_nothing_change_no_bit(
    tiny_model: Model, sae: Sae, row: list[int], nothing: dict[str, Any]
):
    edits = [edit(index, **nothing) for index in range(WIDTH)]
    plain = run(tiny_model, row, {})
    assert all(map(torch.equal, run(tiny_model, row, {NAME: sae}, *edits), plain))


def test_ablating_changes_the_logits_where_it_fired_and_no_bit_before(
    tiny_model: Model, sae: Sae, row: list[int]
):
    f = sae.encode(values_at(tiny_model, row, SITE))
    latent = an_active_latent(sae, f)
    first = int((f[1:, latent] > 0).nonzero()[0]) + 1
    _, plain = run(tiny_model, row, {})
    _, ablated = run(tiny_model, row, {NAME: sae}, edit(latent))
    assert torch.equal(ablated[:first], plain[:first])
    assert (ablated[first] - plain[first]).abs().max() > 0.01


def test_what_the_sae_missed_stays(tiny_model: Model, sae: Sae, row: list[int]):
    """An error recomputed behind the edit makes it a no-op: SAELens 326, Llamascopium 61."""
    before = values_at(tiny_model, row, SITE)
    f = sae.encode(before)
    latent = an_active_latent(sae, f)
    after, _ = run(tiny_model, row, {NAME: sae}, edit(latent))
    zeroed = f.clone()
    zeroed[1:, latent] = 0
    error, error_after = before - sae.decode(f), after - sae.decode(zeroed)
    torch.testing.assert_close(error_after, error, rtol=0, atol=1e-4)
    assert error.norm(dim=1).min() > 1, "this Sae misses a lot"


# ---- each action


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ({"action": "add", "value": 2.5}, lambda f: f + 2.5),
        ({"action": "set", "value": 4.0}, lambda f: torch.full_like(f, 4.0)),
        ({"action": "scale", "value": -2.0}, lambda f: -2 * f),
        ({"action": "zero"}, torch.zeros_like),
        ({"action": "clamp", "low": 1.0, "high": 2.0}, lambda f: f.clamp(1, 2)),
        ({"action": "clamp", "high": 0.5}, lambda f: f.clamp(max=0.5)),
    ],
)
@pytest.mark.parametrize(("k", "size"), [(None, None), (4, None), (None, "rms")])
def test_a_feature_moves_along_its_row(
    tiny_model: Model,
    make_sae: MakeSae,
    row: list[int],
    keys: dict[str, Any],
    rule: Any,
    k: int | None,
    size: Size | None,
):
    sae = replace(make_sae("resid_post.1", k=k), size=size)
    before = values_at(tiny_model, row, SITE)
    f = sae.encode(before)[:, 3]
    after, _ = run(tiny_model, row, {NAME: sae}, edit(3, **keys))
    move = (rule(f) - f)[:, None] * sae.w_dec[3]
    torch.testing.assert_close(after[1:], (before + move)[1:], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ({"action": "add", "value": 2.5}, lambda p: p + 2.5),
        ({"action": "zero"}, torch.zeros_like),
        ({"action": "clamp", "high": -0.25}, lambda p: p.clamp(max=-0.25)),
    ],
)
def test_a_direction_moves_the_projection_alone(
    tiny_model: Model, row: list[int], keys: dict[str, Any], rule: Any
):
    before = values_at(tiny_model, row, SITE)
    after, _ = run(tiny_model, row, {}, along(**keys))
    expected = before.clone()
    expected[1:, 1] = rule(before[1:, 1])
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)


def test_a_patch_from_the_same_text_changes_no_bit(tiny_model: Model, sae: Sae):
    text = "The old lamp stood on the table."
    row = tiny_model.encode(text)
    edits = [edit(index, action="patch", source=text) for index in range(WIDTH)]
    plain = run(tiny_model, row, {})
    assert all(map(torch.equal, run(tiny_model, row, {NAME: sae}, *edits), plain))


def test_a_patch_puts_in_what_another_text_had_there(tiny_model: Model, sae: Sae, row: list[int]):
    other = "Le chat dort."
    ids = tiny_model.encode(other)
    assert len(ids) < len(row)
    before = values_at(tiny_model, row, SITE)
    f = sae.encode(before)[:, 3]
    f_other = sae.encode(values_at(tiny_model, ids, SITE))[:, 3]
    after, _ = run(tiny_model, row, {NAME: sae}, edit(3, action="patch", source=other))
    move = (f_other - f[: len(ids)])[:, None] * sae.w_dec[3]
    torch.testing.assert_close(
        after[1 : len(ids)], (before[: len(ids)] + move)[1:], rtol=0, atol=2e-5
    )
    assert torch.equal(after[len(ids) :], before[len(ids) :]), "behind its end nothing is known"


# ---- several


def test_edits_of_one_latent_follow_one_another(tiny_model: Model, sae: Sae, row: list[int]):
    before = values_at(tiny_model, row, SITE)
    f = sae.encode(before)[:, 3]
    edits = [
        edit(3, action="scale", value=3.0),
        edit(3, action="add", value=1.0),
        edit(3, action="clamp", high=2.0),
    ]
    after, _ = run(tiny_model, row, {NAME: sae}, *edits)
    move = ((3 * f + 1).clamp(max=2) - f)[:, None] * sae.w_dec[3]
    torch.testing.assert_close(after[1:], (before + move)[1:], rtol=0, atol=2e-5)


def test_all_edits_of_a_site_read_the_same_value(
    tiny_model: Model, make_sae: MakeSae, sae: Sae, row: list[int]
):
    """The order of Saes makes no difference: each reads what no edit of the site has touched."""
    other = make_sae("resid_post.1", seed=1)
    saes = {NAME: sae, "resid_post.1/b": other}
    edits = [edit(2), edit(5), edit(2, "resid_post.1/b"), along(action="zero")]
    before = values_at(tiny_model, row, SITE)
    f, g = sae.encode(before), other.encode(before)
    axis = torch.eye(32)[1]
    move = -f[:, [2, 5]] @ sae.w_dec[[2, 5]] - g[:, 2:3] * other.w_dec[2]
    move = move - before[:, 1:2] * axis
    after, _ = run(tiny_model, row, saes, *edits)
    torch.testing.assert_close(after[1:], (before + move)[1:], rtol=0, atol=5e-5)
    again, _ = run(tiny_model, row, saes, *reversed(edits))
    torch.testing.assert_close(again, after, rtol=0, atol=5e-5)


def test_a_later_site_reads_the_edited_stream(
    tiny_model: Model, make_sae: MakeSae, sae: Sae, row: list[int]
):
    later, site = make_sae("resid_post.2", seed=1), Site("resid_post", 2)
    saes = {NAME: sae, "resid_post.2/b": later}
    strong = edit(1, action="add", value=20.0)
    steered, _ = run(tiny_model, row, saes, strong, read=site)
    both, _ = run(tiny_model, row, saes, edit(4, "resid_post.2/b"), strong, read=site)
    move = -later.encode(steered)[:, 4:5] * later.w_dec[4]
    torch.testing.assert_close(both[1:], (steered + move)[1:], rtol=0, atol=5e-5)
    assert not torch.equal(
        later.encode(steered)[:, 4], later.encode(values_at(tiny_model, row, site))[:, 4]
    )


def test_the_end_of_a_layer_is_the_beginning_of_the_next(
    tiny_model: Model, make_sae: MakeSae, sae: Sae, row: list[int]
):
    ending = run(tiny_model, row, {NAME: sae}, edit(3, action="set", value=9.0))[1]
    beginning = make_sae("resid_pre.2")
    name = "resid_pre.2/a"
    same = run(tiny_model, row, {name: beginning}, edit(3, name, action="set", value=9.0))[1]
    assert torch.equal(ending, same)


# ---- which tokens


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("all", [1, 2, 3, 4, 5, 6, 7]),
        ("prompt", [1, 2, 3]),
        ("generated", [4, 5, 6, 7]),
        ([2, 5], [2, 5]),
        ([-1, 6], [3, 6]),
        ([-3], [1]),
        ([0], []),
    ],
)
def test_edits_are_of_the_tokens_they_name(
    tiny_model: Model, row: list[int], at: Any, expected: list[int]
):
    ready = splice.steering(tiny_model, {}, [along(action="add", value=5.0, at=at)])
    ran = ready.run(padded(tiny_model, [row[:8]], "right"), [4], [SITE])
    moved = (ran.values[SITE][0] - values_at(tiny_model, row[:8], SITE)).abs().amax(1) > 1e-3
    earliest = expected[:1]
    assert moved.nonzero().flatten().tolist() == expected, earliest
    assert (ran.shares[0][0] > 0).nonzero().flatten().tolist() == expected


def test_special_tokens_are_edited_only_if_asked(tiny_model: Model, row: list[int]):
    ids = [*row[:4], tiny_model.bos_id, *row[4:8]]
    before = values_at(tiny_model, ids, SITE)
    for asked, kept in ((False, [0, 4]), (True, [])):
        after, _ = run(tiny_model, ids, {}, along(action="add", value=5.0, specials=asked))
        assert (after == before).all(1).nonzero().flatten().tolist() == kept


def test_rows_of_different_lengths_count_from_their_own_ends(tiny_model: Model, row: list[int]):
    rows = [row, row[:5]]
    last = along(action="add", value=5.0, at=[-1])
    ran = splice.steered(tiny_model, {}, [last], rows, [SITE])
    for number, ids in enumerate(rows):
        alone = splice.steered(tiny_model, {}, [last], [ids], [SITE])
        torch.testing.assert_close(
            ran.values[SITE][number], alone.values[SITE][0], rtol=0, atol=2e-5
        )


def test_shares_are_of_the_length_of_the_value(tiny_model: Model, row: list[int]):
    ready = splice.steering(tiny_model, {}, [along(action="add", value=-5.0)])
    ran = ready.run(padded(tiny_model, [row], "right"), [len(row)])
    expected = 5.0 / values_at(tiny_model, row, SITE).norm(dim=1)
    torch.testing.assert_close(ran.shares[0][0][1:], expected[1:])
    assert ran.shares[0][0][0] == 0


# ---- other Saes, other models


def test_a_transcoder_is_read_where_it_reads_and_moves_what_it_writes(
    tiny_model: Model, make_sae: MakeSae, row: list[int]
):
    reads, writes = Site("mlp_in_unit", 1), Site("mlp_out", 1)
    coder = make_sae(str(reads), str(writes))
    f = coder.encode(values_at(tiny_model, row, reads))[:, 3:4]
    after, _ = run(tiny_model, row, {"t": coder}, edit(3, "t"), read=writes)
    expected = values_at(tiny_model, row, writes) - f * coder.w_dec[3]
    torch.testing.assert_close(after[1:], expected[1:], rtol=0, atol=2e-5)


def test_a_crosscoder_can_be_added_to_at_all_its_sites(
    tiny_model: Model, make_sae: MakeSae, row: list[int]
):
    coder = make_sae("resid_post.0 resid_post.1")
    first = Site("resid_post", 0)
    before = values_at(tiny_model, row, first)
    after, _ = run(tiny_model, row, {"c": coder}, edit(3, "c", action="add", value=2.0), read=first)
    torch.testing.assert_close(after[1:], (before + 2 * coder.w_dec[3, :32])[1:])
    with pytest.raises(Unsupported, match=r"reads resid_post\.1, behind resid_post\.0"):
        run(tiny_model, row, {"c": coder}, edit(3, "c"))


def test_half_precision_keeps_the_bits_of_tokens_that_are_not_moved(
    tiny_model_folder: Any, make_sae: MakeSae, row: list[int]
):
    config = load.Config(name=str(tiny_model_folder), device="cpu", dtype="bfloat16")
    model = load.load(config)
    moved, _ = run(
        model, row, {NAME: make_sae("resid_post.1")}, edit(3, action="set", value=9.0, at=[4])
    )
    before = values_at(model, row, SITE)
    assert moved.dtype == torch.bfloat16
    assert (moved != before).any(1).nonzero().flatten().tolist() == [4]


# ---- refusals


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (edit(sae="resid_pots.1/a"), NotFound, r"did you mean resid_post\.1/a"),
        (edit(WIDTH), NotFound, "give an index from 0 to 15"),
        (edit(action="add", value=1, unit="max"), ConfigError, "edits.in_raw_units"),
        (edit(at=[40]), ConfigError, "position 40 is not one of the"),
        (edit(at=[-40]), ConfigError, "position -40 is not one of the"),
        (
            edit(None, None, site="resid_post.1", direction=[1.0]),
            ConfigError,
            r"has 1 numbers; give 32 at resid_post\.1",
        ),
        (
            edit(None, None, site="resid_post.7", direction=AXIS),
            NotFound,
            r"resid_post\.0 to resid_post\.2",
        ),
        (
            edit(None, None, site="mlp_in_unit.1", direction=AXIS),
            Unsupported,
            "can be read but not edited",
        ),
    ],
)
def test_what_cannot_be_edited_is_refused(
    tiny_model: Model, sae: Sae, row: list[int], wrong: Edit, error: type[Exception], words: str
):
    with pytest.raises(error, match=words):
        run(tiny_model, row, {NAME: sae}, wrong)
