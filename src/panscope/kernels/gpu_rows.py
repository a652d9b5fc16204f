"""Rows: dots of pairs of rows, weighted sums of rows, and Adam on rows. Every order is fixed.

What a sum is made of is gathered, never scattered: a program owns each result, and no two add to
the same place. So the same inputs give the same bits.
"""

from typing import NamedTuple, Self, no_type_check

import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panscope.kernels.gpu_screen import warps_for
from panscope.kernels.pairs import BETA2, EPSILON, Index, PerLatent, PerPair

PAIRS = 8  # dots of one program: enough loads in flight, and neighbours share a row in the cache
TERMS = 8  # rows that a weighted sum reads at once, so that one often used does not wait long
COLUMNS = 512  # of a row, in one program; all programs of a column block run before the next's


@triton.jit
@no_type_check
def _dot(left, right, left_row, right_row, out, n, d, PAIRS: tl.constexpr, BLOCK: tl.constexpr):
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    a = tl.load(left_row + pair, mask=pair < n, other=-1).to(tl.int64)
    b = tl.load(right_row + pair, mask=pair < n, other=-1).to(tl.int64)
    real = a >= 0
    terms = tl.zeros((PAIRS, BLOCK), tl.float32)
    for start in range(0, d, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = real[:, None] & (column < d)[None, :]
        u = tl.load(left + a[:, None] * d + column[None, :], mask=inside, other=0)
        v = tl.load(right + b[:, None] * d + column[None, :], mask=inside, other=0)
        terms += u * v
    tl.store(out + pair, tl.sum(terms, axis=1), mask=real)


@triton.jit
@no_type_check
def _weighted_sum(
    first, last, weight, index, rows, out, d, TERMS: tl.constexpr, BLOCK: tl.constexpr
):
    group = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    begin, end = tl.load(first + group), tl.load(last + group)
    if begin < end:
        total = tl.zeros((BLOCK,), tl.float32)
        for start in range(begin, end, TERMS):
            term = start + tl.arange(0, TERMS)
            share = tl.load(weight + term, mask=term < end, other=0)
            row = tl.load(index + term, mask=term < end, other=0).to(tl.int64)
            inside = (term < end)[:, None] & (column < d)[None, :]
            block = tl.load(rows + row[:, None] * d + column[None, :], mask=inside, other=0)
            total += tl.sum(share[:, None] * block, axis=0)
        tl.store(out + group * d + column, total, mask=column < d)


@triton.jit
@no_type_check
def _move(
    w,
    g,
    v,
    m,
    touched,
    decay,
    mean_decay,
    d,
    rate,
    correction,
    fresh,
    mean_fresh,
    epsilon,
    MEAN: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    if tl.load(touched + row):
        column = tl.arange(0, BLOCK)
        at, inside = row * d + column, column < d
        weight = tl.load(w + at, mask=inside, other=0)
        slope = tl.load(g + at, mask=inside, other=0)
        moment = tl.load(v + at, mask=inside, other=0) * tl.load(decay + row)
        if UNIT:
            slope -= tl.sum(slope * weight, axis=0) * weight
        moment += fresh * slope * slope
        if MEAN:
            mean = tl.load(m + at, mask=inside, other=0) * tl.load(mean_decay + row)
            slope = mean + mean_fresh * slope
            tl.store(m + at, slope, mask=inside)
        weight -= rate * slope / (tl.sqrt(moment * correction) + epsilon)
        if UNIT:
            weight /= tl.sqrt(tl.sum(weight * weight, axis=0))
        tl.store(w + at, weight, mask=inside)
        tl.store(v + at, moment, mask=inside)


def dots(
    left: Float[Tensor, "left d"],
    right: Float[Tensor, "right d"],
    left_row: Index,
    right_row: Index,
) -> PerPair:
    """Return the dot of each pair of rows; where `left_row` is -1, nothing in particular.

    A dot depends on its two rows alone, not on which others are asked for with it.
    """
    left, right = left.contiguous(), right.contiguous()
    n, d = len(left_row), left.shape[1]
    out = left.new_empty(n)
    block = min(256, triton.next_power_of_2(d))
    grid = (triton.cdiv(n, PAIRS),)
    _dot[grid](left, right, left_row, right_row, out, n, d, PAIRS=PAIRS, BLOCK=block)
    return out


def weighted_sums_(
    out: Float[Tensor, "groups d"],
    first: Int[Tensor, " groups"],
    last: Int[Tensor, " groups"],
    weight: PerPair,
    index: Index,
    rows: Float[Tensor, "rows d"],
) -> None:
    """Write sum weight[i] rows[index[i]] over first <= i < last; leave `out` where that is empty.

    By columns first: at 4096 x 2304, a column block of all rows that are gathered fits the L2 cache
    (of x 8 MB; of 16,384 latents 34 MB), so most of the reading is not from memory.
    """
    rows = rows.contiguous()
    n, d = out.shape
    block = min(COLUMNS, triton.next_power_of_2(d))
    grid = (n, triton.cdiv(d, block))
    _weighted_sum[grid](first, last, weight, index, rows, out, d, TERMS=TERMS, BLOCK=block)


class Turn(NamedTuple):
    """Which rows move in a step, counted from 1, how far, and what is left of their moments."""

    touched: Bool[Tensor, " latents"]
    decay: PerLatent
    mean_decay: PerLatent
    step: int
    rate: float
    momentum: float

    def within(self, slab: slice) -> Self:
        """Take some of the rows."""
        some = (self.touched[slab], self.decay[slab], self.mean_decay[slab])
        return type(self)(*some, *self[3:])


def move_(
    w: Float[Tensor, "latents d"],
    g: Float[Tensor, "latents d"],
    v: Float[Tensor, "latents d"],
    m: Float[Tensor, "means d"],
    turn: Turn,
    unit: bool,
) -> None:
    """Move the touched rows by one step of Adam, their moments decayed first.

    Without momentum `m` is not looked at. With `unit`, rows stay on the unit sphere: the gradient's
    part along the row is taken off before the step, and the row is brought back to norm 1 after it.
    """
    if not all(t.is_contiguous() for t in (w, v, m)):  # a copy would move instead of them
        raise ValueError("weights and moments must lie row by row: make them contiguous")
    n, d = w.shape
    block = triton.next_power_of_2(d)
    correction = 1 / (1 - BETA2**turn.step)
    _move[(n,)](
        w,
        g,
        v,
        m if turn.momentum else v,
        turn.touched,
        turn.decay,
        turn.mean_decay,
        d,
        turn.rate / (1 - turn.momentum**turn.step),
        correction,
        1 - BETA2,
        1 - turn.momentum,
        EPSILON,
        MEAN=turn.momentum > 0,
        UNIT=unit,
        BLOCK=block,
        num_warps=warps_for(block),
    )
