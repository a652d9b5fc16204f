"""The PyTorch body: every device, every dtype, dense products over blocks of tokens or latents.

It is the one used while codes are dense (early in training up to half of the latents fire), the
fallback where no compiler or Triton was found, and the one that runs in float64 for tests.
"""

from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor

from panscope.axes import Activations
from panscope.kernels.pairs import (
    BETA2,
    EPSILON,
    Decoder,
    Encoder,
    Hits,
    Index,
    Pairs,
    PerLatent,
    PerPair,
    Residual,
    Rows,
)

BLOCK_NUMBERS = 1 << 25  # of one tokens x latents block: 128 MiB in float32


def encode(x: Activations, w_enc: Encoder, b_enc: PerLatent, floor: PerLatent) -> Pairs:
    """Multiply block by block of tokens and keep what exceeds the floor."""
    size = max(1, BLOCK_NUMBERS // max(1, len(w_enc)))
    blocks = [_kept(block, w_enc, b_enc, floor) for block in torch.split(x, size)]
    counts = torch.cat([count for count, _, _ in blocks])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    token = torch.arange(len(x), dtype=torch.int32, device=x.device).repeat_interleave(counts)
    latent = torch.cat([latent for _, latent, _ in blocks])
    return Pairs(token, latent, torch.cat([z for _, _, z in blocks]), offsets, len(w_enc))


def _kept(
    x: Activations, w_enc: Encoder, b_enc: PerLatent, floor: PerLatent
) -> tuple[Tensor, Tensor, Tensor]:
    """Return, of a block of tokens, the kept pairs: how many a token, latents, values."""
    z = torch.addmm(b_enc, x, w_enc.T)
    kept = z > floor
    return kept.sum(1), kept.nonzero()[:, 1].int(), z[kept]


def residual(
    pairs: Pairs,
    f: PerPair,
    w_dec: Decoder,
    target: Float[Tensor, "tokens d_out"],
    bounds: tuple[int, ...],
) -> Residual:
    """Decode by one product a segment; pull by one more."""
    errors = decode(pairs, f, w_dec, bounds) - target
    squared = torch.stack([error.double().square().sum() for error in errors])
    error = errors.flip(0).cumsum(0).flip(0).mul_(2 / max(1, len(target)))
    return Residual(error, pull(pairs, error, w_dec, bounds), squared)


def decode(
    pairs: Pairs, f: PerPair, w_dec: Decoder, bounds: tuple[int, ...]
) -> Float[Tensor, "prefixes tokens d_out"]:
    """Add each segment's product to what the prefix before rebuilds."""
    segments = [
        _laid_out(pairs, f, first, last) @ w_dec[first:last] for first, last in _segments(bounds)
    ]
    return torch.stack(list(accumulate(segments)))


def pull(
    pairs: Pairs,
    error: Float[Tensor, "prefixes tokens d_out"],
    w_dec: Decoder,
    bounds: tuple[int, ...],
) -> PerPair:
    """Multiply by each segment's rows and pick the pairs."""
    pulled = error.new_zeros(len(pairs.z))
    for seen, (first, last) in zip(error, _segments(bounds), strict=True):
        mine = _within(pairs.latent, first, last)
        at = pairs.token[mine].long() * (last - first) + pairs.latent[mine] - first
        pulled[mine] = (seen @ w_dec[first:last].T).view(-1)[at]
    return pulled


def _segments(bounds: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip((0, *bounds[:-1]), bounds, strict=True))


def _within(index: Index, first: int, last: int) -> Tensor:
    return (index >= first) & (index < last)


def _laid_out(
    pairs: Pairs, values: PerPair, first: int, last: int
) -> Float[Tensor, "tokens segment"]:
    mine = _within(pairs.latent, first, last)
    return _placed(
        pairs.token[mine], pairs.latent[mine] - first, values[mine], pairs.n_tokens, last - first
    )


def _placed(row: Index, column: Index, values: PerPair, n_rows: int, n_columns: int) -> Tensor:
    """Add values into a matrix of zeros."""
    matrix = values.new_zeros(n_rows * n_columns)
    matrix.index_add_(0, row.long() * n_columns + column, values)
    return matrix.view(n_rows, n_columns)


def gradients(
    hits: Hits,
    x: Activations,
    error: Float[Tensor, "rows d_out"],
    everywhere: PerLatent | None,
    n_latents: int,
) -> tuple[Encoder, Decoder]:
    """Gather by two products over blocks of latents."""
    d_enc = x.new_zeros(n_latents, x.shape[1])
    d_dec = error.new_zeros(n_latents, error.shape[1])
    size = max(1, BLOCK_NUMBERS // max(1, len(error)))
    for first in range(0, n_latents, size):
        last = min(n_latents, first + size)
        mine = _within(hits.latent, first, last)
        latent = hits.latent[mine] - first
        slope = _placed(hits.token[mine], latent, hits.slope[mine], len(x), last - first)
        f = _placed(hits.error_row[mine], latent, hits.f[mine], len(error), last - first)
        d_enc[first:last], d_dec[first:last] = slope.T @ x, f.T @ error
    if everywhere is not None:
        d_enc += everywhere[:, None] * x.sum(0)
    return d_enc, d_dec


def update_(
    hits: Hits,
    x: Activations,
    error: Float[Tensor, "rows d_out"],
    everywhere: PerLatent | None,
    rows: Rows,
    step: int,
    rate: float,
) -> None:
    """Make all gradients, then move the rows that were touched."""
    d_enc, d_dec = gradients(hits, x, error, everywhere, len(rows.w_enc))
    is_touched = torch.bincount(hits.latent, minlength=len(rows.w_enc)) > 0
    if everywhere is not None:
        is_touched |= everywhere != 0
    touched = is_touched.nonzero().squeeze(1)
    w_dec, d_dec = rows.w_dec[touched], d_dec[touched]
    d_dec -= (d_dec * w_dec).sum(1, keepdim=True) * w_dec
    missed = (step - rows.seen[touched]).double()[:, None]
    for w, v, m, gradient in (
        (rows.w_enc, rows.v_enc, rows.m_enc, d_enc[touched]),
        (rows.w_dec, rows.v_dec, rows.m_dec, d_dec),
    ):
        size = _averaged_(v, touched, gradient.square(), BETA2, missed).sqrt_()
        size.div_((1 - BETA2**step) ** 0.5).add_(EPSILON)
        if rows.momentum:
            gradient = _averaged_(m, touched, gradient, rows.momentum, missed)
        w[touched] = w[touched].addcdiv_(gradient, size, value=-rate / (1 - rows.momentum**step))
    moved = rows.w_dec[touched]
    rows.w_dec[touched] = moved / moved.norm(dim=1, keepdim=True)
    rows.seen[touched] = step


def _averaged_(mean: Tensor, at: Tensor, fresh: Tensor, beta: float, missed: Tensor) -> Tensor:
    """Decay some rows of a mean by the steps missed, add what is fresh, and return a copy."""
    old = (beta**missed).to(fresh.dtype)
    mean[at] = mean[at].mul_(old).add_(fresh, alpha=1 - beta)
    return mean[at]
