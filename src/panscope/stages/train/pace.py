"""The pace of training: tokens a second, and a step's time over the time of its floor.

The floor is what no exact trainer can leave out: one dense encoder product a Sae, in float32, at
the rate at which this machine multiplies matrices.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

FLOPS = {"cpu": 2e9, "cuda": 2e12}  # of one timed product: 15 ms at 140 and at 140,000 GFLOP/s
REPEATS = 3


class Product(NamedTuple):
    """The shape of one encoder product."""

    tokens: int
    d_in: int
    width: int

    @property
    def flops(self) -> float:
        """How many floating point operations it takes."""
        return 2.0 * self.tokens * self.d_in * self.width


def floor_seconds(products: Sequence[Product], device: torch.device) -> float:
    """Measure how long these products take, from a smaller one of each distinct shape."""
    seconds = {product: _seconds_a_flop(product, device) for product in set(products)}
    return sum(product.flops * seconds[product] for product in products)


def _seconds_a_flop(product: Product, device: torch.device) -> float:
    """Time a product cut down in tokens and width; d_in, over which it sums, stays."""
    tokens, d_in, width = product
    while 2.0 * tokens * d_in * width > FLOPS.get(device.type, FLOPS["cpu"]):
        tokens, width = (max(1, tokens // 2), width) if tokens >= width else (tokens, width // 2)
    x, w = torch.ones(tokens, d_in, device=device), torch.ones(d_in, width, device=device)
    taken = [_timed(x, w) for _ in range(1 + REPEATS)][1:]  # the first one warms up
    return statistics.median(taken) / Product(tokens, d_in, width).flops


def _timed(x: torch.Tensor, w: torch.Tensor) -> float:
    _wait_for(x.device)
    started = time.perf_counter()
    torch.mm(x, w)
    _wait_for(x.device)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Pace:
    """A clock that is read with the metrics.

    On a GPU the stream's own work runs on while the host goes ahead, so there `step/floor` holds
    some of it.
    """

    def __init__(self, floor: float, done: int) -> None:
        self._floor = floor
        self._done = done
        self._waited = 0.0
        self._read = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for the stream."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    def read(self, done: int, batch_tokens: int) -> dict[str, float]:
        """Return the pace over the steps since the last read, now that `done` are."""
        now, n_steps = time.perf_counter(), done - self._done
        passed, waited = max(now - self._read, 1e-9), self._waited
        self._read, self._waited, self._done = now, 0.0, done
        return {
            "tokens/s": n_steps * batch_tokens / passed,
            "step/floor": (passed - waited) / (n_steps * self._floor),
            "waiting": waited / passed,
        }
