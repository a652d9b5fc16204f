"""Two texts beside each other: the same without edits, with and without a KV cache."""

import pytest
import torch
from tests.splice.conftest import MakeSae
from torch import Tensor

from panscope import splice
from panscope.edits import Edit
from panscope.errors import ConfigError
from panscope.model.generate import Sampling, generate
from panscope.model.load import Model
from panscope.model.ragged import padded
from panscope.sae.sae import Sae
from panscope.sites import Site
from panscope.splice import Beside, Steering

N_TOKENS = 8
NAME = "resid_post.1/a"
SEEDED = Sampling(0.8, seed=4)


@pytest.fixture(scope="module")
def sae(make_sae: MakeSae) -> Sae:
    return make_sae("resid_post.1")


def ready(model: Model, sae: Sae, *edits: Edit) -> Steering:
    return splice.steering(model, {NAME: sae}, edits)


def edit(action: str = "add", at: str = "all", value: float | None = 12.0) -> Edit:
    return Edit.parse({"action": action, "sae": NAME, "index": 3, "value": value, "at": at}, "edit")


def texts(written: list[Beside]) -> tuple[list[int], list[int]]:
    normal = [one.normal.token for one in written if one.normal]
    return normal, [one.steered.token for one in written if one.steered]


@pytest.mark.parametrize("sampling", [None, SEEDED])
def test_without_edits_both_are_what_the_model_writes(
    tiny_model: Model, sae: Sae, row: list[int], sampling: Sampling | None
):
    written = list(splice.beside(ready(tiny_model, sae), row, N_TOKENS, sampling))
    normal, steered = texts(written)
    made = generate(tiny_model, [row], N_TOKENS, sampling=sampling).ids[0]
    assert normal == steered == made[len(row) :]
    assert [one.kl_nats for one in written] == [0.0] * N_TOKENS
    assert all(one.normal == one.steered for one in written)


def whole(ready: Steering, ids: list[int], n_prompt: int) -> Tensor:
    """The logits behind a text, run whole."""
    return ready.run(padded(ready.model, [ids], "right"), [n_prompt]).logits[0, -1]


@pytest.mark.parametrize("at", ["all", "prompt", "generated"])
def test_a_cache_changes_nothing(tiny_model: Model, sae: Sae, row: list[int], at: str):
    """The tokens are equal; probabilities to 1e-5, since other lengths are other sums."""
    steering = ready(tiny_model, sae, edit(at=at), edit("scale", at, 0.5))
    written = list(splice.beside(steering, row, N_TOKENS))
    ids = [*row]
    for one in written:
        logits = whole(steering, ids, len(row))
        assert one.steered is not None and one.steered.token == int(logits.argmax())
        ids.append(one.steered.token)
        chances = logits.softmax(-1)
        assert one.steered.probability == pytest.approx(float(chances[ids[-1]]), abs=1e-5)
        plain = whole(ready(tiny_model, sae), ids[:-1], len(row))
        kl = (chances * (logits.log_softmax(-1) - plain.log_softmax(-1))).sum()
        assert one.kl_nats == pytest.approx(float(kl), abs=1e-4)
    assert texts(written)[0] != texts(written)[1]


def test_a_cache_changes_nothing_whatever_is_edited(
    tiny_model: Model, make_sae: MakeSae, row: list[int]
):
    """Every action, Saes of all sorts, several sites, a direction; patches beyond the prompt."""
    saes = {
        "auto": make_sae("resid_post.1", k=3),
        "trans": make_sae("mlp_in_unit.0", "mlp_out.1", seed=1),
        "cross": make_sae("resid_pre.0 resid_post.2", seed=2),
    }
    longer = "The old lamp stood on the table, and rain fell on the river."
    trees = [
        {"sae": "trans", "index": 6, "action": "patch", "source": longer},
        {"sae": "auto", "index": 3, "action": "set", "value": 9.0, "at": [-1, len(row) + 2]},
        {"sae": "auto", "index": 2, "action": "scale", "value": -3.0, "specials": True},
        {"sae": "trans", "index": 5, "action": "clamp", "low": 2.0, "at": "generated"},
        {"sae": "cross", "index": 7, "value": 4.0},
        {"site": "resid_pre.1", "along": "auto:4", "action": "zero", "at": "prompt"},
        {"site": "attn_out.2", "toward": "Le chat dort.", "away": "rain", "value": -5.0},
    ]
    edits = [Edit.parse(tree, "edit") for tree in trees]
    for some in (edits, edits[::-1]):
        steering = splice.steering(tiny_model, saes, some)
        ids = [*row]
        for one in splice.beside(steering, row, N_TOKENS, SEEDED):
            assert one.steered is not None
            ids.append(one.steered.token)
            chance = whole(steering, ids[:-1], len(row)).softmax(-1)[ids[-1]]
            assert one.steered.probability == pytest.approx(float(chance), abs=2e-5)


