"""Adam for the small parameters: biases, thresholds, gains, the skip term.

Without momentum Adam keeps one moment, and a parameter moves by its learning rate times gradient
over root mean square gradient (Gemma Scope, section 3.2); with it, times the gradient's mean. The
large ones, the encoder's and decoder's rows, are updated where their gradients are made: in the
kernels' `update_`.
"""

from collections.abc import Mapping

from torch import Tensor

from panscope.kernels.pairs import BETA2, EPSILON


def step_(
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    means: Mapping[str, Tensor],
    momentum: float,
    step: int,
    rates: Mapping[str, float],
) -> None:
    """Move every parameter that has a gradient, in place; `step` counts from 1.

    Without momentum `means` are not looked at.
    """
    correction, mean_correction = (1 - BETA2**step) ** 0.5, 1 - momentum**step
    for name, gradient in gradients.items():
        moment = moments[name].mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        size = moment.sqrt().div_(correction).add_(EPSILON)
        if momentum:
            gradient = means[name].lerp_(gradient, 1 - momentum)
        parameters[name].addcdiv_(gradient, size, value=-rates[name] / mean_correction)
