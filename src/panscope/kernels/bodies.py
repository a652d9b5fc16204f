"""Which body runs: native code on CPU, Triton on CUDA, PyTorch where neither is or codes are dense.

The sparse bodies cost in proportion to the pairs, the dense one is blind to them; they meet where
about a fifth of all pre-activations is kept. All compute the same numbers up to rounding.
"""

from importlib.util import find_spec

import torch

from panscope.kernels import cpu, dense
from panscope.kernels.pairs import Body

DENSE_FROM = 0.2


def body_for(device: torch.device, density: float = 0.0) -> Body:
    """Choose the body for codes of which `density` is the share that is kept."""
    if density > DENSE_FROM:
        return dense
    if device.type == "cuda" and find_spec("triton"):
        from panscope.kernels import gpu  # where it is needed: Triton takes a second to import

        return gpu
    return cpu if device.type == "cpu" and cpu.available() else dense
