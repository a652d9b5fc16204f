"""The course of a run, step by step, and the rules for what a recipe leaves open.

Adam moves every number by about its learning rate a step, so the rate must fall as runs get longer.
The natural unit is 1 / sqrt(d): the size of a unit row's numbers, and the spread
of a pre-activation of inputs of unit mean square norm. The measurements behind the rules are in
`docs/decisions.md`, "Rules for short and long runs".
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

from panscope.stages.train.objective import Schedule, Threshold

Number = TypeVar("Number", int, float)

STEPS = 12
"""sqrt(12 / 1e6) / sqrt(2304) = 7.2e-5, the paper's rate at the paper's length."""
MOST = 0.08
"""Above it latents die, even in the shortest runs."""
KERNEL = 1.5
"""The width of the thresholds' kernel, in spreads of a pre-activation. 1 leaves related features
unfound, 2 to 4 find fewer again; real activations do not tell them apart."""
NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Course:
    """A schedule with nothing left open."""

    n_steps: int
    learning_rate: float
    momentum: float
    bias_rate: float
    warmup_steps: int
    decay_share: float
    sparsity_warmup_steps: int

    def share_of_rate_at(self, step: int) -> float:
        """Return the share of the learning rate that applies at a step, counted from 0."""
        warm = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        rise = 0.1 + 0.9 * 0.5 * (1 - math.cos(math.pi * warm))
        left = (self.n_steps - step) / (self.decay_share * self.n_steps) if self.decay_share else 1
        return rise * min(1.0, left)

    def warmed_at(self, step: int) -> float:
        """Return how far the sparsity penalty's warm-up has come at a step, from 0 to 1."""
        return min(1.0, step / self.sparsity_warmup_steps) if self.sparsity_warmup_steps else 1.0


def course(given: Schedule, n_steps: int, d_in: int, rate: float | None = None) -> Course:
    """Fill in what a recipe's schedule leaves open, for inputs of `d_in`; a given `rate` rules."""
    rate = given.learning_rate if rate is None else rate
    return Course(
        n_steps=n_steps,
        learning_rate=_or(rate, learning_rate(n_steps, d_in, given.momentum)),
        momentum=given.momentum,
        bias_rate=given.bias_rate,
        warmup_steps=_or(given.warmup_steps, min(1000, n_steps // 16)),
        decay_share=_or(given.decay_share, 0.3),
        sparsity_warmup_steps=_or(given.sparsity_warmup_steps, sparsity_warmup(n_steps)),
    )


def learning_rate(n_steps: int, d_in: int, momentum: float) -> float:
    """Return the rate for a run of so many steps over inputs of `d_in`.

    In units of a number of a unit row, 1 / sqrt(d): without momentum the paper's 7e-5 for a million
    steps at 2,304, growing as 1 / sqrt(steps) to `MOST` in short runs. A mean of gradients
    jitters less than one of them: at 0.9 as little with 4.4 times the rate, and the best of the
    rates that were tried lie at 2 to 3 times.
    """
    alone = min(MOST, math.sqrt(STEPS / n_steps)) / math.sqrt(d_in)
    return alone * math.cbrt((1 + momentum) / (1 - momentum))


def sparsity_warmup(n_steps: int) -> int:
    """Return over how many steps the sparsity penalty comes.

    The slower, the more features are found and the fewer latents die, but a run of a thousand steps
    has none to spare: a quarter of that, half of four thousand and more, at most 10,000.

    >>> [sparsity_warmup(n) for n in (500, 1000, 2000, 4000, 1_000_000)]
    [125, 250, 707, 2000, 10000]
    """
    share = min(max(math.sqrt(n_steps / 1000), 1.0), 2.0) / 4
    return min(10_000, int(share * n_steps))


def thresholds(given: Threshold, d_in: int, width: int, variance: float) -> tuple[float, float]:
    """Return where thresholds start and the width of their kernel.

    With unit rows the untrained pre-activations of inputs of this `variance` are about normal, with
    a spread of sqrt(variance / d_in). Thresholds start where what passes them rebuilds an input of
    the right size: lower ones overshoot, and the first steps are lost; higher ones leave latents
    that never fire.
    """
    spread = math.sqrt(variance / d_in)
    initial: float = _or(given.initial, start(d_in / width) * spread)
    bandwidth: float = _or(given.bandwidth, KERNEL * spread)
    return initial, bandwidth


def start(share: float) -> float:
    """Return t, at least 1, where E[u^2; u > t] of a standard normal u is `share`.

    Tied unit rows rebuild x from all latents above t times the spread as width / d_in times
    E[u^2; u > t] times x.

    >>> round(start(1 / 8), 2)
    2.03
    """
    low, high = 1.0, 6.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        passed = middle * NORMAL.pdf(middle) + NORMAL.cdf(-middle)
        low, high = (middle, high) if passed > share else (low, middle)
    return low


def _or(given: Number | None, rule: Number) -> Number:
    """Take what the recipe gives, or what the rule says."""
    return rule if given is None else given
