"""What a Sae's weights say by themselves: the logit effects and neighbours of its directions."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from panscope.atlas.columns import Best

ROWS = 512  # of a product at a time: 8 MB of logits at a vocabulary of 4k, 512 MB at one of 256k


@dataclass(frozen=True, slots=True)
class Directions:
    """The extremes of every latent's logit effects, and its neighbours by decoder cosine."""

    top: Best
    bottom: Best
    near: Best


def directions(
    w_dec: Float[Tensor, "latents d_out"],
    to_logits: Float[Tensor, "d_first vocab"],
    k: int,
) -> Directions:
    """Find each latent's k strongest and weakest logits and its k nearest decoder directions.

    A decoder that writes several sites has its directions side by side: the first `d_first`
    numbers of a row act on the logits, all of them are compared.

    Logits are centred over the vocabulary, since a softmax does not see their common part.
    """
    unit = normalize(w_dec, dim=1)
    n_near = min(k, len(w_dec) - 1)
    logits, cosines = [], []
    for rows in range(0, len(w_dec), ROWS):
        effect = w_dec[rows : rows + ROWS, : len(to_logits)] @ to_logits
        effect -= effect.mean(1, keepdim=True)
        logits.append((effect.topk(k, dim=1), effect.topk(k, dim=1, largest=False)))
        cosine = unit[rows : rows + ROWS] @ unit.T
        cosine[torch.arange(len(cosine)), torch.arange(rows, rows + len(cosine))] = -2
        cosines.append(cosine.topk(n_near, dim=1))
    return Directions(
        top=_joined([top for top, _ in logits]),
        bottom=_joined([bottom for _, bottom in logits]),
        near=_joined(cosines),
    )


def _joined(parts: list["torch.return_types.topk"]) -> Best:
    values, ids = (torch.cat([part[i] for part in parts]).cpu().numpy() for i in (0, 1))
    return Best(ids=ids, values=values)
