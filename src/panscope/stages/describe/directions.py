"""What a Sae's weights say by themselves: the logit effects and neighbours of its directions."""

from dataclasses import dataclass
from typing import TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

ROWS = 4096  # of the product at a time: 256 MB of logits at a vocabulary of 16k


class DirectionFields(TypedDict):
    """The fields of a feature's record that come from weights."""

    top_tokens: tuple[int, ...]
    top_logits: tuple[float, ...]
    bottom_tokens: tuple[int, ...]
    bottom_logits: tuple[float, ...]
    neighbours: tuple[int, ...]
    neighbour_cosines: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Best:
    """The best few of each row: values and where they stand."""

    values: Float[Tensor, "latents k"]
    indices: Int[Tensor, "latents k"]


@dataclass(frozen=True, slots=True)
class Directions:
    """The extremes of every latent's logit effects, and its neighbours by decoder cosine."""

    top: Best
    bottom: Best
    near: Best

    def of(self, latent: int) -> DirectionFields:
        """Return one latent's fields."""
        return {
            "top_tokens": tuple(self.top.indices[latent].tolist()),
            "top_logits": tuple(self.top.values[latent].tolist()),
            "bottom_tokens": tuple(self.bottom.indices[latent].tolist()),
            "bottom_logits": tuple(self.bottom.values[latent].tolist()),
            "neighbours": tuple(self.near.indices[latent].tolist()),
            "neighbour_cosines": tuple(self.near.values[latent].tolist()),
        }


def directions(
    w_dec: Float[Tensor, "latents d_out"],
    to_logits: Float[Tensor, "d_out vocab"],
    k: int,
) -> Directions:
    """Find each latent's k strongest and weakest logits and its k nearest decoder directions.

    Logits are centred over the vocabulary, since a softmax does not see their common part.
    """
    unit = normalize(w_dec, dim=1)
    n_near = min(k, len(w_dec) - 1)
    logits, cosines = [], []
    for rows in range(0, len(w_dec), ROWS):
        effect = w_dec[rows : rows + ROWS] @ to_logits
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
    values, indices = (torch.cat([part[i] for part in parts]).cpu() for i in (0, 1))
    return Best(values, indices)
