"""Sae: a sparse autoencoder, transcoder or crosscoder as a value.

Weights are stored folded: raw activations in, raw units out, no normalisation and no pre-encoder
bias left (Gemma Scope, arXiv:2408.05147, appendix B).
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from panscope.axes import Activations, Latents
from panscope.kernels import reference
from panscope.kernels.bodies import body_for
from panscope.kernels.pairs import Pairs
from panscope.sites import Site

Size = Literal["deviation", "rms"]
"""A size of a token's activations: their standard deviation (n - 1), their root mean square."""
SMALLEST_SIZE = 1e-8
WEIGHTS = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")


@dataclass(frozen=True, slots=True)
class Sae:
    """A dictionary of latents, and the sites it reads and writes.

    An autoencoder writes what it reads; a transcoder writes another site, with or without the
    linear term `skip`; a crosscoder reads and writes several sites, their values one after another.
    A latent is active where its pre-activation exceeds its threshold and, if `k` is given, is among
    the token's k largest. With `size`, biases and thresholds are multiples of each token's own
    size: that is what a Sae does which was trained on activations divided by it. Keep `w_enc`
    contiguous in memory latent by latent (`fold` and `Suite.load` do): encoding then copies
    nothing.
    """

    w_enc: Float[Tensor, "d_in latents"]
    b_enc: Float[Tensor, " latents"]
    w_dec: Float[Tensor, "latents d_out"]
    b_dec: Float[Tensor, " d_out"]
    threshold: Float[Tensor, " latents"]
    reads: tuple[Site, ...]
    writes: tuple[Site, ...]
    k: int | None = None
    skip: Float[Tensor, "d_out d_in"] | None = None
    size: Size | None = None

    @property
    def width(self) -> int:
        """The number of latents."""
        return len(self.b_enc)

    def pairs(self, x: Activations) -> Pairs:
        """Return the active latents of each token, by the fastest body there is."""
        if self.size is not None:
            sizes = size_of(x, self.size)
            pairs = replace(self, size=None).pairs(x / sizes[:, None])
            return replace(pairs, z=pairs.z * sizes[pairs.token.long()])
        body = body_for(x)
        pairs = body.encode(x, self.w_enc.T.contiguous(), self.b_enc, self.threshold)
        return pairs if self.k is None else pairs.largest(self.k)

    def encode(self, x: Activations) -> Latents:
        """Return every latent's activation; zero where it is not active."""
        pairs = self.pairs(x)
        return pairs.scatter(pairs.z)

    def decode(self, f: Latents, x: Activations | None = None) -> Float[Tensor, "tokens d_out"]:
        """Rebuild activations from latents; with `skip` or `size` from what was read, too."""
        rebuilt = reference.decode(f, self.w_dec, self.bias(x))
        if self.skip is None:
            return rebuilt
        assert x is not None
        return rebuilt + x @ self.skip.T

    def bias(self, x: Activations | None) -> Float[Tensor, "... d_out"]:
        """Return the decoder's bias, or what it is at each token where it has the token's size."""
        if self.size is None:
            return self.b_dec
        assert x is not None
        return size_of(x, self.size)[:, None] * self.b_dec

    def rebuild(self, x: Activations) -> Float[Tensor, "tokens d_out"]:
        """Encode and decode."""
        return self.decode(self.encode(x), x)

    def to(self, device: torch.device) -> Self:
        """Move the weights."""
        skip = None if self.skip is None else self.skip.to(device)
        weights = {name: getattr(self, name).to(device) for name in WEIGHTS}
        return replace(self, **weights, skip=skip)


def size_of(x: Activations, size: Size) -> Float[Tensor, " tokens"]:
    """Return each token's own size."""
    sizes = x.std(1) if size == "deviation" else x.square().mean(1).sqrt()
    return sizes.clamp_min(SMALLEST_SIZE)


def fold(
    trained: Sae, read_scale: Float[Tensor, " d_in"], written_scale: Float[Tensor, " d_out"]
) -> Sae:
    """Fold the training's scales into the weights: raw activations in, raw units out.

    Training saw x / read_scale and rebuilt y / written_scale. Latents come out in units of the root
    mean square of written_scale: for one site its scale, so that decoder rows keep unit norm
    (Gemma Scope, appendix B).
    """
    unit = _unit(written_scale)
    rows = trained.w_enc.T * (unit / read_scale)
    skip = trained.skip
    return replace(
        trained,
        w_enc=rows.T,
        b_enc=unit * trained.b_enc,
        w_dec=trained.w_dec * (written_scale / unit),
        b_dec=written_scale * trained.b_dec,
        threshold=unit * trained.threshold,
        skip=None if skip is None else written_scale[:, None] * skip / read_scale,
    )


def unfold(
    folded: Sae, read_scale: Float[Tensor, " d_in"], written_scale: Float[Tensor, " d_out"]
) -> Sae:
    """Undo `fold`: scaled activations in, scaled units out."""
    unit = _unit(written_scale)
    skip = folded.skip
    return replace(
        folded,
        w_enc=(folded.w_enc.T * (read_scale / unit)).T,
        b_enc=folded.b_enc / unit,
        w_dec=folded.w_dec * (unit / written_scale),
        b_dec=folded.b_dec / written_scale,
        threshold=folded.threshold / unit,
        skip=None if skip is None else skip * read_scale / written_scale[:, None],
    )


def _unit(written_scale: Float[Tensor, " d_out"]) -> Float[Tensor, ""]:
    """Return the unit of latents."""
    return written_scale.double().square().mean().sqrt().to(written_scale.dtype)
