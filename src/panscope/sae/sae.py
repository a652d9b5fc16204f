"""Sae: a sparse autoencoder as a value.

Weights are stored folded: raw activations in, raw units out, no normalisation and no pre-encoder
bias left (Gemma Scope, arXiv:2408.05147, appendix B).
"""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from panscope.axes import Activations, Latents
from panscope.kernels import reference
from panscope.sites import Site

WEIGHTS = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")


@dataclass(frozen=True, slots=True)
class Sae:
    """A JumpReLU autoencoder and the sites it reads and writes."""

    w_enc: Float[Tensor, "d_in latents"]
    b_enc: Float[Tensor, " latents"]
    w_dec: Float[Tensor, "latents d_out"]
    b_dec: Float[Tensor, " d_out"]
    threshold: Float[Tensor, " latents"]
    reads: tuple[Site, ...]
    writes: tuple[Site, ...]

    @property
    def width(self) -> int:
        """The number of latents."""
        return len(self.b_enc)

    def encode(self, x: Activations) -> Latents:
        """Return every latent's activation; zero where it does not exceed its threshold."""
        return reference.encode(x, self.w_enc, self.b_enc, self.threshold)

    def decode(self, f: Latents) -> Float[Tensor, "tokens d_out"]:
        """Rebuild activations from latents."""
        return reference.decode(f, self.w_dec, self.b_dec)

    def to(self, device: torch.device) -> Self:
        """Move the weights."""
        weights = {name: getattr(self, name).to(device) for name in WEIGHTS}
        return type(self)(**weights, reads=self.reads, writes=self.writes)


def fold(
    w_enc: Float[Tensor, "d_in latents"],
    b_enc: Float[Tensor, " latents"],
    w_dec: Float[Tensor, "latents d_in"],
    b_dec: Float[Tensor, " d_in"],
    threshold: Float[Tensor, " latents"],
    scale: float,
    site: Site,
) -> Sae:
    """Fold the training's scale and pre-encoder bias into the weights.

    Training saw x / scale with b_dec subtracted; the folded Sae sees x and gives `scale` times the
    latents, that is, raw units (Gemma Scope, appendix B).
    """
    return Sae(
        w_enc=w_enc.clone(),
        b_enc=scale * (b_enc - b_dec @ w_enc),
        w_dec=w_dec.clone(),
        b_dec=scale * b_dec,
        threshold=scale * threshold,
        reads=(site,),
        writes=(site,),
    )
