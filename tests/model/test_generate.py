"""Texts written with a KV cache: the values and edits of one pass over the whole text."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from panscope.errors import ConfigError, NotFound, Unsupported
from panscope.model import tap
from panscope.model.generate import Generated, Sampling, generate
from panscope.model.load import Model
from panscope.model.positions import At, Where
from panscope.sites import Site, all_sites

PROMPTS = [
    torch.randint(4, 4096, (n,), generator=torch.Generator().manual_seed(n)).tolist()
    for n in (11, 3, 7)  # Gemma's window is 4: one begins outside it, one comes to leave it
]
N_TOKENS = 6
ADDED = Site("mlp_out", 0)
PLACED = Site("resid_pre", 1)


def doubled(value: Tensor, where: Where) -> Tensor:
    return 2 * value


def edits_at(*positions: int) -> dict[Site, tap.Edit]:
    """One edit of all tokens and one of some."""
    return {ADDED: lambda value: value + 0.3, PLACED: At(positions, doubled)}


def written_by_transformers(model: Model, row: list[int]) -> list[int]:
    out = model.lm.generate(
        torch.tensor([row]), max_new_tokens=N_TOKENS, do_sample=False, eos_token_id=None
    )
    return out[0].tolist()


def without_cache(model: Model, row: list[int], edits: Mapping[Site, tap.Edit]) -> list[int]:
    """Write a text one whole pass at a time."""
    for _ in range(N_TOKENS):
        here = {
            site: At([p for p in edit.positions if p < len(row)], edit.edit)
            if isinstance(edit, At)
            else edit
            for site, edit in edits.items()
        }
        logits = tap.run(model, torch.tensor([row]), edits=here, with_logits=True).logits
        assert logits is not None
        row = [*row, int(logits[0, -1].argmax())]
    return row


def assert_values_of_whole_passes(
    model: Model, made: Generated, edits: Mapping[Site, tap.Edit]
) -> None:
    for number, row in enumerate(made.ids):
        whole = tap.run(model, torch.tensor([row[:-1]]), made.values, edits).values
        for site, values in made.values.items():
            torch.testing.assert_close(values[number], whole[site][0], rtol=1e-5, atol=2e-5)


# ---- the same text, with and without the cache


def test_without_edits_it_is_what_transformers_writes(precise: Model):
    made = generate(precise, PROMPTS, N_TOKENS)
    assert list(made.ids) == [written_by_transformers(precise, row) for row in PROMPTS]


def test_values_are_those_of_a_whole_pass(precise: Model):
    sites = [site for site in all_sites(3) if site.kind not in precise.family.absent]
    assert_values_of_whole_passes(precise, generate(precise, PROMPTS, N_TOKENS, sites), {})


@pytest.mark.parametrize("position", [2, 5])
def test_an_edit_at_a_position_is_of_that_token(precise: Model, position: int):
    """In one row the token belongs to the prompt, in another it is being written."""
    read = [PLACED, Site("resid_post", 2), Site("logits")]
    edits = edits_at(position)
    made = generate(precise, PROMPTS, N_TOKENS, read, edits)
    assert list(made.ids) == [without_cache(precise, row, edits) for row in PROMPTS]
    assert_values_of_whole_passes(precise, made, edits)
    without = generate(precise, PROMPTS, N_TOKENS, read, {ADDED: edits[ADDED]})
    moved = made.values[PLACED][0] - without.values[PLACED][0]
    assert moved[:11].abs().amax(1).nonzero().flatten().tolist() == [position]


def test_an_edit_leaves_the_tokens_before_it(tiny_model: Model):
    plain = generate(tiny_model, PROMPTS[:1], N_TOKENS, [ADDED])
    edited = generate(tiny_model, PROMPTS[:1], N_TOKENS, [ADDED], {PLACED: At([13], doubled)})
    assert edited.ids[0][:14] == plain.ids[0][:14]
    assert torch.equal(edited.values[ADDED][0][:14], plain.values[ADDED][0][:14])


def test_edited_logits_choose_the_token(tiny_model: Model):
    def always_99(value: Tensor) -> Tensor:
        value[..., 99] = 1e4
        return value

    made = generate(tiny_model, PROMPTS, 3, edits={Site("logits"): always_99})
    assert [row[-3:] for row in made.ids] == [[99] * 3] * 3


def test_logits_may_be_named_by_their_path(tiny_model: Model):
    """They are then kept of all tokens, as by their name."""
    path = Site("lm_head.output")
    made = generate(tiny_model, PROMPTS, 2, [path])
    assert [len(values) for values in made.values[path]] == [len(row) - 1 for row in made.ids]


def test_a_row_is_what_it_is_alone(precise: Model):
    site = Site("resid_post", 2)
    together = generate(precise, PROMPTS, N_TOKENS, [site])
    for number, prompt in enumerate(PROMPTS):
        alone = generate(precise, [prompt], N_TOKENS, [site])
        assert alone.ids[0] == together.ids[number]
        ours, theirs = together.values[site][number], alone.values[site][0]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)


def test_every_token_is_run_once(tiny_model: Model):
    seen: list[tuple[int, ...]] = []

    def note(value: Tensor) -> Tensor:
        seen.append(tuple(value.shape))
        return value

    generate(tiny_model, PROMPTS, 3, edits={ADDED: note})
    assert seen == [(3, 11, 32), (3, 1, 32), (3, 1, 32)]


# ---- sampling and ends


def test_a_seed_makes_the_text(tiny_model: Model):
    one, same, other = (
        generate(tiny_model, PROMPTS, N_TOKENS, sampling=Sampling(5.0, seed)).ids
        for seed in (0, 0, 1)
    )
    assert one == same != other
    torch.manual_seed(3)
    assert generate(tiny_model, PROMPTS, N_TOKENS, sampling=Sampling(5.0, 0)).ids == one


def test_sampling_draws_by_the_logits(tiny_model: Model):
    """A row a draw, of one next token: shares are the softmax's to three standard errors."""
    prompt, n = [2, 50, 60], 2000
    logits = tap.run(tiny_model, torch.tensor([prompt]), with_logits=True).logits
    assert logits is not None
    shares = (logits[0, -1] / 4).softmax(0)
    made = generate(tiny_model, [prompt] * n, 1, sampling=Sampling(4.0))
    drawn = torch.bincount(torch.tensor([row[-1] for row in made.ids]), minlength=4096) / n
    top = shares.topk(3).indices
    errors = (shares[top] * (1 - shares[top]) / n).sqrt()
    assert ((drawn[top] - shares[top]).abs() < 3 * errors).all()


