"""What a recipe will cost before it runs: memory, passes over the text, products, disk.

Products are counted as the trainer makes them, one dense encoder product a Sae and token, two
floating point operations a weight; the model's forward pass counts two a parameter. The hours are
those of these products alone at the rate that this machine reaches in float32: a floor for the
model, and about what training takes while codes are sparse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from panscope.launch import Launch
from panscope.sites import Site
from panscope.stages.train import memory
from panscope.stages.train.pace import Product, floor_seconds
from panscope.stages.train.sweep import Spec

TIMED = Product(tokens=4096, d_in=512, width=8192)


@dataclass(frozen=True, slots=True)
class Bank:
    """Saes that are trained together in one pass over the stream."""

    saes: tuple[str, ...]
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What training a recipe's suite takes."""

    banks: tuple[Bank, ...]
    tokens: int
    train_flops: float
    model_flops: float
    suite_bytes: int
    flops_per_second: float

    @property
    def hours(self) -> float:
        """The time of all products at the machine's rate."""
        return (self.train_flops + self.model_flops) / self.flops_per_second / 3600


def plan(launch: Launch) -> Plan:
    """Work out what `launch`'s recipe costs; loads the model's configuration and weights."""
    config, model = launch.recipe.train, launch.model
    d_at = {site: model.d_at(site) for site in launch.sites}
    banks = [_bank(specs, d_at, launch) for specs in launch.banks()]
    encoders = sum(spec.width * _size(spec.reads, d_at) for spec in launch.specs)
    decoders = sum(spec.width * _size(spec.writes, d_at) for spec in launch.specs)
    n_parameters = sum(p.numel() for p in model.lm.parameters())
    passes = len(banks) if launch.recipe.source == "live" else 1
    return Plan(
        banks=tuple(banks),
        tokens=config.tokens,
        train_flops=2.0 * encoders * config.tokens,
        model_flops=2.0 * n_parameters * config.tokens * passes,
        suite_bytes=memory.FLOAT_BYTES * (encoders + decoders),
        flops_per_second=TIMED.flops / floor_seconds([TIMED], model.device),
    )


def _bank(specs: Sequence[Spec], d_at: Mapping[Site, int], launch: Launch) -> Bank:
    names = tuple(spec.sae for spec in specs)
    return Bank(names, memory.group_bytes(specs, d_at, launch.recipe.train, launch.model.device))


def _size(sites: Sequence[Site], d_at: Mapping[Site, int]) -> int:
    return sum(d_at[site] for site in sites)
