"""A crowd of features to time steps on: activations, and sparse weights to start from.

Four features a dimension, about twenty at a time, their frequencies a power of their rank; two
per cent of noise. The weights are those of a trained Sae without its training: each latent reads
and writes a feature, disturbed, and its threshold lets through its share of the wanted L0.
"""

from collections.abc import Callable

import torch
from peers import Start
from torch import Tensor
from worlds import World, unit

PRESENT = 20.0
NOISE = 0.02
DISTURBANCE = 0.3
BANDWIDTH = 0.02


def crowd(d: int, generator: torch.Generator) -> World:
    """Draw four random directions a dimension."""
    n_features = 4 * d
    powers = torch.arange(1, n_features + 1) ** -0.75
    return World(
        directions=unit(torch.randn(n_features, d, generator=generator)),
        rates=(PRESENT * powers / powers.sum()).clamp(max=0.5),
        means=torch.ones(n_features),
        spreads=torch.full((n_features,), 0.5),
        bias=torch.zeros(d),
        loadings=torch.zeros(n_features, 0),
    )


def activations(world: World, n_tokens: int, generator: torch.Generator) -> Tensor:
    """Draw activations of unit mean square norm."""
    x = world.sample(n_tokens, generator).x
    x /= x.square().sum(1).mean().sqrt()
    noise = torch.randn(x.shape, generator=generator) * (NOISE / x.shape[1]) ** 0.5
    return (1 - NOISE) ** 0.5 * x + noise


def weights(
    world: World, x: Tensor, width: int, generator: torch.Generator
) -> Callable[[int], Start]:
    """Make weights for `x`, up to the thresholds, which give each mean L0."""
    n_features, d = world.directions.shape
    feature = torch.arange(width) % n_features
    disturbance = unit(torch.randn(width, d, generator=generator))
    rows = unit(world.directions[feature] + DISTURBANCE * disturbance)
    mean, rates = x.mean(0), world.rates[feature]
    z = (x - mean) @ rows.T
    ordered = z.sort(0).values

    def start_at(l0: int) -> Start:
        return Start(
            w_enc=rows,
            b_enc=torch.zeros(width),
            w_dec=rows,
            b_dec=mean,
            threshold=quantiles(ordered, 1 - rates * (l0 / rates.sum())),
            l0=l0,
            bandwidth=BANDWIDTH,
            n_tokens=len(x),
        )

    return start_at


def quantiles(ordered: Tensor, share: Tensor) -> Tensor:
    """Return each column's own quantile; columns ascend."""
    rank = (share * len(ordered)).long().clamp(0, len(ordered) - 1)
    return ordered.gather(0, rank[None]).squeeze(0)
