"""Worlds of known features: activations whose true dictionary is known, and scores against it.

    x = sum over features j of s_j relu(mean_j + spread_j noise) direction_j + bias

s_j says whether feature j is present. Presence is independent, or correlated by a Gaussian copula
of low rank, and may be ordered in a forest: a child is present only with its parent, and of
siblings only one at a time. Everything follows from the seed.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panscope.axes import Activations

Directions = Float[Tensor, "features d"]
PerFeature = Float[Tensor, " features"]


class Families(NamedTuple):
    """One level of the forest: the children of each parent."""

    parents: Int[Tensor, " parents"]
    children: Int[Tensor, "parents siblings"]


class Sample(NamedTuple):
    """Tokens of a world, and how strongly each feature is present in them."""

    strengths: Float[Tensor, "tokens features"]
    x: Activations


@dataclass(frozen=True, slots=True)
class World:
    """Features: their directions, how often and how strongly they come, and what binds them."""

    directions: Directions
    rates: PerFeature
    means: PerFeature
    spreads: PerFeature
    bias: Float[Tensor, " d"]
    loadings: Float[Tensor, "features factors"]
    forest: tuple[Families, ...] = ()

    def sample(self, n_tokens: int, generator: torch.Generator) -> Sample:
        """Draw tokens."""
        noise = torch.randn(n_tokens, len(self.means), generator=generator)
        present = self._present(n_tokens, generator)
        strengths = (self.means + self.spreads * noise).relu() * present
        return Sample(strengths, strengths @ self.directions + self.bias)

    def _present(
        self, n_tokens: int, generator: torch.Generator
    ) -> Bool[Tensor, "tokens features"]:
        n_features, n_factors = self.loadings.shape
        own = torch.randn(n_tokens, n_features, generator=generator)
        shared = torch.randn(n_tokens, n_factors, generator=generator)
        left = (1 - self.loadings.square().sum(1)).sqrt()
        present = own * left + shared @ self.loadings.T > torch.special.ndtri(1 - self.rates)
        for parents, children in self.forest:
            draws = torch.rand(n_tokens, *children.shape, generator=generator)
            draws *= present[:, children] & present[:, parents, None]
            best = draws.amax(2, keepdim=True)
            present[:, children] = (draws == best) & (best > 0)
        return present


def superposed(seed: int) -> World:
    """128 independent features in 64 dimensions, all equally frequent; 2.56 of them at a time."""
    generator = torch.Generator().manual_seed(seed)
    rates = torch.full((128,), 0.02)
    return _world(rates, 64, 0.0, torch.zeros(128, 0), (), generator)


def independent(seed: int) -> World:
    """256 independent features in 64 dimensions, of Zipf's frequencies, off the origin."""
    generator = torch.Generator().manual_seed(seed)
    return _world(zipf(256, 0.005, 0.2), 64, 0.5, torch.zeros(256, 0), (), generator)


def related(seed: int) -> World:
    """The independent world, its features correlated and most of them in a forest."""
    generator = torch.Generator().manual_seed(seed)
    loadings = 0.1 * torch.randn(256, 16, generator=generator)
    loadings *= (0.99 / loadings.norm(dim=1, keepdim=True)).clamp(max=1)
    forest = _forest(n_roots=16, n_siblings=3, n_levels=2)
    rates = _given_parent(zipf(256, 0.005, 0.2), forest)
    return _world(rates, 64, 0.5, loadings, forest, generator)


WORLDS = {"superposed": superposed, "independent": independent, "related": related}


def zipf(n_features: int, least: float, most: float, exponent: float = 0.5) -> PerFeature:
    """Return frequencies that fall by a power of the rank from `most` to `least`."""
    powers = torch.arange(1, n_features + 1) ** -exponent
    return least + (most - least) * (powers - powers[-1]) / (1 - powers[-1])


def _world(
    rates: PerFeature,
    d: int,
    bias_norm: float,
    loadings: Tensor,
    forest: tuple[Families, ...],
    generator: torch.Generator,
) -> World:
    """Draw directions, strengths and bias."""
    n_features = len(rates)
    bias = torch.randn(d, generator=generator)
    return World(
        directions=spread_apart(torch.randn(n_features, d, generator=generator)),
        rates=rates,
        means=torch.linspace(5, 4, n_features),
        spreads=(0.5 + 0.5 * torch.randn(n_features, generator=generator)).abs(),
        bias=bias * (bias_norm / bias.norm()),
        loadings=loadings,
        forest=forest,
    )


