"""Probes that tell the two sets apart: a few latents, against directions of the whole stream.

All are fitted on one half and measured on the other. *k latents*: logistic regression on the k with
the largest effect. *Difference of means*: the direction between the sets' means, its threshold half
way. *Logistic regression*: on all dimensions of what the Sae reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from panscope.stages.contrast.difference import ranked
from panscope.stages.contrast.pooled import Pooled
from panscope.stages.contrast.prompts import Prompts

MOST_STEPS = 100
PENALTY = 1e-2  # times half the squared weights, on standardised values
Values = Float[Tensor, "prompts d"]
Scores = Float[Tensor, " prompts"]


@dataclass(frozen=True, slots=True)
class Quality:
    """Of a probe on the held-out half."""

    accuracy: float
    auroc: float


def probes(
    pooled: Pooled, prompts: Prompts, effects: Float[Tensor, " latents"], ks: Sequence[int]
) -> dict[str, Quality]:
    """Fit and measure all probes of one Sae, by name."""
    order = effects.abs().argsort(descending=True, stable=True)
    best = {f"{k} latent{'s' * (k > 1)}": pooled.latents[:, order[:k]] for k in ks}
    scores = {name: logistic(values, prompts) for name, values in best.items()}
    scores["difference of means"] = difference_of_means(pooled.activations, prompts)
    scores["logistic regression"] = logistic(pooled.activations, prompts)
    return {name: _quality(score, prompts) for name, score in scores.items()}


def difference_of_means(values: Values, prompts: Prompts) -> Scores:
    """Score every prompt along the direction between the means; positive is set a."""
    train, is_a = ~prompts.is_test, prompts.is_a
    a, b = values[train & is_a].mean(0), values[train & ~is_a].mean(0)
    return (values - (a + b) / 2) @ (a - b)


def logistic(values: Values, prompts: Prompts) -> Scores:
    """Score every prompt by logistic regression; positive is set a, however large the sets are.

    Newton's method on the penalised loss, in float64; a step that overshoots is halved.
    """
    train, y = ~prompts.is_test, prompts.is_a.double()
    x = _standardised(values.double(), train)
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    share = y[train].mean()
    counts = torch.where(prompts.is_a, 1 / share, 1 / (1 - share))[train] / 2 / train.sum()
    fit = _Fit(x[train], y[train], counts)
    weights = torch.zeros(x.shape[1], dtype=x.dtype)
    for _ in range(MOST_STEPS):
        step = fit.step(weights)
        while step.abs().max() > 1e-8 and fit.loss(weights - step) > fit.loss(weights):
            step = step / 2
        weights = weights - step
        if step.abs().max() <= 1e-8:
            break
    return x @ weights


class _Fit(NamedTuple):
    """A penalised logistic loss; the last column of x is of ones, and its weight costs nothing."""

    x: Values
    y: Scores
    counts: Scores

    def loss(self, weights: Tensor) -> Tensor:
        nats = binary_cross_entropy_with_logits(
            self.x @ weights, self.y, self.counts, reduction="sum"
        )
        return nats + PENALTY / 2 * weights[:-1].square().sum()

    def step(self, weights: Tensor) -> Tensor:
        p = (self.x @ weights).sigmoid()
        penalty = torch.full_like(weights, PENALTY)
        penalty[-1] = 1e-9  # keeps what is solved from being singular
        slope = self.x.T @ (self.counts * (p - self.y)) + penalty * weights
        bend = (self.x.T * (self.counts * p * (1 - p))) @ self.x + penalty.diag()
        solved: Tensor = torch.linalg.solve(bend, slope)
        return solved


def _standardised(values: Values, train: Bool[Tensor, " prompts"]) -> Values:
    """Take the mean off and divide by the deviation of the half that is fitted on."""
    spread = values[train].std(0)
    return (values - values[train].mean(0)) / torch.where(spread > 0, spread, 1.0)


def _quality(scores: Scores, prompts: Prompts) -> Quality:
    test = prompts.is_test
    score, is_a = scores[test].double(), prompts.is_a[test]
    hits = (score > 0) == is_a
    balanced = (hits[is_a].double().mean() + hits[~is_a].double().mean()) / 2
    return Quality(float(balanced), float(ranked(score[:, None], is_a).auroc[0]))
