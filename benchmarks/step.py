"""The training step: the closed form against autograd through the definition.

    python benchmarks/step.py

One Sae, the same batch, the two bodies by turns; medians of eleven, and their ratio. Writes the
table between the markers of benchmarks/README.md.
"""

import statistics
import time
from collections.abc import Callable

import torch
from tables import machine, write_table

from panscope.kernels import dense, reference
from panscope.kernels.dense import Parameters
from panscope.stages.train import bank

ROUNDS = 11
BANDWIDTH = 0.02


def closed_form(x: torch.Tensor, p: Parameters) -> Parameters:
    return dense.backward(dense.forward(x, p), p, BANDWIDTH, torch.tensor(0.01))


def by_autograd(x: torch.Tensor, p: Parameters) -> Parameters:
    leaves = Parameters(*(t.detach().requires_grad_() for t in p))
    loss = reference.training_loss(x, *leaves, bandwidth=BANDWIDTH, penalty=lambda l0: 0.01 * l0)
    return Parameters(*torch.autograd.grad(loss, leaves))


def seconds(body: Callable[[], object]) -> float:
    started = time.perf_counter()
    body()
    return time.perf_counter() - started


def compare(n_tokens: int, d_in: int, width: int) -> str:
    """Time both bodies by turns; return a row."""
    p = bank.initial(d_in, width, 0.05, seed=0)
    x = torch.randn(n_tokens, d_in, generator=torch.Generator().manual_seed(0)) / d_in**0.5
    bodies = (lambda: by_autograd(x, p), lambda: closed_form(x, p))
    for body in bodies:
        body()
    rounds = [[seconds(body) for body in bodies] for _ in range(ROUNDS)]
    slow, fast = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratio = statistics.median(a / b for a, b in rounds)
    return f"| {n_tokens} × {d_in} × {width} | {slow * 1e3:.1f} | {fast * 1e3:.1f} | {ratio:.2f} |"


def main() -> None:
    sizes = [(1024, 256, 1024), (4096, 256, 1024), (4096, 256, 4096)]
    head = [
        "| tokens × d × latents | autograd, ms | closed form, ms | ratio |",
        "|---|---|---|---|",
    ]
    write_table("step", "\n".join([machine(), "", *head, *(compare(*size) for size in sizes)]))


if __name__ == "__main__":
    main()
