"""Adam with beta1 = 0, and a decoder that stays on the unit sphere (Gemma Scope, section 3.2).

Without momentum Adam keeps one moment instead of two, and a parameter moves by its learning rate
times gradient over root mean square gradient. The decoder's gradient loses its component along
each latent's direction before Adam sees it, and the directions are renormalised after the step.
"""

import torch

from panscope.kernels.dense import Parameters

BETA2 = 0.999
EPSILON = 1e-8


def zero_moments(parameters: Parameters) -> Parameters:
    """Start the second moments."""
    return Parameters(*(torch.zeros_like(p) for p in parameters))


def step_(
    parameters: Parameters,
    gradients: Parameters,
    moments: Parameters,
    step: int,
    learning_rate: float,
    threshold_rate: float,
) -> None:
    """Make one step in place, counted from 0; gradients are consumed."""
    project_(gradients.w_dec, parameters.w_dec)
    correction = (1 - BETA2 ** (step + 1)) ** 0.5
    rates = (*(learning_rate,) * 4, learning_rate * threshold_rate)  # in the order of Parameters
    for p, g, v, rate in zip(parameters, gradients, moments, rates, strict=True):
        v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
        p.addcdiv_(g, v.sqrt().div_(correction).add_(EPSILON), value=-rate)
    normalise_(parameters.w_dec)


def project_(gradient: torch.Tensor, directions: torch.Tensor) -> None:
    """Remove from each row of `gradient` its component along the same row of unit directions."""
    along = (gradient * directions).sum(1, keepdim=True)
    gradient.addcmul_(along, directions, value=-1)


def normalise_(directions: torch.Tensor) -> None:
    """Scale each row to unit norm."""
    directions.div_(directions.norm(dim=1, keepdim=True))
