"""Which body runs: native code on CPU, Triton on CUDA, PyTorch where neither is or codes are dense.

The sparse bodies cost in proportion to the pairs, the dense one is blind to them. All compute the
same numbers up to rounding; only the dense one knows other types than float32.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

from panscope.kernels import cpu, cpu_firings, dense, firings, library
from panscope.kernels.firings import Counting
from panscope.kernels.pairs import Body

DENSE_FROM = {"cpu": 0.2, "cuda": 0.03}
"""Density at which the bodies meet: measured on CPU; on an H100 worked out from a step's parts."""


def body_for(x: Tensor, density: float = 0.0) -> Body:
    """Choose the body that encodes x into codes of which `density` is the share that is kept."""
    device = x.device.type
    if x.dtype != torch.float32 or density > DENSE_FROM.get(device, 0.0):
        return dense
    if device == "cuda" and find_spec("triton"):
        from panscope.kernels import gpu  # where it is needed: Triton takes a second to import

        return gpu
    return cpu if device == "cpu" and library.available() else dense


def counting() -> Counting:
    """Choose the body that counts firings, which is on the CPU."""
    return cpu_firings if library.available() else firings
