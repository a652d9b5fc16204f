"""The definitions: every architecture's training loss in plain PyTorch, differentiated by autograd.

    z  = x w_enc + b_enc
    f  = z * [z > threshold]
    x' = f w_dec + b_dec
    loss = mean over tokens of ||x - x'||^2 + penalty(mean over tokens of ||f||_0)

The step function has no useful derivative, so the threshold's gradient is estimated by a
rectangular kernel of width `bandwidth` (Rajamanoharan et al. 2024, arXiv:2407.14435, section 3;
Gemma Scope, arXiv:2408.05147, section 2). The sparsity penalty reaches the threshold and nothing
else. These functions are clear rather than fast; the other modules compute the same numbers.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx

from panscope.axes import Activations, Latents


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
    b_dec: Float[Tensor, "... d_out"],
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


def jumprelu(z: Latents, threshold: Float[Tensor, " latents"], bandwidth: float) -> Latents:
    """Return z * [z > threshold]."""
    f: Tensor = _JumpReLU.apply(z, threshold, bandwidth)  # type: ignore[no-untyped-call]
    return f


def l0(z: Latents, threshold: Float[Tensor, " latents"], bandwidth: float) -> Float[Tensor, ""]:
    """Return the mean number of latents above their threshold."""
    active: Tensor = _Step.apply(z, threshold, bandwidth)  # type: ignore[no-untyped-call]
    return active.sum(1).mean()


def topk(z: Latents, k: int) -> Latents:
    """Keep each token's k largest, if positive (Gao et al. 2024, arXiv:2406.04093, section 2.3)."""
    largest = z.topk(k)
    return torch.zeros_like(z).scatter(1, largest.indices, largest.values.relu())


def batch_topk(z: Latents, k: int) -> Latents:
    """Keep the k * tokens largest of all (Bussmann et al. 2024, arXiv:2412.06410, section 3)."""
    return topk(z.flatten()[None], k * len(z)).view_as(z)


def squared_error(
    f: Latents,
    w_dec: Float[Tensor, "latents d_out"],
    b_dec: Float[Tensor, " d_out"],
    target: Float[Tensor, "tokens d_out"],
    prefixes: tuple[int, ...] = (),
) -> Float[Tensor, ""]:
    """Return the mean squared error, summed over dimensions and over Matryoshka prefixes."""
    ends = (*prefixes, f.shape[1])
    rebuilt = [decode(f[:, :end], w_dec[:end], b_dec) for end in ends]
    return torch.stack([(r - target).square().sum(1).mean() for r in rebuilt]).sum()
