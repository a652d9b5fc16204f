"""Inputs that are divided by their own size, token by token, and outputs multiplied by it again.

With s the size, f = relu(W x / s + b) and x' = s (f D + c): so s f = relu(W x + s b), which is a
Sae whose biases and thresholds are multiples of s (`Sae.size`). A mean that is taken off before and
put back behind is linear: it goes into the encoder, and into a skip connection.
"""

from dataclasses import replace

import torch

from panscope.sae.sae import Sae, Size


def by_token(sae: Sae, size: Size, centres: bool) -> Sae:
    """Return a Sae that does to raw activations what this one does to divided ones.

    `centres` says that their mean is taken off too. The 1e-5 that others add to s is left out.
    """
    sae = replace(sae, size=size)
    if not centres:
        return sae
    d = len(sae.w_enc)
    return replace(sae, w_enc=sae.w_enc - sae.w_enc.mean(0), skip=torch.full((d, d), 1 / d))
