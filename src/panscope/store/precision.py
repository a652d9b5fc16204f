"""How exactly a store keeps numbers: bfloat16, float16, float32, or int8 with scales.

| dtype    | bytes | relative error       | largest value |
|----------|-------|----------------------|---------------|
| float32  | 4     | 0 to a float32 model | 3e38          |
| float16  | 2     | 0.02 %               | 65,504        |
| bfloat16 | 2     | 0.17 %               | 3e38          |
| int8     | 1     | 0.7 %                | 3e38          |

An int8 value stands for itself x the scale of its vector x the scale of its dimension: a
dimension's is its root mean square in the shard, a vector's makes its largest value 127. Residual
streams have dimensions, and some tokens, a hundred times the size of others; one scale a vector
(0.8 to 2.4 % at the pocket model's sites) loses the small dimensions, one a dimension (0.7 to
1.2 %) the ordinary tokens, both together (0.67 to 0.76 %) neither.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from panscope.axes import Activations
from panscope.errors import ConfigError
from panscope.sites import Site

DType = Literal["bfloat16", "float16", "float32", "int8"]
ACTIVATIONS, OF_VECTORS, OF_DIMENSIONS = "activations", "vector_scales", "dimension_scales"
LARGEST = 127


class Error(NamedTuple):
    """The squared difference between values and what a store keeps of them; a monoid."""

    difference: float = 0.0
    total: float = 0.0

    @classmethod
    def of(cls, exact: Activations, kept: Activations) -> Self:
        """Compare values, in float32, with what is kept of them."""
        difference = (kept.float() - exact).double().square().sum()
        return cls(float(difference), float(exact.double().square().sum()))

    def merge(self, other: "Error") -> "Error":
        """Add what another shard has."""
        return Error(self.difference + other.difference, self.total + other.total)

    @property
    def relative(self) -> float:
        """The root mean square of the difference over that of the values."""
        return float((self.difference / self.total) ** 0.5) if self.total else 0.0


def held_as(dtype: DType) -> torch.dtype:
    """Return the type in which values wait in memory until a shard is written."""
    kept: torch.dtype = getattr(torch, dtype)
    return torch.float32 if dtype == "int8" else kept


def refuse_overflow(site: Site, values: Activations) -> None:
    """Raise ConfigError for values that float16 cannot hold and has made infinite."""
    if values.dtype is torch.float16 and (n_lost := int((~values.isfinite()).sum())):
        found = f"{n_lost:,} values are not finite as float16, whose largest is 65,504"
        raise ConfigError(f"site {site}", found, 'set harvest.dtype = "bfloat16" or "float32"')


def encoded(site: Site, values: Activations, dtype: DType) -> dict[str, Tensor]:
    """Return the tensors that a store's file keeps of values held as `held_as(dtype)`.

    Raises ConfigError for values that are not finite and have no scale.
    """
    if dtype != "int8":
        return {ACTIVATIONS: values}
    dimensions = values.square().mean(0).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    units = values / dimensions
    vectors = units.abs().amax(1) / LARGEST
    if not bool(vectors.isfinite().all()):
        raise ConfigError(f"site {site}", "values are not finite", "see what the model does there")
    codes = units.div_(vectors.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round_()
    return {ACTIVATIONS: codes.to(torch.int8), OF_VECTORS: vectors, OF_DIMENSIONS: dimensions}


def lost(tensors: Mapping[str, Tensor], exact: Activations) -> Error:
    """Measure what a file keeps of its first vectors against those vectors in float32."""
    n = len(exact)
    of_first = {k: v if k == OF_DIMENSIONS else v[:n] for k, v in tensors.items()}
    return Error.of(exact, decoded(of_first))


def decoded(tensors: Mapping[str, Tensor]) -> Activations:
    """Return the values of a store's file: a view of it, or of int8 the products in float32."""
    if OF_VECTORS not in tensors:
        return tensors[ACTIVATIONS]
    values = tensors[ACTIVATIONS] * tensors[OF_DIMENSIONS]
    return values.mul_(tensors[OF_VECTORS][:, None])