def test_cold_sampling_takes_the_likeliest(tiny_model: Model):
    cold = generate(tiny_model, PROMPTS, N_TOKENS, sampling=Sampling(1e-6)).ids
    assert cold == generate(tiny_model, PROMPTS, N_TOKENS).ids


def test_a_row_ends_behind_its_end(tiny_model: Model):
    site = Site("embed")
    whole = generate(tiny_model, PROMPTS, N_TOKENS, [site])
    new = [row[len(prompt) :] for row, prompt in zip(whole.ids, PROMPTS, strict=True)]
    end = new[0][2]
    made = generate(tiny_model, PROMPTS, N_TOKENS, [site], ends=[end])
    for number, (row, prompt) in enumerate(zip(made.ids, PROMPTS, strict=True)):
        n_kept = new[number].index(end) + 1 if end in new[number] else N_TOKENS
        assert row == [*prompt, *new[number][:n_kept]]
        assert len(made.values[site][number]) == len(row) - 1


def test_when_all_rows_have_ended_no_pass_is_run(tiny_model: Model):
    first = generate(tiny_model, PROMPTS[:1], 1).ids[0][-1]
    n_passes: list[int] = []
    edit = {ADDED: lambda value: n_passes.append(1) or value}
    made = generate(tiny_model, PROMPTS[:1], 50, edits=edit, ends={first})
    assert made.ids[0] == [*PROMPTS[0], first] and len(n_passes) == 1


# ---- what cannot be, and what is left behind


@pytest.mark.parametrize(
    ("prompts", "n_tokens", "positions", "message"),
    [
        ([], 3, (), "rows: are none"),
        ([[]], 3, (), "row 0: has no tokens"),
        ([[5]], 0, (), "n_tokens: is 0; write one token or more"),
        ([[5] * 250], 7, (), "generate: 250 tokens and 7 more are over the 256 of"),
        ([[5, 6]], 3, (4,), "position 4: is outside row 0, of which 4 tokens are run"),
        ([[5, 6]], 3, (-1,), "position -1: is outside row 0"),
    ],
)
def test_what_cannot_be_written(
    tiny_model: Model,
    prompts: list[list[int]],
    n_tokens: int,
    positions: tuple[int, ...],
    message: str,
):
    with pytest.raises(ConfigError, match=message):
        generate(tiny_model, prompts, n_tokens, edits=edits_at(*positions))


def test_sites_and_temperatures_are_checked(tiny_model: Model):
    with pytest.raises(NotFound, match=r"site mlp_out\.3"):
        generate(tiny_model, PROMPTS, 1, [Site("mlp_out", 3)])
    with pytest.raises(Unsupported, match=r"site mlp_in_unit\.1: can be read but not edited"):
        generate(tiny_model, PROMPTS, 1, edits={Site("mlp_in_unit", 1): At([0], doubled)})
    with pytest.raises(Unsupported, match=r"\(3, 4, 11, 8\) float32 on cpu is not \(batch, pos"):
        generate(tiny_model, PROMPTS, 1, [Site("q", 1)])
    coldest = generate(tiny_model, PROMPTS, 2, sampling=Sampling(1e-300)).ids
    assert coldest == generate(tiny_model, PROMPTS, 2).ids
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="sampling: temperature is"):
            generate(tiny_model, PROMPTS, 1, sampling=Sampling(temperature))


def test_an_error_while_writing_leaves_nothing(tiny_model: Model):
    def fail_when_written(value: Tensor) -> Tensor:
        if value.shape[1] == 1:
            raise ZeroDivisionError
        return value

    before = generate(tiny_model, PROMPTS, 3)
    modules = list(tiny_model.lm.modules())
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]
    with pytest.raises(ZeroDivisionError):
        generate(tiny_model, PROMPTS, 3, edits={ADDED: fail_when_written})
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules] == hooks
    assert torch.is_grad_enabled()
    assert generate(tiny_model, PROMPTS, 3) == before
