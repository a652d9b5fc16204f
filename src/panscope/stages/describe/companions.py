"""Which latents of a Sae fire together: exact over all tokens and all pairs of latents.

A block of latents has its firings sorted in memory, and one latent at a time is counted against
those after it, at the tokens where it fires. Width x width numbers are never in memory, and no pair
is left out by a sample or a sketch. The work is that of the pairs that fire together: half the
square of what fires at a token.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panscope.atlas.columns import CompanionColumns
from panscope.kernels.bodies import counting
from panscope.kernels.firings import Codes, Together
from panscope.stages.describe.tally import Tally

BLOCK_FIRINGS = 1 << 25  # sorted at a time: 268 MB


def companions(
    log: Sequence[Codes], tally: Tally, k: int, block_firings: int = BLOCK_FIRINGS
) -> CompanionColumns:
    """Find each latent's k companions of highest Jaccard, and their correlations."""
    n_firings, body = tally.histogram.counts.sum(1), counting()
    found = Together.zero(len(n_firings), k)
    for first, end in _blocks(n_firings.tolist(), block_firings):
        firings = [body.by_latent(codes, first, end) for codes in log]
        body.accompany_(found, firings, log, n_firings, first)
    ids, jaccards = found
    products, fired = torch.zeros_like(jaccards), ids >= 0
    for codes in log:
        body.multiply_(products, body.by_latent(codes, 0, codes.width), codes.n_tokens, ids)
    correlations = _correlations(products, ids.clamp_min(0), tally)
    return CompanionColumns(
        counts=fired.sum(1).numpy(),
        ids=ids[fired].numpy(),
        jaccards=jaccards[fired].numpy(),
        correlations=correlations[fired].numpy(),
    )


def _blocks(n_firings: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Cut the latents where a block would hold more than so many firings; one has any number."""
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
