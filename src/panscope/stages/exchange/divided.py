"""Inputs that are divided by their own size, token by token, and outputs multiplied by it again.

With s the size, f = relu(W x / s + b) and x' = s (f D + c): s f = relu(W x + s b). So without
biases and thresholds s cancels, and latents come out in raw units; with them it does not, and no
weights hold that. A mean that is taken off before and put back behind is linear: it goes into the
encoder, and into a skip connection.
"""

from dataclasses import replace

import torch

from panscope.errors import Unsupported
from panscope.sae.sae import Sae
from panscope.stages.exchange.foreign import Foreign


def cancelled(file: Foreign, how: str, sae: Sae, centres: bool) -> Sae:
    """Return a Sae that does to raw activations what this one does to divided ones.

    `centres` says that their mean is taken off too. Raises Unsupported where the size stays.
    """
    fixed = {"encoder bias": sae.b_enc, "decoder bias": sae.b_dec, "thresholds": sae.threshold}
    left = [name for name, values in fixed.items() if bool((values != 0).any())]
    if left:
        found = f"divides each token by its own size, which its {' and '.join(left)} do not follow"
        do = "read one without, or one with a size of the whole text"
        raise Unsupported(f"{file.path}: {how}", found, do)
    if not centres:
        return sae
    d = len(sae.w_enc)
    return replace(sae, w_enc=sae.w_enc - sae.w_enc.mean(0), skip=torch.full((d, d), 1 / d))
