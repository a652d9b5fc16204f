"""What training minimises and how its strengths change over time: the Gemma Scope recipe.

The defaults are the paper's numbers (Lieberum et al. 2024, arXiv:2408.05147, section 3.2). They
presume a million steps; short runs scale the schedules and rates in their recipe. Departures, all
off by default: `decay_share` (the paper names no decay), `rate` of the threshold (the paper trains
it at the common rate, which in a few hundred steps would not move a log-threshold at all), and the
target-L0 penalty (JumpReLU paper, arXiv:2407.14435, on targeting a fixed sparsity).
"""

import math
from typing import Annotated

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from panscope import config

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0)]
Steps = Annotated[int, Field(ge=0)]
Some = Field(min_length=1)


class Schedule(config.Config):
    """How the learning rate and the sparsity penalty change over the steps."""

    learning_rate: Positive = 7e-5
    warmup_steps: Steps = 1000
    """Cosine from a tenth of the rate to the whole of it."""
    decay_share: Share = 0.0
    """The last share of all steps over which the rate falls linearly to nothing."""
    sparsity_warmup_steps: Steps = 10_000
    """Linear, from no penalty to the whole of it."""

    def learning_rate_at(self, step: int, n_steps: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        warm = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        rise = 0.1 + 0.9 * 0.5 * (1 - math.cos(math.pi * warm))
        left = (n_steps - step) / (self.decay_share * n_steps) if self.decay_share else 1.0
        return self.learning_rate * rise * min(1.0, left)

    def sparsity_at(self, step: int) -> float:
        """Return the share of the penalty that applies at a step."""
        return min(1.0, step / self.sparsity_warmup_steps) if self.sparsity_warmup_steps else 1.0


class Threshold(config.Config):
    """The thresholds: their start, the width of the kernel that trains them, their own rate."""

    initial: Positive = 0.001
    bandwidth: Positive = 0.001
    rate: Positive = 1.0
    """The thresholds' learning rate as a multiple of the common one."""


class Config(config.Config):
    """A suite to train: the product of sites, widths, sparsities and seeds, over one stream."""

    sites: Annotated[tuple[str, ...], Some] = ("resid_post.*", "mlp_out.*", "attn_z.*")
    widths: Annotated[tuple[Count, ...], Some] = (16_384,)
    sparsity: tuple[Positive, ...] = ()
    """Strengths of the L0 penalty (lambda), one Sae each."""
    target_l0: tuple[Positive, ...] = ()
    """Wanted mean L0, one Sae each; `sparsity` and `target_l0` exclude each other."""
    target_strength: Positive = 1.0
    """Strength of the quadratic penalty of a target L0."""
    seeds: Annotated[tuple[int, ...], Some] = (0,)
    tokens: Count = 4_000_000_000
    batch_tokens: Count = 4096
    schedule: Schedule = Schedule()
    threshold: Threshold = Threshold()
    checkpoint_steps: Count = 200

    @model_validator(mode="after")
    def _one_penalty(self) -> "Config":
        if bool(self.sparsity) == bool(self.target_l0):
            raise ValueError("give either sparsity or target_l0, one value or more")
        too_high = [l0 for l0 in self.target_l0 if l0 >= min(self.widths, default=0)]
        if too_high:
            raise ValueError(f"target_l0 {too_high[0]:g} is not below the width")
        if self.tokens < self.batch_tokens:
            raise ValueError("tokens is less than one batch")
        return self

    @property
    def n_steps(self) -> int:
        """The number of whole batches in `tokens`."""
        return self.tokens // self.batch_tokens


class L0Penalty(config.Config):
    """Sparsity by price: `sparsity` times the mean L0 (lambda of the paper)."""

    sparsity: float

    @property
    def label(self) -> str:
        """How a Sae's name says it."""
        return f"lambda_{self.sparsity:g}"

    def slope(self, l0: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return d penalty / d mean L0."""
        return l0.new_full((), self.sparsity)


class TargetL0(config.Config):
    """Sparsity by target: target_strength * (L0 / target_l0 - 1)^2 of the batch's mean L0."""

    target_l0: float
    target_strength: float

    @property
    def label(self) -> str:
        """How a Sae's name says it."""
        return f"l0_{self.target_l0:g}"

    def slope(self, l0: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return d penalty / d mean L0."""
        return (2 * self.target_strength / self.target_l0) * (l0 / self.target_l0 - 1)


Penalty = L0Penalty | TargetL0


def penalties(config: Config) -> tuple[Penalty, ...]:
    """List the penalties a recipe asks for, one Sae each."""
    by_price = tuple(L0Penalty(sparsity=s) for s in config.sparsity)
    strength = config.target_strength
    by_target = tuple(TargetL0(target_l0=t, target_strength=strength) for t in config.target_l0)
    return by_price or by_target
