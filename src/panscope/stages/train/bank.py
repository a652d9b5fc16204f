"""The bank: the Saes that are trained together over one stream.

Each member is on its own (parameters, moments, seed, penalty) and shares only the activations, so a
Sae trained in a bank of many equals the same Sae trained alone, to the bit on CPU.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from panscope.axes import Activations
from panscope.errors import ConfigError
from panscope.kernels import dense
from panscope.kernels.dense import Parameters
from panscope.sae.sae import Sae, fold
from panscope.sites import Site
from panscope.stages.train import optimiser
from panscope.stages.train.objective import Config, Penalty, penalties


@dataclass(frozen=True, slots=True)
class Spec:
    """One Sae of the product that a recipe asks for."""

    site: Site
    width: int
    penalty: Penalty
    seed: int

    @property
    def sae(self) -> str:
        """The Sae's id in the suite, `<site>/<name>`."""
        return f"{self.site}/w{self.width}_{self.penalty.label}_s{self.seed}"


def specs(config: Config, sites: Sequence[Site]) -> tuple[Spec, ...]:
    """List the product of sites, widths, penalties and seeds, in the order of a forward pass."""
    product = itertools.product(sites, config.widths, penalties(config), config.seeds)
    wanted = tuple(Spec(*row) for row in product)
    names = [spec.sae for spec in wanted]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            "train", f"asks for {twice} twice", "name each width, target and seed once"
        )
    return wanted


def initial(d_in: int, width: int, threshold: float, seed: int) -> Parameters:
    """Draw initial parameters: decoder He-uniform, then unit norm; encoder its transpose."""
    generator = torch.Generator().manual_seed(seed)
    bound = math.sqrt(6 / d_in)
    w_dec = torch.empty(width, d_in).uniform_(-bound, bound, generator=generator)
    optimiser.normalise_(w_dec)
    return Parameters(
        w_enc=w_dec.T.clone(memory_format=torch.contiguous_format),
        b_enc=torch.zeros(width),
        w_dec=w_dec,
        b_dec=torch.zeros(d_in),
        log_threshold=torch.full((width,), math.log(threshold)),
    )


@dataclass(slots=True)
class Member:
    """A Sae in training. `scale` brings its site's activations to unit mean square norm."""

    spec: Spec
    scale: float
    parameters: Parameters
    moments: Parameters

    @classmethod
    def begin(
        cls, spec: Spec, d_in: int, scale: float, config: Config, device: torch.device
    ) -> Self:
        """Make a member at step 0."""
        drawn = initial(d_in, spec.width, config.threshold.initial, spec.seed)
        parameters = Parameters(*(p.to(device) for p in drawn))
        return cls(spec, scale, parameters, optimiser.zero_moments(parameters))

    def step_(self, x: Activations, step: int, config: Config) -> Tensor:
        """Train on one batch of raw activations; return loss and L0, left on the device."""
        schedule = config.schedule
        done = dense.forward(x.float() / self.scale, self.parameters)
        slope = self.spec.penalty.slope(done.l0) * schedule.sparsity_at(step)
        seen = torch.stack([done.loss, done.l0])
        gradients = dense.backward(done, self.parameters, config.threshold.bandwidth, slope)
        rate = schedule.learning_rate_at(step, config.n_steps)
        optimiser.step_(self.parameters, gradients, self.moments, step, rate, config.threshold.rate)
        return seen

    def sae(self) -> Sae:
        """Fold scale and pre-encoder bias away and return the Sae."""
        p = self.parameters
        threshold = p.log_threshold.exp()
        return fold(p.w_enc, p.b_enc, p.w_dec, p.b_dec, threshold, self.scale, self.spec.site)

    def state(self) -> dict[str, Tensor]:
        """Return everything a checkpoint must hold, by name."""
        names = Parameters._fields
        return {
            **{f"{self.spec.sae}:{n}": p for n, p in zip(names, self.parameters, strict=True)},
            **{f"{self.spec.sae}:{n}:moment": v for n, v in zip(names, self.moments, strict=True)},
        }

    def load_(self, state: Mapping[str, Tensor]) -> None:
        """Take a checkpoint's tensors."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


def scale_of(x: Activations) -> float:
    """Return the number C that gives x / C a unit mean square norm (Gemma Scope, appendix B)."""
    return float(x.double().square().sum(1).mean().sqrt())
