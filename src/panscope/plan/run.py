"""The plan of a recipe: its parts, its activations, its operations, its cost on each machine.

Nothing is loaded but the model's shape. Everything follows from that, the recipe and the machines'
rates; `cost` and `work` say how.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from panscope.plan import disk
from panscope.plan.cost import Cost, Prices, cost, stream_bytes
from panscope.plan.disk import TYPES, Held
from panscope.plan.machines import Machine
from panscope.plan.work import Wanted
from panscope.sites import Site
from panscope.stages.train.memory import FLOAT_BYTES
from panscope.stages.train.objective import Saes
from panscope.stages.train.sweep import Spec, sites_of


@dataclass(frozen=True, slots=True)
class Part:
    """One product of the recipe."""

    kind: str
    architecture: str
    sites: str
    widths: tuple[int, ...]
    n_sites: int
    n_saes: int
    tokens: int
    """What each of its Saes is trained on."""
    train_flops: float
    dense_flops: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe takes."""

    parts: tuple[Part, ...]
    is_stored: bool
    """Whether training reads a store; otherwise `activations` is what one would hold."""
    activations: tuple[Held, ...]
    columns_bytes: int
    dtype: str
    """Of the activations, as the recipe has it."""
    harvest_bytes: int
    """Peak memory of writing all sites into a store at once."""
    log_bytes: float
    """What `describe` needs on the disk until its features are made."""
    flops: Mapping[str, float]
    """By stage. `harvest` is one pass that fills the store; what streaming takes, a machine's."""
    costs: tuple[Cost, ...]

    @property
    def tokens(self) -> int:
        """The text that the longest training reads."""
        return max(part.tokens for part in self.parts)

    @property
    def suite_bytes(self) -> int:
        """The weights of all Saes."""
        return sum(part.bytes for part in self.parts)

    def activation_bytes(self, dtype: str) -> int:
        """Return what a store takes: activations of a type at all sites, and the columns."""
        return sum(site.size(dtype) for site in self.activations) + self.columns_bytes

    def tree(self) -> dict[str, Any]:
        """Return all numbers as plain values."""
        totals = {dtype: self.activation_bytes(dtype) for dtype in TYPES}
        sites = [
            {**asdict(site), "bytes": {dtype: site.size(dtype) for dtype in TYPES}}
            for site in self.activations
        ]
        costs = [{**asdict(cost), "total_hours": cost.total_hours} for cost in self.costs]
        tree = {**asdict(self), "activations": sites, "activation_bytes": totals, "costs": costs}
        return {**tree, "tokens": self.tokens, "suite_bytes": self.suite_bytes}


def plan(wanted: Wanted, machines: Sequence[Machine], prices: Prices) -> Plan:
    """Work out what a recipe takes, in total and on each of some machines."""
    recipe, store = wanted.recipe, disk.held(wanted)
    evaluation, description = wanted.evaluation(), wanted.description()
    flops = {
        "harvest": disk.harvest(wanted, store),
        "train": wanted.training(),
        "train, dense": wanted.dense_training(),
        "evaluate": evaluation.model + evaluation.saes,
        "describe": description.model + description.saes,
    }
    return Plan(
        parts=_parts(wanted),
        is_stored=recipe.source == "store",
        activations=store,
        columns_bytes=disk.columns(store),
        dtype=recipe.harvest.dtype,
        harvest_bytes=stream_bytes(wanted, map(Site.parse, (held.site for held in store)), 2),
        log_bytes=disk.log(wanted),
        flops=flops,
        costs=tuple(cost(wanted, store, machine, prices) for machine in machines),
    )


def _parts(wanted: Wanted) -> tuple[Part, ...]:
    """Describe the products, in the order of the recipe."""
    asked, named = wanted.recipe.train, wanted.train
    return tuple(
        _part(wanted, saes, [spec for spec in wanted.specs if spec.saes is same])
        for saes, same in zip((asked, *asked.more), (named, *named.more), strict=True)
    )


def _part(wanted: Wanted, saes: Saes, specs: Sequence[Spec]) -> Part:
    n_tokens = wanted.tokens_of(specs[0])
    ends = [", ".join(patterns) for patterns in (saes.sites, saes.writes) if patterns]
    return Part(
        kind=saes.kind,
        architecture=saes.architecture,
        sites=" to ".join(ends),
        widths=saes.widths,
        n_sites=len(sites_of(specs)),
        n_saes=len(specs),
        tokens=n_tokens,
        train_flops=n_tokens * sum(map(wanted.encoder, specs)),
        dense_flops=n_tokens * sum(map(wanted.dense, specs)),
        bytes=FLOAT_BYTES * sum(map(wanted.weights, specs)),
    )
