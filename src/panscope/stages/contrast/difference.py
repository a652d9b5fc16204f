"""How far each feature differs between two sets, and whether that is more than chance.

The effect is Cohen's d, by which features are chosen, on the half they are found on. On the other
half: AUROC, the chance that a prompt of set a has the larger value (ties count half), and the
p-value of the same ranks (Mann and Whitney 1947, normal approximation with ties and continuity),
corrected over all features by Benjamini and Hochberg (1995).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ByPrompt = Float[Tensor, "prompts latents"]
PerLatent = Float[Tensor, " latents"]


class Ranked(NamedTuple):
    """Of each feature, on the held-out half."""

    auroc: PerLatent
    p: PerLatent


def effect(values: ByPrompt, is_a: Bool[Tensor, " prompts"]) -> PerLatent:
    """Return Cohen's d: the difference of means over the pooled deviation; 0 if constant."""
    a, b = values[is_a].double(), values[~is_a].double()
    n_a, n_b = len(a), len(b)
    squares = (n_a - 1) * a.var(0) + (n_b - 1) * b.var(0)
    spread = (squares / (n_a + n_b - 2)).sqrt()
    return torch.where(spread > 0, (a.mean(0) - b.mean(0)) / spread, 0.0).float()


def ranked(values: ByPrompt, is_a: Bool[Tensor, " prompts"]) -> Ranked:
    """Return AUROC and two-sided p-value of each feature; 0.5 and 1 for one that is constant."""
    columns = values.T.contiguous()
    ordered = columns.sort(1).values
    below = torch.searchsorted(ordered, columns)
    up_to = torch.searchsorted(ordered, columns, right=True)
    ranks = (below + up_to + 1).double() / 2
    n, n_a = len(is_a), int(is_a.sum())
    n_pairs = n_a * (n - n_a)
    wins = ranks[:, is_a].sum(1) - n_a * (n_a + 1) / 2
    ties = ((up_to - below).double().square() - 1).sum(1)
    deviation = (n_pairs / 12 * (n + 1 - ties / (n * (n - 1)))).clamp(min=0).sqrt()
    distance = ((wins - n_pairs / 2).abs() - 0.5).clamp(min=0)
    p = torch.erfc(distance / deviation.clamp(min=1e-12) / 2**0.5)
    return Ranked((wins / n_pairs).float(), torch.where(deviation > 0, p, 1.0))


def discovered(p: Float[Tensor, " tests"]) -> Float[Tensor, " tests"]:
    """Return each test's q: the smallest false discovery rate at which it is still kept."""
    ordered, order = p.double().sort()
    steps = ordered * len(p) / torch.arange(1, len(p) + 1)
    smallest = steps.flip(0).cummin(0).values.flip(0).clamp(max=1)
    return torch.empty_like(smallest).scatter_(0, order, smallest)
