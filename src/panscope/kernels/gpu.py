"""The Triton body: what only the few active pairs need is gathered, and the one product is halved.

`encode` screens all pairs with an fp16 product and a rigorous margin (`gpu_screen`), then computes
the candidates' dots in float32 in a fixed order; so the pairs and their values are exactly those of
that float32 dot, and tile shapes, capacity and atomics leave no trace. No tensor has the size of
tokens x latents. `residual`, `gradients` and `update_` gather rows (`gpu_rows`) in orders made by
stable sorts: equal inputs give equal bits.

Waiting for the device: `encode` reads two numbers back once, after all its kernels are queued,
since `Pairs` has exact sizes; with more candidates than there was room for it does its work again.
Nothing else waits. To be rid of that read, Pairs would be padded to the room, token = n_tokens in
the padding; `offsets` is right already, and only `density` and sums over all pairs would look.

Memory beside the arguments: 2 bytes for each number of w_enc and of x, about 60 for each candidate,
and the gradients of `SLAB` latents.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panscope.axes import Activations
from panscope.kernels.gpu_rows import Turn, dots, move_, weighted_sums_
from panscope.kernels.gpu_screen import halves, screen
from panscope.kernels.pairs import (
    BETA2,
    Decoder,
    Encoder,
    Hits,
    Index,
    Pairs,
    PerLatent,
    PerPair,
    Residual,
    Rows,
    compared_,
)

SLAB = 16_384  # latents whose gradients exist at once: 0.3 GB at d = 2304
FIRST_GUESS = 256  # candidates a token, of an encoder not seen before
ROOM_STEP = 1024
MOST = 2**31 - 1  # pairs that are screened at once: candidates are counted in int32

# Candidates a token that the encoder at an address had last time, for the size of its next buffer.
# A wrong guess costs time alone.
_candidates: dict[int, float] = {}


class _Grouped(NamedTuple):
    """Hits latent after latent; latent l owns edges[l] : edges[l + 1]."""

    edges: Int[Tensor, " latents_plus_1"]
    token: Index
    error_row: Index
    f: PerPair
    slope: PerPair


def encode(x: Activations, w_enc: Encoder, b_enc: PerLatent, floor: PerLatent) -> Pairs:
    """Keep the pairs whose float32 dot plus bias exceeds their floor, strictly.

    A token or a latent with a value that is not finite keeps none.
    """
    size = max(1, MOST // max(1, len(w_enc)))
    with _on(x):
        return _joined([_encode(part, w_enc, b_enc, floor) for part in torch.split(x, size)])


def _encode(x: Activations, w_enc: Encoder, b_enc: PerLatent, floor: PerLatent) -> Pairs:
    n_tokens, d = x.shape
    x_halves, w_halves = halves(x), halves(w_enc)
    # Rounding keeps order, so dot + b > floor only where dot > floor - b; that this difference is
    # itself rounded is within the slack of the screen.
    reach = floor - b_enc
    room = _room(_candidates.get(w_enc.data_ptr(), FIRST_GUESS) * n_tokens)
    while True:
        candidates = screen(x_halves, w_halves, reach, room, d)
        kept = _exact(candidates.keys, x, w_enc, b_enc, floor)
        n_candidates, n_kept = torch.stack((candidates.found, kept.offsets[-1])).tolist()
        if n_candidates <= room:
            break
        room = _room(n_candidates)
    _candidates[w_enc.data_ptr()] = 1.25 * n_candidates / max(1, n_tokens)
    return Pairs(
        kept.token[:n_kept], kept.latent[:n_kept], kept.z[:n_kept], kept.offsets, len(w_enc)
    )


def _room(n_candidates: float) -> int:
    """Round up to whole steps, so that kernels are compiled for few kinds of sizes."""
    return ROOM_STEP * (int(n_candidates) // ROOM_STEP + 1)


def _exact(
    keys: Int[Tensor, " room"],
    x: Activations,
    w_enc: Encoder,
    b_enc: PerLatent,
    floor: PerLatent,
) -> Pairs:
    """Recompute the candidates; those that pass come first, all others have token = n_tokens.

    Latent by latent, each row of w_enc is read once and those of x from the L2 cache; a stable sort
    by token then leaves the latents ascending.
    """
    n_latents = len(w_enc)
    latent = (keys >> 32).int()
    token = (keys & 0xFFFF_FFFF).int()
    real = latent < n_latents
    latent = latent.clamp_(max=n_latents - 1)
    z = dots(w_enc, x, torch.where(real, latent, -1), token)
    z += b_enc[latent]
    passes = real & (z > floor[latent])
    token, order = torch.where(passes, token, len(x)).sort(stable=True)
    offsets = torch.searchsorted(token, _count_to(len(x), x.device))
    return Pairs(token, latent[order], z[order], offsets, n_latents)


def _joined(parts: list[Pairs]) -> Pairs:
    """Put the pairs of consecutive tokens together."""
    if len(parts) == 1:
        return parts[0]
    token, offsets, n_tokens, n_pairs = [], [parts[0].offsets[:1]], 0, 0
    for part in parts:
        token.append(part.token + n_tokens)
        offsets.append(part.offsets[1:] + n_pairs)
        n_tokens += part.n_tokens
        n_pairs += len(part.z)
    latent = torch.cat([part.latent for part in parts])
    z = torch.cat([part.z for part in parts])
    return Pairs(torch.cat(token), latent, z, torch.cat(offsets), parts[0].n_latents)


def residual(
    pairs: Pairs,
    f: PerPair,
    w_dec: Decoder,
    target: Float[Tensor, "tokens d_out"],
    bounds: tuple[int, ...],
) -> Residual:
    """Decode f and compare with `target`, prefix by prefix."""
    error, squared = compared_(decode(pairs, f, w_dec, bounds), target)
    return Residual(error, pull(pairs, error, w_dec, bounds), squared)


def decode(
    pairs: Pairs, f: PerPair, w_dec: Decoder, bounds: tuple[int, ...]
) -> Float[Tensor, "prefixes tokens d_out"]:
    """Add up the segments' own sums."""
    with _on(w_dec):
        rebuilt = _segments(pairs, _segment(pairs, bounds), f, w_dec, len(bounds))
    for p in range(1, len(bounds)):
        rebuilt[p] += rebuilt[p - 1]
    return rebuilt


