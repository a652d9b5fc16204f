"""Screen: which pairs can exceed their floor, by one half-precision product on tensor cores.

Each row is scaled by a power of two so that its largest value lies in [1, 2), and rounded to fp16;
`Halves` keeps how much rounding took away. By Cauchy and Schwarz, in scaled units,

    |x.w - product|  <=  lost_x |w| + |x| lost_w + slack |x| |w|

so a pair whose product plus this margin stays below its floor cannot pass in float32 either.
`slack` = (d + 32) 2^-22 covers the rounding of sums: a tensor core cuts off at most 2^-23 of the
largest term at each of 1.25 d additions, the float32 product that follows errs by less than half
as much, and the rest is for the few operations on either side.

Why fp16: its product takes as long as bf16's and loses an eighth. At d = 2304 the margin is 0.05
standard deviations of z; bf16's 0.19, int8's 0.83. With normal values, that is 1.2, 1.9 and 14
candidates for each pair that passes at 60 of 131,072; with a few large dimensions, as residual
streams have, still 1.2 and 1.9, but 1,000 for int8.
"""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor


class Tile(NamedTuple):
    """The part of the product that one program computes; its shape has no influence on results."""

    tokens: int = 128
    latents: int = 256
    depth: int = 64
    warps: int = 8
    stages: int = 3


TILE = Tile()


class Halves(NamedTuple):
    """Rows rounded to fp16 in units of a power of two each, padded with zeros to whole tiles."""

    values: Float[Tensor, "rows depth"]
    unit: Float[Tensor, " rows"]
    norm: Float[Tensor, " rows"]
    """An upper bound of the row's norm, and of the rounded row's, in its unit."""
    lost: Float[Tensor, " rows"]
    """An upper bound of the norm of what rounding took away, in the row's unit."""


class Candidates(NamedTuple):
    """Sorted (latent << 32) + token; behind the first `found` stands n_latents << 32."""

    keys: Int[Tensor, " room"]
    found: Int[Tensor, ""]


@triton.jit
@no_type_check
def _halve(rows, values, unit, norm, lost, d, depth, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    exact = tl.load(rows + row * d + column, mask=column < d, other=0)
    # The biased exponent of the largest value; clamped so that unit and 1 / unit are both normal.
    exponent = tl.max(tl.abs(exact), axis=0).to(tl.int32, bitcast=True) >> 23
    exponent = tl.minimum(tl.maximum(exponent, 1), 253)
    scaled = exact * ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    half = scaled.to(tl.float16)
    residue = scaled - half.to(tl.float32)
    tl.store(values + row * depth + column, half, mask=column < depth)
    tl.store(unit + row, (exponent << 23).to(tl.float32, bitcast=True))
    # 1.001 covers the rounding of these sums, and that |rounded| may be 1.0005 |exact|.
    tl.store(norm + row, 1.001 * tl.sqrt(tl.sum(scaled * scaled, axis=0)))
    tl.store(lost + row, 1.001 * tl.sqrt(tl.sum(residue * residue, axis=0)))


@triton.jit
@no_type_check
def _screen(
    x,
    x_unit,
    x_norm,
    x_lost,
    w,
    w_unit,
    w_norm,
    w_lost,
    reach,
    keys,
    found,
    room,
    n_tokens,
    n_latents,
    depth,
    slack,
    TOKENS: tl.constexpr,
    LATENTS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    # Token tiles run fastest: all of x in fp16 (19 MB at 4096 x 2304) stays in the L2 cache while
    # w streams past once.
    n_tiles = tl.cdiv(n_tokens, TOKENS)
    token = (tl.program_id(0) % n_tiles) * TOKENS + tl.arange(0, TOKENS)
    latent = (tl.program_id(0) // n_tiles) * LATENTS + tl.arange(0, LATENTS)
    column = tl.arange(0, DEPTH)
    row = tl.minimum(token, n_tokens - 1).to(tl.int64)
    x_tile = x + row[:, None] * depth + column[None, :]
    row = tl.minimum(latent, n_latents - 1).to(tl.int64)
    w_tile = w + row[None, :] * depth + column[:, None]
    product = tl.zeros((TOKENS, LATENTS), tl.float32)
    for _ in range(0, depth, DEPTH):
        product = tl.dot(tl.load(x_tile), tl.load(w_tile), product)
        x_tile += DEPTH
        w_tile += DEPTH

    real = token < n_tokens
    x_size = tl.load(x_norm + token, mask=real, other=0)
    x_loss = tl.load(x_lost + token, mask=real, other=0) + slack * x_size
    x_scale = 1 / tl.load(x_unit + token, mask=real, other=1)
    wanted = latent < n_latents
    w_size = tl.load(w_norm + latent, mask=wanted, other=0)
    w_loss = tl.load(w_lost + latent, mask=wanted, other=0)
    least = tl.load(reach + latent, mask=wanted, other=0)
    least = least / tl.load(w_unit + latent, mask=wanted, other=1)
    highest = product + x_loss[:, None] * w_size[None, :] + x_size[:, None] * w_loss[None, :]
    keep = highest > least[None, :] * x_scale[:, None]
    keep = keep & real[:, None] & wanted[None, :]

    # Few are kept, so each takes its own slot; sorting makes the order that atomics do not.
    slot = tl.atomic_add(found + tl.zeros((TOKENS, LATENTS), tl.int32), 1, mask=keep)
    key = (latent.to(tl.int64) << 32)[None, :] + token[:, None]
    tl.store(keys + slot, key, mask=keep & (slot < room))


def halves(rows: Float[Tensor, "rows d"]) -> Halves:
    """Round each row to fp16. Rows that are not finite get margins of NaN: nothing passes there."""
    rows = rows.contiguous()
    n, d = rows.shape
    depth = triton.cdiv(d, TILE.depth) * TILE.depth
    values = torch.empty(n, depth, dtype=torch.float16, device=rows.device)
    unit, norm, lost = torch.empty(3, n, device=rows.device)
    block = triton.next_power_of_2(depth)
    _halve[(n,)](rows, values, unit, norm, lost, d, depth, BLOCK=block, num_warps=warps_for(block))
    return Halves(values, unit, norm, lost)


def screen(x: Halves, w: Halves, reach: Float[Tensor, " latents"], room: int, d: int) -> Candidates:
    """Find all pairs whose x w can exceed `reach`. Too many for `room` are counted, and lost."""
    n_tokens, n_latents = len(x.unit), len(w.unit)
    keys = torch.full((room,), n_latents << 32, dtype=torch.int64, device=reach.device)
    found = torch.zeros((), dtype=torch.int32, device=reach.device)
    grid = (triton.cdiv(n_tokens, TILE.tokens) * triton.cdiv(n_latents, TILE.latents),)
    _screen[grid](
        *x,
        *w,
        reach,
        keys,
        found,
        room,
        n_tokens,
        n_latents,
        x.values.shape[1],
        (d + 32) * 2.0**-22,
        TOKENS=TILE.tokens,
        LATENTS=TILE.latents,
        DEPTH=TILE.depth,
        num_warps=TILE.warps,
        num_stages=TILE.stages,
    )
    return Candidates(keys.sort().values, found)


def warps_for(block: int) -> int:
    """Give each thread of a program that holds a row 16 of its values."""
    return max(1, min(32, block // 512))
