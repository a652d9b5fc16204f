"""Who takes part in `gpu.py`, from the same weights: ours, the product, a dense step, SAELens."""

import importlib.util
import itertools
import statistics
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from panscope.kernels.pairs import BETA2, EPSILON, Hits, Rows

D, N_TOKENS, L0 = 2304, 4096, 60
BANDWIDTH, PRICE, RATE = 1e-3, 1e-4, 1e-5  # a rate so small that L0 stays where it begins
WARM_ROUNDS = 3
DEVICE = torch.device("cuda")

Step = Callable[[Tensor], object]


class Weights:
    """Weights from which `L0` latents fire on a batch of `activations`, some latents far oftener.

    The activations are normal, so each pre-activation is too, its deviation follows from the
    weights, and the threshold is a quantile of the normal distribution. Rates of firing are
    log-normal over two decades, as trained latents' are: that decides how many rows a step touches.
    """

    def __init__(self, width: int, seed: int = 0):
        generator = torch.Generator(DEVICE).manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=DEVICE)

        self.w_dec = torch.nn.functional.normalize(normal(width, D))
        self.w_enc = self.w_dec.clone()
        weight = (1.2 * normal(width)).exp()
        rate = (weight * L0 / weight.sum()).clamp(max=0.5)
        self.threshold = torch.special.ndtri(1 - rate.double()).float() * self.w_enc.mul(
            spectrum()
        ).norm(dim=1)
        self.b_enc, self.b_dec = (torch.zeros(n, device=DEVICE) for n in (width, D))


def spectrum() -> Tensor:
    """Standard deviation of each dimension: a power law, with mean square norm 1."""
    deviation = torch.arange(1, D + 1, device=DEVICE) ** -0.3
    return deviation / deviation.norm()


