"""The PyTorch body against plain products, in float64, block borders included."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from panscope.kernels import dense
from panscope.kernels.pairs import BETA2, EPSILON, Hits, Pairs, Rows, compared_

TOKENS, D, WIDTH = 37, 6, 20


@pytest.fixture(params=[1 << 25, 50], ids=["one block", "many blocks"], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dense, "BLOCK_NUMBERS", request.param)
    yield


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def encoded() -> tuple[Pairs, Tensor, Tensor]:
    x, w_enc, b_enc, floor = (
        draw(TOKENS, D),
        draw(WIDTH, D, seed=1),
        draw(WIDTH),
        draw(WIDTH, seed=2),
    )
    pairs = dense.encode(x, w_enc, b_enc, floor)
    z = x @ w_enc.T + b_enc
    return pairs, torch.where(z > floor, z, 0), x


def test_encode_keeps_what_exceeds_the_floor_in_order():
    pairs, expected, _ = encoded()
    torch.testing.assert_close(pairs.scatter(pairs.z), expected, rtol=1e-12, atol=1e-12)
    assert len(pairs.z) == (expected != 0).sum()
    order = pairs.token.long() * WIDTH + pairs.latent
    assert (order.diff() > 0).all()
    assert torch.equal(pairs.offsets.diff(), torch.bincount(pairs.token, minlength=TOKENS))
    assert (pairs.token.dtype, pairs.latent.dtype) == (torch.int32, torch.int32)


def test_no_tokens_and_no_pairs():
    none = dense.encode(draw(0, D), draw(WIDTH, D), draw(WIDTH), draw(WIDTH))
    assert (none.n_tokens, len(none.z)) == (0, 0)
    high = dense.encode(draw(3, D), draw(WIDTH, D), draw(WIDTH), torch.full((WIDTH,), torch.inf))
    assert high.offsets.tolist() == [0, 0, 0, 0]
    assert high.largest(2) is high


def test_nan_passes_no_floor():
    x = draw(2, D)
    x[1] = torch.nan
    pairs = dense.encode(x, draw(WIDTH, D), draw(WIDTH), torch.full((WIDTH,), -torch.inf))
    assert pairs.token.unique().tolist() == [0]


@pytest.mark.parametrize("bounds", [(WIDTH,), (3, 4, WIDTH)])
def test_residual_decodes_every_prefix(bounds: tuple[int, ...]):
    pairs, f, _ = encoded()
    w_dec, target = draw(WIDTH, D, seed=3), draw(TOKENS, D, seed=4)
    found = dense.residual(pairs, pairs.z, w_dec, target, bounds)
    errors = [f[:, :end] @ w_dec[:end] - target for end in bounds]
    for p, first in enumerate((0, *bounds[:-1])):
        seen = 2 / TOKENS * torch.stack(errors[p:]).sum(0)
        torch.testing.assert_close(found.error[p], seen)
        torch.testing.assert_close(found.squared[p], errors[p].square().sum())
        mine = (pairs.latent >= first) & (pairs.latent < bounds[p])
        pull = (seen @ w_dec.T)[pairs.token.long(), pairs.latent.long()]
        torch.testing.assert_close(found.pull[mine], pull[mine])


def test_halves_of_the_residual_over_parts_of_the_latents_make_the_whole():
    pairs, _, _ = encoded()
    w_dec, target, bounds = draw(WIDTH, D, seed=3), draw(TOKENS, D, seed=4), (3, 15, WIDTH)
    whole = dense.residual(pairs, pairs.z, w_dec, target, bounds)
    parts = []
    for first, last in ((0, 12), (12, WIDTH)):
        mine = pairs.kept((pairs.latent >= first) & (pairs.latent < last))
        ours = Pairs(mine.token, mine.latent - first, mine.z, mine.offsets, last - first)
        parts.append(
            (ours, w_dec[first:last], tuple(min(max(b, first), last) - first for b in bounds))
        )
    rebuilt = sum(dense.decode(ours, ours.z, rows, ends) for ours, rows, ends in parts)
    error, squared = compared_(rebuilt, target)
    torch.testing.assert_close((error, squared), (whole.error, whole.squared))
    for ours, rows, ends in parts:
        pull = whole.pull[torch.isin(pairs.z, ours.z)]
        torch.testing.assert_close(dense.pull(ours, error, rows, ends), pull)


def hits(n: int) -> Hits:
    generator = torch.Generator().manual_seed(7)

    def pick(high: int) -> Tensor:
        return torch.randint(high, (n,), generator=generator, dtype=torch.int32)

    token, latent, row = pick(TOKENS), pick(WIDTH - 5), pick(2 * TOKENS)  # five latents untouched
    return Hits(token, latent, row, draw(n, seed=8), draw(n, seed=9))


def test_gradients_sum_over_hits_in_any_order():
    x, error, everywhere, h = draw(TOKENS, D), draw(2 * TOKENS, D, seed=5), draw(WIDTH), hits(300)
    d_enc, d_dec = dense.gradients(h, x, error, everywhere, WIDTH)
    expected_enc = everywhere[:, None] * x.sum(0)
    expected_enc.index_add_(0, h.latent, h.slope[:, None] * x[h.token])
    expected_dec = torch.zeros(WIDTH, D).double()
    expected_dec.index_add_(0, h.latent, h.f[:, None] * error[h.error_row])
    torch.testing.assert_close(d_enc, expected_enc)
    torch.testing.assert_close(d_dec, expected_dec)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_updating_touched_rows_alone_equals_adam_on_all(momentum: float):
    """Ten steps, each touching some latents, against torch's Adam with projected gradients.

    With momentum Adam moves the other rows too, and they are put back.
    """
    w_enc, w_dec = draw(WIDTH, D, seed=1), draw(WIDTH, D, seed=2)
    w_dec /= w_dec.norm(dim=1, keepdim=True)
    rows = Rows.begin(w_enc.clone(), w_dec.clone(), momentum)
    leaves = [w_enc.clone().requires_grad_(), w_dec.clone().requires_grad_()]
    adam = torch.optim.Adam(leaves, lr=0.01, betas=(momentum, BETA2), eps=EPSILON)
    for step in range(1, 11):
        h = Hits(*(column[step * 3 : step * 3 + 9] for column in hits(60)))
        x, error = draw(TOKENS, D, seed=step), draw(2 * TOKENS, D, seed=50 + step)
        grads = dense.gradients(h, x, error, None, WIDTH)
        directions = leaves[1].detach()
        along = (grads[1] * directions).sum(1, keepdim=True) * directions
        leaves[0].grad, leaves[1].grad = grads[0], grads[1] - along
        before = [leaf.detach().clone() for leaf in leaves]
        adam.step()
        with torch.no_grad():
            leaves[1].div_(leaves[1].norm(dim=1, keepdim=True))
            if momentum:
                left_alone = torch.bincount(h.latent, minlength=WIDTH) == 0
                for leaf, old in zip(leaves, before, strict=True):
                    leaf[left_alone] = old[left_alone]
        dense.update_(h, x, error, None, rows, step, 0.01)
    torch.testing.assert_close(rows.w_enc, leaves[0].detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(rows.w_dec, leaves[1].detach(), rtol=1e-9, atol=1e-12)
    assert (rows.seen == 0).any()


def test_pairs_keep_their_k_largest_and_can_be_replaced():
    pairs, f, _ = encoded()
    positive = pairs.kept(pairs.z > 0)
    best = positive.largest(2)
    expected = f.relu().topk(2)
    dense_best = torch.zeros_like(f).scatter(1, expected.indices, expected.values)
    torch.testing.assert_close(best.scatter(best.z), dense_best)
    some = torch.tensor([3, 30])
    others = positive.kept(torch.isin(positive.token, some.int()))
    joined = best.replaced(some, others)
    dense_best[some] = f.relu()[some]
    torch.testing.assert_close(joined.scatter(joined.z), dense_best)
    assert torch.equal(joined.offsets.diff(), torch.bincount(joined.token, minlength=TOKENS))
