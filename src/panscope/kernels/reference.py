"""The definitions: JumpReLU and its training loss in plain PyTorch, differentiated by autograd.

    z  = x w_enc + b_enc
    f  = z * [z > threshold]
    x' = f w_dec + b_dec
    loss = mean over tokens of ||x - x'||^2 + penalty(mean over tokens of ||f||_0)

The step function has no useful derivative, so the threshold's gradient is estimated by a
rectangular kernel of width `bandwidth` (Rajamanoharan et al. 2024, arXiv:2407.14435, section 3;
Gemma Scope, arXiv:2408.05147, section 2). The sparsity penalty reaches the threshold and nothing
else. These functions are clear rather than fast; `dense` computes the same gradients in one pass.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx

from panscope.axes import Activations, Latents

Penalty = Callable[[Float[Tensor, ""]], Float[Tensor, ""]]


def encode(
    x: Activations,
    w_enc: Float[Tensor, "d_in latents"],
    b_enc: Float[Tensor, " latents"],
    threshold: Float[Tensor, " latents"],
) -> Latents:
    """Pass the pre-activations that exceed their latent's threshold, strictly; zero the rest."""
    z = torch.addmm(b_enc, x, w_enc)
    return torch.where(z > threshold, z, 0)  # a product would make -0.0 of what is cut


def decode(
    f: Latents,
    w_dec: Float[Tensor, "latents d_out"],
    b_dec: Float[Tensor, " d_out"],
) -> Float[Tensor, "tokens d_out"]:
    """Sum the decoder directions, each times its latent's activation, onto the bias."""
    return torch.addmm(b_dec, f, w_dec)


class _JumpReLU(torch.autograd.Function):
    """z * [z > threshold], with the rectangle estimate for the threshold's gradient."""

    @staticmethod
    def forward(ctx: FunctionCtx, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth  # type: ignore[attr-defined]
        return z * (z > threshold)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        z, threshold = ctx.saved_tensors  # type: ignore[attr-defined]
        window = rectangle(z, threshold, ctx.bandwidth)  # type: ignore[attr-defined]
        bandwidth: float = ctx.bandwidth  # type: ignore[attr-defined]
        grad_threshold = -(threshold / bandwidth) * (window * grad).sum(0)
        return grad * (z > threshold), grad_threshold, None


class _Step(torch.autograd.Function):
    """[z > threshold], whose gradient reaches the threshold alone."""

    @staticmethod
    def forward(ctx: FunctionCtx, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth  # type: ignore[attr-defined]
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[None, Tensor, None]:
        z, threshold = ctx.saved_tensors  # type: ignore[attr-defined]
        bandwidth: float = ctx.bandwidth  # type: ignore[attr-defined]
        window = rectangle(z, threshold, bandwidth)
        return None, -(window * grad).sum(0) / bandwidth, None


def rectangle(z: Latents, threshold: Float[Tensor, " latents"], bandwidth: float) -> Latents:
    """Return 1 where a pre-activation lies within half a bandwidth of its threshold, else 0."""
    return ((z - threshold).abs() < bandwidth / 2).to(z.dtype)


def training_loss(
    x: Activations,
    w_enc: Float[Tensor, "d_in latents"],
    b_enc: Float[Tensor, " latents"],
    w_dec: Float[Tensor, "latents d_in"],
    b_dec: Float[Tensor, " d_in"],
    log_threshold: Float[Tensor, " latents"],
    bandwidth: float,
    penalty: Penalty,
) -> Float[Tensor, ""]:
    """Return the loss whose gradients train a JumpReLU autoencoder.

    `x` has unit mean square norm; the pre-encoder bias is `b_dec` (it is folded away when the Sae
    is written). `penalty` maps the batch's mean L0 to a number.
    """
    threshold = log_threshold.exp()
    z = torch.addmm(b_enc, x - b_dec, w_enc)
    f: Tensor = _JumpReLU.apply(z, threshold, bandwidth)  # type: ignore[no-untyped-call]
    error = decode(f, w_dec, b_dec) - x
    active: Tensor = _Step.apply(z, threshold, bandwidth)  # type: ignore[no-untyped-call]
    return error.square().sum(1).mean() + penalty(active.sum(1).mean())