def activations(n_batches: int, seed: int) -> list[Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    shape = (N_TOKENS, D)
    return [
        torch.randn(shape, generator=generator, device=DEVICE) * spectrum()
        for _ in range(n_batches)
    ]


class Ours:
    """A JumpReLU Sae whose every step runs in the Triton body, its vectors in PyTorch."""

    def __init__(self, start: Weights):
        self.rows = Rows.begin(start.w_enc.clone(), start.w_dec.clone())
        self.vectors = [v.clone() for v in (start.b_enc, start.b_dec, start.threshold)]
        self.moments = [torch.zeros_like(v) for v in self.vectors]
        self.steps, self.l0 = 0, torch.zeros((), device=DEVICE)

    @torch.inference_mode()
    def step(self, x: Tensor) -> None:
        from panscope.kernels import gpu

        b_enc, b_dec, threshold = self.vectors
        rows, centred = self.rows, x - b_dec
        pairs = gpu.encode(centred, rows.w_enc, b_enc, threshold - BANDWIDTH / 2)
        theta = pairs.at(threshold)
        active = pairs.z > theta
        f = torch.where(active, pairs.z, 0)
        error, pull, _ = gpu.residual(pairs, f, rows.w_dec, centred, (pairs.n_latents,))
        slope = torch.where(active, pull, 0)
        window = (pairs.z - theta).abs() < BANDWIDTH / 2
        d_b_enc = pairs.by_latent(slope)
        d_b_dec = error[0].sum(0) - d_b_enc @ rows.w_enc
        d_threshold = pairs.by_latent(window * (theta * pull + PRICE / N_TOKENS)) / -BANDWIDTH
        self.steps += 1
        hits = Hits(pairs.token, pairs.latent, pairs.token, f, slope)
        gpu.update_(hits, centred, error[0], None, rows, self.steps, RATE)
        self._move_((d_b_enc, d_b_dec, d_threshold))
        self.l0 = active.sum() / N_TOKENS

    def _move_(self, gradients: tuple[Tensor, ...]) -> None:
        correction = (1 - BETA2**self.steps) ** 0.5
        for value, moment, gradient in zip(self.vectors, self.moments, gradients, strict=True):
            moment.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
            value.addcdiv_(gradient, moment.sqrt().div_(correction).add_(EPSILON), value=-RATE)


def dense_step(start: Weights) -> Step:
    """Build the definition by autograd, loss and projection compiled, with PyTorch's fused Adam."""
    values = (start.w_enc.T, start.w_dec, start.b_enc, start.b_dec, start.threshold)
    leaves = [v.clone(memory_format=torch.contiguous_format).requires_grad_() for v in values]
    w_enc, w_dec, b_enc, b_dec, threshold = leaves
    adam = torch.optim.Adam(leaves, RATE, (0.0, BETA2), EPSILON, fused=True)

    @torch.compile
    def loss(x: Tensor) -> Tensor:
        z = torch.addmm(b_enc, x - b_dec, w_enc)
        active = (z > threshold).float()
        # Zero in value; its gradient is the rectangle estimate of the threshold's.
        moved = ((z - threshold).abs() < BANDWIDTH / 2) * (threshold - threshold.detach())
        f = z * active - threshold.detach() / BANDWIDTH * moved
        l0 = (active - moved / BANDWIDTH).sum(1).mean()
        error = torch.addmm(b_dec, f, w_dec) - x
        return error.square().sum(1).mean() + PRICE * l0

    @torch.compile
    def project_(gradient: Tensor) -> None:
        gradient.sub_((gradient * w_dec.detach()).sum(1, keepdim=True) * w_dec.detach())

    @torch.compile
    def normalise_(rows: Tensor) -> None:
        rows.div_(rows.norm(dim=1, keepdim=True))

    def step(x: Tensor) -> None:
        adam.zero_grad()
        loss(x).backward()
        project_(w_dec.grad)
        adam.step()
        normalise_(w_dec.data)

    return step


def in_tf32(step: Step) -> Step:
    """Let fp32 products round their factors to TF32 (10 bits), as most training does."""

    def with_tf32(x: Tensor) -> None:
        torch.set_float32_matmul_precision("high")
        step(x)
        torch.set_float32_matmul_precision("highest")

    return with_tf32


def product(start: Weights, dtype: torch.dtype) -> Step:
    """Build the floor: the encoder product alone, into memory that is there already."""
    w = start.w_enc.T.to(dtype).contiguous()
    out = torch.empty(N_TOKENS, w.shape[1], dtype=dtype, device=DEVICE)
    return lambda x: torch.mm(x.to(dtype), w, out=out)


def saelens(start: Weights, batches: list[Tensor], n_rounds: int) -> dict[str, float]:
    """Time SAELens' own training loop, between the moments at which it asks for a batch."""
    if not importlib.util.find_spec("sae_lens"):
        return {}
    from sae_lens import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    n_steps, asked = WARM_ROUNDS + n_rounds + 1, []

    def feed() -> Iterator[Tensor]:
        for number in range(n_steps):
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            asked.append(event)
            yield batches[number % len(batches)]

    sae = JumpReLUTrainingSAE(
        JumpReLUTrainingSAEConfig(
            d_in=D,
            d_sae=len(start.w_enc),
            device="cuda",
            dtype="float32",
            normalize_activations="none",
            jumprelu_bandwidth=BANDWIDTH,
            l0_coefficient=PRICE,
            l0_warm_up_steps=0,
        )
    )
    with torch.no_grad():
        sae.W_enc.copy_(start.w_enc.T)
        sae.W_dec.copy_(start.w_dec)
        sae.threshold.copy_(start.threshold)
    trainer = SAETrainerConfig(
        total_training_samples=n_steps * N_TOKENS,
        train_batch_size_samples=N_TOKENS,
        lr=RATE,
        lr_end=RATE,
        device="cuda",
        lr_warm_up_steps=0,
        lr_decay_steps=0,
        adam_beta1=0.0,
        adam_beta2=BETA2,
    )
    try:
        SAETrainer(cfg=trainer, sae=sae, data_provider=feed()).fit()
    except torch.OutOfMemoryError:
        print("SAELens: not enough memory", file=sys.stderr)
        return {}
    torch.cuda.synchronize()
    times = [a.elapsed_time(b) for a, b in itertools.pairwise(asked)]
    return {"SAELens": statistics.median(times[WARM_ROUNDS:])}
