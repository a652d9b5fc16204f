"""Where each feature stands on a map of its Sae: decoder directions in two dimensions.

A map shows what lies together, and little else: two axes hold a few per cent of the variance.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn.functional import normalize

from panscope.errors import Unsupported

How = Literal["pca", "umap"]

N_AXES_BEFORE_UMAP = 50  # UMAP of 65,536 directions of 2,304 numbers spends most time on distances


def place(
    w_dec: Float[Tensor, "latents d_out"], how: How, seed: int
) -> Float32[np.ndarray, "latents 2"]:
    """Place every latent by its decoder direction, length aside; the same each time.

    "pca" takes the two directions of largest variance; "umap" (McInnes et al. 2018), neighbourhoods
    by cosine.

    Raises Unsupported if "umap" is asked for and umap-learn is not installed.
    """
    unit = normalize(w_dec.float(), dim=1).cpu()
    return _principal(unit, 2).numpy() if how == "pca" else _umap(unit, seed)


def _principal(unit: Float[Tensor, "latents d_out"], k: int) -> Float[Tensor, "latents k"]:
    """Return coordinates on the `k` main axes, zeros where there are fewer.

    An axis points to where its largest number is positive: eigenvectors have no sign of their own.
    """
    centred = unit - unit.mean(0)
    _, axes = torch.linalg.eigh(centred.T @ centred)  # variances ascend
    axes = axes.flip(1)[:, :k]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    places = torch.zeros(len(unit), k)
    places[:, : axes.shape[1]] = centred @ (axes * largest.sign())
    return places


def _umap(unit: Float[Tensor, "latents d_out"], seed: int) -> Float32[np.ndarray, "latents 2"]:
    try:
        from umap import UMAP  # imports numba, which takes seconds
    except ImportError as error:
        do = 'pip install "panscope[umap]", or leave describe.map at "pca"'
        raise Unsupported("describe.map", "umap-learn is not installed", do) from error
    n_axes = min(N_AXES_BEFORE_UMAP, unit.shape[1])
    fitted = UMAP(metric="cosine", random_state=seed, n_jobs=1, n_neighbors=min(15, len(unit) - 1))
    return np.asarray(fitted.fit_transform(_principal(unit, n_axes).numpy()), np.float32)
