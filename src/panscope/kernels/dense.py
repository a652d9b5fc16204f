"""The training step's gradients in closed form: five products and a few passes, no autograd tape.

With e = 2 (x' - x) / tokens, g = e w_dec^T and m = [z > threshold]:

    d w_dec = f^T e              d b_dec = sum e - w_enc (sum g m)
    d w_enc = (x - b_dec)^T g m  d b_enc = sum g m
    d threshold = -(1 / bandwidth) * sum over the window of (threshold g + penalty' / tokens)

The window holds the pairs with |z - threshold| < bandwidth / 2. Autograd through `reference` makes
the same numbers with seven more tensors of tokens x latents.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from panscope.axes import Activations


class Parameters(NamedTuple):
    """What training changes. Also the shape of its gradients and second moments."""

    w_enc: Float[Tensor, "d_in latents"]
    b_enc: Float[Tensor, " latents"]
    w_dec: Float[Tensor, "latents d_in"]
    b_dec: Float[Tensor, " d_in"]
    log_threshold: Float[Tensor, " latents"]


class Forward(NamedTuple):
    """What the backward pass needs, and what a trainer watches."""

    centred: Activations
    z: Float[Tensor, "tokens latents"]
    f: Float[Tensor, "tokens latents"]
    error: Activations
    loss: Float[Tensor, ""]
    l0: Float[Tensor, ""]


def forward(x: Activations, p: Parameters) -> Forward:
    """Encode and decode; `loss` is the squared error summed over dimensions, a mean over tokens."""
    centred = x - p.b_dec
    z = torch.addmm(p.b_enc, centred, p.w_enc)
    active = z > p.log_threshold.exp()
    f = z * active
    error = torch.addmm(p.b_dec, f, p.w_dec).sub_(x)
    loss = error.square().sum() / len(x)
    return Forward(centred, z, f, error, loss, active.sum().to(x.dtype) / len(x))


def backward(
    done: Forward,
    p: Parameters,
    bandwidth: float,
    penalty_slope: Float[Tensor, ""],
) -> Parameters:
    """Return the gradients of the training loss; `penalty_slope` is d penalty / d mean L0.

    Consumes `done`: its tensors are overwritten.
    """
    n_tokens = len(done.error)
    threshold = p.log_threshold.exp()
    e = done.error.mul_(2 / n_tokens)
    grad_w_dec = done.f.T @ e
    g = e @ p.w_dec.T
    window = done.z.sub_(threshold).abs_() < bandwidth / 2
    slope = threshold * (g * window).sum(0) + penalty_slope * window.sum(0) / n_tokens
    grad_z = g.mul_(done.f != 0)
    grad_b_enc = grad_z.sum(0)
    return Parameters(
        w_enc=done.centred.T @ grad_z,
        b_enc=grad_b_enc,
        w_dec=grad_w_dec,
        b_dec=e.sum(0) - p.w_enc @ grad_b_enc,
        log_threshold=slope.mul_(-threshold / bandwidth),
    )
