"""Which latents of a Sae fire together: exact over all tokens and all pairs of latents.

The counts of a block of latents against all others are made from the log, block after block: width
x width numbers are never in memory, and no pair is left out by a sample or a sketch. Each block
reads the log's index again, about a thousandth of what encoding costs.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panscope.atlas.columns import CompanionColumns
from panscope.kernels.bodies import counting
from panscope.kernels.firings import Codes
from panscope.stages.describe.tally import Tally

BLOCK_BYTES = 1 << 28
BYTES_A_CELL = 40  # of a block: a count, a product, and what is derived from them


def companions(
    log: Sequence[Codes], tally: Tally, k: int, block_bytes: int = BLOCK_BYTES
) -> CompanionColumns:
    """Find each latent's k companions of highest Jaccard, and their correlations."""
    width = len(tally.total)
    rows = max(1, block_bytes // (BYTES_A_CELL * width))
    found = [_of_block(log, tally, k, r, min(r + rows, width)) for r in range(0, width, rows)]
    ids, jaccards, correlations = (torch.cat([part[i] for part in found]) for i in range(3))
    fired = jaccards > 0
    return CompanionColumns(
        counts=fired.sum(1).numpy(),
        ids=ids[fired].numpy(),
        jaccards=jaccards[fired].numpy(),
        correlations=correlations[fired].numpy(),
    )


def _of_block(
    log: Sequence[Codes], tally: Tally, k: int, first: int, end: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, Jaccards and correlations of latents `first` to `end`, best first."""
    width, body = len(tally.total), counting()
    together = torch.zeros(end - first, width, dtype=torch.int32)
    products = torch.zeros(end - first, width, dtype=torch.float64)
    for codes in log:
        body.add_together_(together, products, body.by_latent(codes, first, end), codes)
    jaccards = _jaccards(together, tally.histogram.counts.sum(1), first)
    best, ids = jaccards.topk(min(k, width - 1), dim=1)
    return ids, best, _correlations(products.gather(1, ids), ids, tally, first)


def _jaccards(
    together: Int[Tensor, "block width"], n_firings: Int[Tensor, " width"], first: int
) -> Float[Tensor, "block width"]:
    """Divide the tokens where both fire by those where either does; -1 for a latent with itself."""
    block = torch.arange(len(together))
    either = n_firings[first : first + len(together), None] + n_firings - together
    jaccards = together.double() / either.clamp_min(1)
    jaccards[block, block + first] = -1
    return jaccards


def _correlations(
    products: Float[Tensor, "block k"], ids: Int[Tensor, "block k"], tally: Tally, first: int
) -> Float[Tensor, "block k"]:
    """Return Pearson's correlation of activations over all tokens; 0 where one is constant."""
    n = max(tally.n_tokens, 1)
    mean = tally.total / n
    deviation = (tally.square / n - mean.square()).clamp_min(0).sqrt()
    block = torch.arange(first, first + len(ids))[:, None]
    spread = deviation[block] * deviation[ids]
    covariance = products / n - mean[block] * mean[ids]
    return torch.where(spread > 0, covariance / spread, 0).clamp(-1, 1)
