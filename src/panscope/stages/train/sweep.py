"""The sweep: a recipe's products as a list of Saes."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from panscope.dist import ALONE, Group
from panscope.errors import ConfigError
from panscope.sites import Site, match_sites
from panscope.stages.train.architectures import (
    Architecture,
    BatchTopK,
    Gated,
    JumpReLU,
    ReLU,
    TopK,
)
from panscope.stages.train.course import thresholds
from panscope.stages.train.objective import Config, Penalty, Saes, penalties


@dataclass(frozen=True, slots=True)
class Spec:
    """One Sae of the product that a recipe asks for."""

    reads: tuple[Site, ...]
    writes: tuple[Site, ...]
    width: int
    penalty: Penalty
    learning_rate: float | None
    """None for the schedule's, or its rule."""
    seed: int
    n_steps: int
    saes: Saes
    """The product it comes from, for what all its Saes share."""

    @property
    def sae(self) -> str:
        """The Sae's id in the suite, `<site it writes>/<name>`."""
        return f"{self.site}/{self.name}"

    @property
    def site(self) -> Site:
        """The site a Sae is listed under: the first it writes."""
        return self.writes[0]

    @property
    def name(self) -> str:
        """What tells it from the other Saes of its site."""
        parts = [
            "" if self.saes.kind == "autoencoder" else self.saes.kind,
            "" if self.reads == self.writes else "from_" + "+".join(map(str, self.reads)),
            "" if self.saes.architecture == "jumprelu" else self.saes.architecture,
            f"w{self.width}",
            self.penalty.label,
            f"lr_{self.learning_rate:g}" if self.learning_rate else "",
            *_told_apart(self.saes),
            f"s{self.seed}",
        ]
        return "_".join(part for part in parts if part)

    @property
    def bounds(self) -> tuple[int, ...]:
        """The prefixes that rebuild the target by themselves; the last is the width."""
        return (*self.saes.prefixes, self.width)

    @property
    def centres(self) -> bool:
        """Whether the decoder's bias is subtracted from the input, as autoencoders do."""
        return self.saes.kind in ("autoencoder", "crosscoder")

    @property
    def takes_k(self) -> bool:
        """Whether its sparsity is a k rather than a penalty."""
        return self.saes.architecture in ("topk", "batch_topk")

    def architecture(
        self, config: Config, d_in: int, variance: float, group: Group = ALONE
    ) -> Architecture:
        """Return its row of the table of architectures, for inputs of this size and variance."""
        k = int(getattr(self.penalty, "target_l0", 0))
        match self.saes.architecture:
            case "jumprelu":
                return JumpReLU(*thresholds(config.threshold, d_in, self.width, variance))
            case "relu":
                return ReLU()
            case "gated":
                return Gated()
            case "topk":
                return TopK(k, group)
            case "batch_topk":
                return BatchTopK(k, group)

    def facts(self) -> dict[str, Any]:
        """What the suite's manifest says of it."""
        return {
            "sae": self.sae,
            "site": str(self.site),
            "reads": [str(site) for site in self.reads],
            "writes": [str(site) for site in self.writes],
            "kind": self.saes.kind,
            "architecture": self.saes.architecture,
            "width": self.width,
            **self.penalty.model_dump(),
            "prefixes": list(self.saes.prefixes),
            "seed": self.seed,
        }


def _told_apart(saes: Saes) -> Iterator[str]:
    """Yield what a product has that is not the default, so that two may differ in that alone."""
    if saes.prefixes:
        yield "_".join(map(str, ("matryoshka", *saes.prefixes)))
    usual = _strengths(Saes.model_construct())
    for name, strength in _strengths(saes).items():
        if strength != usual[name]:
            yield f"{name}_{strength:g}"


def _strengths(saes: Saes) -> dict[str, float]:
    return {
        "strength": saes.target_strength,
        "frequency": saes.frequency.strength,
        "preact": saes.revive.preact_strength,
        "aux": saes.revive.aux_strength,
    }


def named(config: Config, sites: Callable[[Sequence[str]], Sequence[Site]]) -> Config:
    """Return a configuration that calls sites by their own names, as `sites` finds them."""

    def found(saes: Saes) -> dict[str, tuple[str, ...]]:
        asked = {"sites": saes.sites, "writes": saes.writes}
        return {key: tuple(map(str, sites(names))) for key, names in asked.items()}

    more = tuple(saes.model_copy(update=found(saes)) for saes in config.more)
    return config.model_copy(update={**found(config), "more": more})


def specs(config: Config, n_layers: int) -> tuple[Spec, ...]:
    """List every Sae the recipe asks for, in the order of a forward pass.

    Raises ConfigError for one asked for twice and for transcoders whose sites do not pair up.
    """
    wanted = [spec for saes in (config, *config.more) for spec in _product(saes, config, n_layers)]
    names = [spec.sae for spec in wanted]
    if twice := next((name for name in names if names.count(name) > 1), None):
        do = "name each width, target, rate, strength and seed once"
        raise ConfigError("train", f"asks for {twice} twice", do)
    return tuple(sorted(wanted, key=lambda spec: spec.site.order))


def sites_of(specs: Sequence[Spec]) -> tuple[Site, ...]:
    """List the sites that some Sae reads or writes, in the order of a forward pass."""
    sites = {site for spec in specs for site in (*spec.reads, *spec.writes)}
    return tuple(sorted(sites, key=lambda site: site.order))


def _product(saes: Saes, config: Config, n_layers: int) -> list[Spec]:
    rates = saes.learning_rates or (None,)
    ends, n_steps = _ends(saes, n_layers), config.steps_of(saes)
    product = itertools.product(ends, saes.widths, penalties(saes), rates, saes.seeds)
    return [
        Spec(reads, writes, width, penalty, rate, seed, n_steps, saes)
        for (reads, writes), width, penalty, rate, seed in product
    ]


def _ends(saes: Saes, n_layers: int) -> list[tuple[tuple[Site, ...], tuple[Site, ...]]]:
    """List what each Sae of a product reads and writes."""
    reads = match_sites(saes.sites, n_layers)
    if saes.kind == "crosscoder":
        return [(reads, reads)]
    writes = match_sites(saes.writes, n_layers) if saes.writes else reads
    if saes.writes and set(reads) & set(writes):
        do = "name other sites to write, or ask for an autoencoder"
        raise ConfigError("train.writes", "a transcoder would write what it reads", do)
    if len(reads) != len(writes):
        found = f"reads {len(reads)} sites and writes {len(writes)}"
        raise ConfigError("train.writes", found, "name as many sites to write as to read")
    return [((read,), (write,)) for read, write in zip(reads, writes, strict=True)]