def test_an_edit_of_written_tokens_leaves_the_first_as_it_was(
    tiny_model: Model, sae: Sae, row: list[int]
):
    """The prompt chose it; what is steered is what comes behind it."""
    first, second = list(splice.beside(ready(tiny_model, sae, edit(at="generated")), row, 2))
    assert first.kl_nats == 0.0 and first.shares == (0.0,)
    assert second.kl_nats is not None and second.kl_nats > 0.01
    assert second.shares[0] > 0


def test_one_seed_draws_both(tiny_model: Model, sae: Sae, row: list[int]):
    steering = ready(tiny_model, sae, edit(value=3.0))
    once, again = (list(splice.beside(steering, row, N_TOKENS, SEEDED)) for _ in range(2))
    other = list(splice.beside(steering, row, N_TOKENS, Sampling(0.8, seed=5)))
    assert once == again
    assert texts(once) != texts(other)


def test_a_text_that_has_ended_leaves_the_other_to_go_on(
    tiny_model: Model, sae: Sae, row: list[int]
):
    steering = ready(tiny_model, sae, edit())
    normal, steered = texts(list(splice.beside(steering, row, N_TOKENS)))
    end = steered[1]
    assert end not in normal and end != steered[0]
    written = list(splice.beside(steering, row, N_TOKENS, ends=[end]))
    assert texts(written) == (normal, steered[:2])
    assert written[2].kl_nats is None and written[2].shares == ()
    both = list(splice.beside(steering, row, N_TOKENS, ends=[end, normal[1]]))
    assert texts(both) == (normal[:2], steered[:2]) and len(both) == 2


def test_the_likeliest_come_first(tiny_model: Model, sae: Sae, row: list[int]):
    one = next(splice.beside(ready(tiny_model, sae, edit()), row, 1, n_likeliest=3))
    assert one.steered is not None
    chances = [guess.probability for guess in one.steered.likeliest]
    assert chances == sorted(chances, reverse=True) and len(chances) == 3
    assert one.steered.likeliest[0].token == one.steered.token


def test_it_is_refused_before_the_first_token(tiny_model: Model, sae: Sae, row: list[int]):
    with pytest.raises(ConfigError, match="shorten the prompts"):
        splice.beside(ready(tiny_model, sae), row, 400)
    far = Edit(action="zero", sae=NAME, index=0, at=(60,))
    with pytest.raises(ConfigError, match="position 60"):
        splice.beside(ready(tiny_model, sae, far), row, 4)


@pytest.mark.parametrize("sampling", [None, SEEDED])
def test_edits_that_leave_no_prediction_are_refused(
    tiny_model: Model, sae: Sae, row: list[int], sampling: Sampling | None
):
    """One edit of 1e30 leaves a norm's zeros; two on top of each other are no float32."""
    far = edit("scale", value=1e30)
    assert len(list(splice.beside(ready(tiny_model, sae, far), row, 2, sampling))) == 2
    with pytest.raises(ConfigError, match="so strong that no prediction is left; make them weaker"):
        list(splice.beside(ready(tiny_model, sae, far, far), row, 2, sampling))


def test_logits_themselves_can_be_moved(tiny_model: Model, row: list[int]):
    one_hot = torch.nn.functional.one_hot(torch.tensor(99), tiny_model.n_vocab)
    push = Edit(site="logits", direction=tuple(one_hot.float().tolist()), value=1e3)
    written = list(splice.beside(splice.steering(tiny_model, {}, [push]), row, 3))
    assert texts(written)[1] == [99] * 3


def test_in_every_family_it_is_what_whole_passes_write(precise: Model):
    """Ten tokens: in Gemma they leave its window of four behind."""
    ids = [precise.bos_id, *range(40, 49)]
    site = Site("resid_post", 1)
    direction = tuple(torch.randn(32, generator=torch.Generator().manual_seed(1)).tolist())
    edits = [
        Edit(site=str(site), direction=direction, value=4.0, at="generated"),
        Edit(action="zero", site=str(site), direction=direction, at="prompt"),
        Edit(action="scale", site="mlp_out.2", direction=direction, value=-2.0),
    ]
    steering = splice.steering(precise, {}, edits)
    written = list(splice.beside(steering, ids, N_TOKENS))
    text = [*ids]
    for one in written:
        logits = whole(steering, text, len(ids))
        assert one.steered is not None and one.steered.token == int(logits.argmax())
        chance = float(logits.softmax(-1)[one.steered.token])
        assert one.steered.probability == pytest.approx(chance, abs=2e-5)
        text.append(one.steered.token)
    assert texts(written)[0] == generate(precise, [ids], N_TOKENS).ids[0][len(ids) :]
    assert all(one.kl_nats and one.kl_nats > 0 for one in written)