def spread_apart(directions: Directions, steps: int = 200, rate: float = 0.01) -> Directions:
    """Push unit vectors away from each other by gradient descent on their squared cosines."""
    w = (directions / directions.norm(dim=1, keepdim=True)).requires_grad_()
    adam = torch.optim.Adam([w], lr=rate)
    eye = torch.eye(len(w))
    for _ in range(steps):
        gram = w @ w.T
        norms = gram.diagonal()
        loss = (gram * (1 - eye)).square().sum() + len(w) * (norms - 1).square().sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return w.detach() / w.detach().norm(dim=1, keepdim=True)


def _forest(n_roots: int, n_siblings: int, n_levels: int) -> tuple[Families, ...]:
    """Number a forest breadth first: roots come first and are the most frequent."""
    levels, parents, first = [], torch.arange(n_roots), n_roots
    for _ in range(n_levels):
        children = first + torch.arange(len(parents) * n_siblings).view(-1, n_siblings)
        levels.append(Families(parents, children))
        first += children.numel()
        parents = children.flatten()
    return tuple(levels)


def _given_parent(rates: PerFeature, forest: tuple[Families, ...]) -> PerFeature:
    """Return rates that, once parents and siblings have had their say, are about `rates`."""
    given = rates.clone()
    for parents, children in forest:
        share = rates[children] / rates[parents, None]
        given[children] = (share * (1 + share.sum(1, keepdim=True) - share)).clamp(max=0.95)
    return given


class Scores(NamedTuple):
    """How well a dictionary recovers a world. `fvu` is of x about its mean."""

    mcc: float
    f1: float
    precision: float
    recall: float
    l0: float
    true_l0: float
    fvu: float
    dead: int


def score(
    sample: Sample,
    f: Float[Tensor, "tokens latents"],
    x_hat: Activations,
    w_dec: Tensor,
    d: Directions,
) -> Scores:
    """Score latents f and decoder w_dec on a sample; undefined precision or recall counts as 0."""
    cosines = unit(w_dec) @ d.T
    on, true = f != 0, (sample.strengths > 0)[:, cosines.abs().argmax(1)]
    both = (on & true).sum(0)
    precision, recall = both / on.sum(0).clamp(min=1), both / true.sum(0).clamp(min=1)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-9)
    centred = sample.x - sample.x.mean(0)
    return Scores(
        mcc=mean_correlation(cosines.abs().numpy()),
        f1=float(f1.mean()),
        precision=float(precision.mean()),
        recall=float(recall.mean()),
        l0=float(on.sum(1).float().mean()),
        true_l0=float((sample.strengths > 0).sum(1).float().mean()),
        fvu=float((x_hat - sample.x).square().sum() / centred.square().sum()),
        dead=int((~on.any(0)).sum()),
    )


def unit(w: Tensor) -> Tensor:
    """Scale rows to unit norm; rows of zeros stay."""
    return w / w.norm(dim=1, keepdim=True).clamp(min=1e-12)


def mean_correlation(similarity: Float[np.ndarray, "latents features"]) -> float:
    """Return the mean over the best one-to-one pairs: MCC, when given absolute cosines."""
    few, many = sorted(similarity.shape)
    wide = similarity if similarity.shape[0] == few else similarity.T
    assert wide.shape == (few, many)
    rows = np.arange(few)
    return float(wide[rows, assignment(-wide)].mean())


def assignment(cost: Float[np.ndarray, "rows columns"]) -> Int[np.ndarray, " rows"]:
    """Give each row its own column so that the costs' sum is least; rows <= columns.

    The Hungarian method by shortest augmenting paths: prices on rows and columns keep all reduced
    costs at 0 or more, and each new row pushes those in its way along the cheapest path.
    """
    n_rows, n_columns = cost.shape
    row_price, column_price = np.zeros(n_rows), np.zeros(n_columns)
    owner = np.full(n_columns, -1)
    for new in range(n_rows):
        distance, came_from = np.full(n_columns, math.inf), np.full(n_columns, -1)
        reached, column, row, length = np.zeros(n_columns, bool), -1, new, 0.0
        while row != -1:
            offer = length + cost[row] - row_price[row] - column_price
            better = ~reached & (offer < distance)
            distance[better], came_from[better] = offer[better], column
            column = int(np.where(reached, math.inf, distance).argmin())
            reached[column], length, row = True, distance[column], owner[column]
        row_price[new] += length
        inside = np.flatnonzero(reached & (owner >= 0))
        row_price[owner[inside]] += length - distance[inside]
        column_price[reached] -= length - distance[reached]
        while column != -1:
            before = came_from[column]
            owner[column] = owner[before] if before != -1 else new
            column = before
    answer = np.empty(n_rows, int)
    answer[owner[owner >= 0]] = np.flatnonzero(owner >= 0)
    return answer
