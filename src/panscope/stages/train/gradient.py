"""The gradient of a step: hits for the kernels, the vectors' gradients, and what revives the dead.

Dead latents get a gradient in one of two ways. Both stay sparse:

- rebuild (TopK family; Gao et al. 2024, arXiv:2406.04093, appendix A.2): the `aux_k` largest dead
  latents of each token rebuild what the living left over; their pairs become hits like any other,
  on error rows of their own.
- pull up (JumpReLU; Anthropic's pre-activation loss, strength x relu(threshold - z) over dead
  latents): every token where a dead latent stays below its threshold pulls it up alike, so its
  gradient is a constant times the sum of all x, less the few pairs that are above.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from panscope.axes import Activations
from panscope.dist import Group
from panscope.kernels.pairs import Body, Hits, Pairs, PerLatent, PerPair, Rows
from panscope.stages.train import shards
from panscope.stages.train.architectures import Active, Backward, Vectors


@dataclass(frozen=True, slots=True)
class Gradient:
    """What `update_` and the optimiser need."""

    hits: Hits
    error: Float[Tensor, "rows d_out"]
    """Loss gradients of what was rebuilt; the first `tokens` rows sum over all prefixes."""
    slopes: PerLatent
    """Each latent's slopes summed: d loss / d (a bias of its pre-activation)."""
    vectors: Vectors
    everywhere: PerLatent | None = None

    @classmethod
    def of(cls, active: Active, made: Backward, bounds: tuple[int, ...]) -> Self:
        """Take the pairs of a step as hits, each on the error of its segment."""
        pairs = active.pairs
        row = pairs.token
        if len(bounds) > 1:
            edges = torch.tensor(bounds[:-1], dtype=torch.int32, device=row.device)
            segment = torch.bucketize(pairs.latent, edges, right=True)
            row = row + (segment * pairs.n_tokens).int()
        hits = Hits(pairs.token, pairs.latent, row, active.f, made.slope)
        slopes = pairs.by_latent(made.slope)
        return cls(
            hits, made.residual.error.flatten(0, 1), slopes, {"b_enc": slopes} | made.vectors
        )


def pulled_up(
    gradient: Gradient, active: Active, dead: Bool[Tensor, " latents"], strength: float
) -> Gradient:
    """Add the pre-activation loss of dead latents."""
    pairs = active.pairs
    everywhere = dead.to(active.f.dtype) * (-strength / pairs.n_tokens)
    is_above = active.f != 0
    slope = gradient.hits.slope - is_above * pairs.at(everywhere)
    n_below = pairs.n_tokens - pairs.by_latent(is_above.to(slope.dtype))
    added = everywhere * n_below
    vectors = dict(gradient.vectors)
    vectors["b_enc"] = vectors["b_enc"] + added
    vectors["threshold"] = vectors["threshold"] - added
    return replace(
        gradient,
        hits=gradient.hits._replace(slope=slope),
        slopes=gradient.slopes + added,
        vectors=vectors,
        everywhere=everywhere,
    )


def rebuilding(
    gradient: Gradient,
    body: Body,
    x: Activations,
    rows: Rows,
    b_enc: PerLatent,
    dead: Bool[Tensor, " latents"],
    left_over: Float[Tensor, "tokens d_out"],
    strength: float,
    k: int,
    group: Group,
) -> Gradient:
    """Add the auxiliary loss: dead latents rebuild `left_over`. Reads back how many are dead."""
    numbers = dead.nonzero().squeeze(1)
    if not group.total(len(numbers)):
        return gradient
    w_enc, w_dec, bias = rows.w_enc[numbers], rows.w_dec[numbers], b_enc[numbers]
    pairs = shards.largest(body.encode(x, w_enc, bias, torch.zeros_like(bias)), k, group)
    bounds = (len(numbers),)
    residual = shards.residual(body, pairs, pairs.z, w_dec, left_over, bounds, group)
    slope = strength * residual.pull
    hits = _named(pairs, numbers, len(gradient.error), slope)
    slopes = gradient.slopes.index_add(0, numbers, pairs.by_latent(slope))
    joined = Hits(*(torch.cat(both) for both in zip(gradient.hits, hits, strict=True)))
    return replace(
        gradient,
        hits=joined,
        error=torch.cat([gradient.error, strength * residual.error[0]]),
        slopes=slopes,
        vectors=gradient.vectors | {"b_enc": slopes},
    )


def _named(pairs: Pairs, numbers: Tensor, first_row: int, slope: PerPair) -> Hits:
    latent = numbers.int().index_select(0, pairs.latent)
    return Hits(pairs.token, latent, pairs.token + first_row, pairs.z, slope)
