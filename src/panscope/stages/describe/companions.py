"""Which latents of a Sae fire together: exact over all tokens and all pairs of latents.

A block of latents at a time is counted, token by token, against those after each. Width x width
numbers are never in memory, and no pair is left out by a sample or a sketch. The work is that of
the pairs that fire together: half the square of what fires at a token.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panscope.atlas.columns import CompanionColumns
from panscope.kernels.bodies import counting
from panscope.kernels.firings import Together
from panscope.stages.describe.fired import Fired
from panscope.stages.describe.tally import Tally

MOST_FIRINGS = 1 << 24  # of the latents that are counted at a time: 134 MB


def companions(
    fired: Fired, tally: Tally, k: int, most_firings: int = MOST_FIRINGS
) -> CompanionColumns:
    """Find each latent's k companions of highest Jaccard, and their correlations."""
    n_firings, body = tally.histogram.counts.sum(1), counting()
    found = Together.zero(len(n_firings), k)
    for first, end in _ranges(n_firings.tolist(), most_firings):
        body.accompany_(found, fired.codes, n_firings, first, end)
    ids, jaccards = found
    products, is_there = torch.zeros_like(jaccards), ids >= 0
    for firings, codes in zip(fired.by_latent, fired.codes, strict=True):
        body.multiply_(products, firings, codes.n_tokens, ids)
    correlations = _correlations(products, ids.clamp_min(0), tally)
    return CompanionColumns(
        counts=is_there.sum(1).numpy(),
        ids=ids[is_there].numpy(),
        jaccards=jaccards[is_there].numpy(),
        correlations=correlations[is_there].numpy(),
    )


def _ranges(n_firings: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Cut the latents where a range would hold more than so many firings; one has any number."""
    first = held = 0
    for latent, n in enumerate(n_firings):
        if held and held + n > most:
            yield first, latent
            first, held = latent, 0
        held += n
    yield first, len(n_firings)


def _correlations(
    products: Float[Tensor, "latents k"], ids: Int[Tensor, "latents k"], tally: Tally
) -> Float[Tensor, "latents k"]:
    """Return Pearson's correlation of activations over all tokens; 0 where one is constant."""
    n = max(tally.n_tokens, 1)
    mean = tally.total / n
    deviation = (tally.square / n - mean.square()).clamp_min(0).sqrt()
    spread = deviation[:, None] * deviation[ids]
    covariance = products / n - mean[:, None] * mean[ids]
    return torch.where(spread > 0, covariance / spread, 0).clamp(-1, 1)