def pull(
    pairs: Pairs,
    error: Float[Tensor, "prefixes tokens d_out"],
    w_dec: Decoder,
    bounds: tuple[int, ...],
) -> PerPair:
    """Dot decoder and error rows, latent by latent: each decoder row is then read once."""
    error_row = _segment(pairs, bounds) * pairs.n_tokens + pairs.token
    order = pairs.latent_order
    with _on(w_dec):
        pulled = dots(w_dec, error.flatten(0, 1), order.latent, error_row[order.pair])
    return torch.empty_like(pulled).index_copy_(0, order.pair, pulled)


def _segment(pairs: Pairs, bounds: tuple[int, ...]) -> Index:
    """Say which segment each pair's latent is in."""
    segment = torch.zeros_like(pairs.latent)
    for bound in bounds[:-1]:
        segment += pairs.latent >= bound
    return segment


def _segments(
    pairs: Pairs, segment: Index, f: PerPair, w_dec: Decoder, n_prefixes: int
) -> Float[Tensor, "prefixes tokens d_out"]:
    """Decode each segment by itself: a token's pairs ascend, so a segment's lie together."""
    n_tokens = pairs.n_tokens
    group = pairs.token * n_prefixes + segment
    edges = torch.searchsorted(group, _count_to(n_tokens * n_prefixes, f.device))
    first, last = (ends.view(n_tokens, n_prefixes).T.flatten() for ends in (edges[:-1], edges[1:]))
    decoded = w_dec.new_zeros(n_prefixes, n_tokens, w_dec.shape[1])
    weighted_sums_(decoded.flatten(0, 1), first, last, f, pairs.latent, w_dec)
    return decoded


def gradients(
    hits: Hits,
    x: Activations,
    error: Float[Tensor, "rows d_out"],
    everywhere: PerLatent | None,
    n_latents: int,
) -> tuple[Encoder, Decoder]:
    """Return d w_enc and d w_dec; `everywhere` adds itself times the sum of x to d w_enc."""
    d_enc = x.new_zeros(n_latents, x.shape[1])
    d_dec = x.new_zeros(n_latents, error.shape[1])
    with _on(x):
        _gather_(d_enc, d_dec, _by_latent(hits, n_latents), x, error, everywhere)
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
    """Update each touched latent's rows in place, `SLAB` latents at a time."""
    # Rows without hits are neither written by `_gather_` nor read, unless `everywhere` adds to all.
    blank = torch.empty_like if everywhere is None else torch.zeros_like
    with _on(x):
        grouped = _by_latent(hits, len(rows.seen))
        touched = grouped.edges.diff() > 0
        if everywhere is not None:
            touched |= everywhere != 0
        missed = (step - rows.seen).double()
        decay, mean_decay = (torch.pow(b, missed).float() for b in (BETA2, rows.momentum))
        turn = Turn(touched, decay, mean_decay, step, rate, rows.momentum)
        for start in range(0, len(touched), SLAB):
            slab = slice(start, start + SLAB)
            w_enc, w_dec = rows.w_enc[slab], rows.w_dec[slab]
            d_enc, d_dec = blank(w_enc), blank(w_dec)
            here = grouped._replace(edges=grouped.edges[start : start + SLAB + 1])
            added = None if everywhere is None else everywhere[slab]
            _gather_(d_enc, d_dec, here, x, error, added)
            now = turn.within(slab)
            move_(w_enc, d_enc, rows.v_enc[slab], rows.m_enc[slab], now, unit=False)
            move_(w_dec, d_dec, rows.v_dec[slab], rows.m_dec[slab], now, unit=True)
        rows.seen.masked_fill_(touched, step)


def _by_latent(hits: Hits, n_latents: int) -> _Grouped:
    latent, order = hits.latent.sort(stable=True)
    edges = torch.searchsorted(latent, _count_to(n_latents, latent.device))
    values = (hits.token, hits.error_row, hits.f, hits.slope)
    return _Grouped(edges, *(value[order] for value in values))


def _gather_(
    d_enc: Encoder,
    d_dec: Decoder,
    hits: _Grouped,
    x: Activations,
    error: Float[Tensor, "rows d_out"],
    everywhere: PerLatent | None,
) -> None:
    """Write the gradients of latents that are hit, then add to all what comes from everywhere."""
    first, last = hits.edges[:-1], hits.edges[1:]
    weighted_sums_(d_enc, first, last, hits.slope, hits.token, x)
    weighted_sums_(d_dec, first, last, hits.f, hits.error_row, error)
    if everywhere is not None:
        d_enc.addr_(everywhere, x.sum(0))


def _count_to(n: int, device: torch.device) -> Int[Tensor, " n_plus_1"]:
    """Return 0, 1, ... n, to look up where each begins in a sorted int32 index."""
    return torch.arange(n + 1, dtype=torch.int32, device=device)


def _on(tensor: Tensor) -> AbstractContextManager[object]:
    """Launch kernels on the device that holds `tensor`; Triton takes the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
