"""What a plan takes on one machine: passes, memory, hours, dollars; to stream or to store."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from panscope.plan import disk
from panscope.plan.disk import TYPES, Held
from panscope.plan.machines import Machine
from panscope.plan.work import Wanted, Work
from panscope.sites import Site
from panscope.stages.train import memory
from panscope.stages.train.sweep import Spec
from panscope.store.precision import held_as

HOUR = 3600
MONTH_HOURS = 730
TIB = 1 << 40


@dataclass(frozen=True, slots=True)
class Prices:
    """Dollars: of the machine's hour, None if not given, and of a TiB of disk for a month."""

    hour: float | None = None
    tib_month: float = 20.0


@dataclass(frozen=True, slots=True)
class Source:
    """What it takes to give training its activations, one way or the other."""

    model_passes: int
    hours: float
    dollars: float | None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a recipe takes on one machine."""

    machine: Machine
    banks: int
    """Passes over the stream, or over the store."""
    train_bytes: int
    """Peak memory of training, with the live stream if it reads one."""
    too_large: tuple[str, ...]
    """The Saes that do not fit alone."""
    hours: Mapping[str, float]
    """By stage; training with what gives it activations."""
    dense_hours: float
    """What a dense trainer's products would take."""
    dollars: float | None
    streaming: Source
    storing: Source

    @property
    def fits(self) -> bool:
        """Whether the machine has the memory that training takes."""
        return self.train_bytes <= self.machine.memory_bytes

    @property
    def total_hours(self) -> float:
        """The time of all stages, one after another."""
        return sum(self.hours.values())


def cost(wanted: Wanted, store: Sequence[Held], machine: Machine, prices: Prices) -> Cost:
    """Work out what a recipe takes on a machine."""
    recipe, device = wanted.recipe, torch.device("cuda" if machine.is_gpu else "cpu")
    limit = memory.limit_bytes(recipe.train, machine.memory_bytes)
    banks = memory.packed(wanted.specs, wanted.d_at, recipe.train, device, limit)
    needs = [memory.group_bytes(bank, wanted.d_at, recipe.train, device) for bank in banks]
    is_live = recipe.source == "live"
    beside = [stream_bytes(wanted, _sites(bank)) if is_live else 0 for bank in banks]
    training = wanted.training() / machine.train_flops / HOUR
    streaming = _streaming(wanted, banks, machine, prices)
    storing = _storing(wanted, banks, store, machine, prices, training)
    source = streaming if is_live else storing
    hours = {
        "activations": source.hours,
        "train": training,
        "evaluate": _hours(wanted.evaluation(), machine),
        "describe": _hours(wanted.description(), machine),
    }
    return Cost(
        machine=machine,
        banks=len(banks),
        train_bytes=max(map(sum, zip(needs, beside, strict=True))),
        too_large=tuple(
            bank[0].sae for bank, need in zip(banks, needs, strict=True) if need > limit
        ),
        hours=hours,
        dense_hours=wanted.dense_training() / machine.train_flops / HOUR,
        dollars=_plus(source.dollars, sum(hours.values()) - source.hours, prices),
        streaming=streaming,
        storing=storing,
    )


def stream_bytes(wanted: Wanted, sites: Iterable[Site], n_buckets: int = 1) -> int:
    """Return the memory of a live stream of some sites: a bucket, a forward pass, the model.

    Writing a store takes two buckets: one goes to disk while the other is filled.
    """
    settings, model = wanted.recipe.harvest, wanted.recipe.model
    d = sum(wanted.model.d_at(site) for site in sites)
    n_passed = settings.batch_rows * wanted.recipe.text.context
    n_held = n_buckets * max(settings.bucket_tokens, n_passed)
    held = d * (n_held * held_as(settings.dtype).itemsize + n_passed * TYPES[model.dtype])
    return held + wanted.shape.n_parameters * TYPES[model.dtype]


def _streaming(
    wanted: Wanted, banks: Sequence[Sequence[Spec]], machine: Machine, prices: Prices
) -> Source:
    """Run the model once for each bank, up to the last site of the bank."""
    lengths = [wanted.tokens_of(bank[0]) for bank in banks]
    flops = sum(n * wanted.forward(_sites(bank)) for n, bank in zip(lengths, banks, strict=True))
    hours = flops / machine.model_flops / HOUR
    return Source(len(banks), hours, _plus(0.0, hours, prices))


def _storing(
    wanted: Wanted,
    banks: Sequence[Sequence[Spec]],
    store: Sequence[Held],
    machine: Machine,
    prices: Prices,
    training: float,
) -> Source:
    """Run the model once, write its activations, and read for each bank its sites.

    They are paid for from the first hour of the harvest to the last of the training.
    """
    size = TYPES[wanted.recipe.harvest.dtype]
    written = sum(site.tokens * site.d for site in store) * size + disk.columns(store)
    read = sum(wanted.tokens_of(bank[0]) * wanted.size(_sites(bank)) * size for bank in banks)
    seconds = disk.harvest(wanted, store) / machine.model_flops
    seconds += written / machine.write_bytes + read / machine.read_bytes
    hours = seconds / HOUR
    rent = written / TIB * prices.tib_month * (hours + training) / MONTH_HOURS
    return Source(1, hours, _plus(rent, hours, prices))


def _sites(bank: Sequence[Spec]) -> set[Site]:
    return {site for spec in bank for site in (*spec.reads, *spec.writes)}


def _hours(work: Work, machine: Machine) -> float:
    return (work.model / machine.model_flops + work.saes / machine.train_flops) / HOUR


def _plus(dollars: float | None, hours: float, prices: Prices) -> float | None:
    """Add what a machine's hours cost, where that is known."""
    return None if dollars is None or prices.hour is None else dollars + hours * prices.hour
