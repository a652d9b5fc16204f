"""The sweep: a recipe's products as a list of Saes, and in which groups they are trained.

Saes that fit in memory together share each batch of the stream; what does not fit is trained in
another pass over the same stream, so no Sae's result depends on the grouping.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

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

FLOAT_BYTES = 4
DENSEST_STEP_BYTES = {"gated": 56, "relu": 40, "topk": 24, "batch_topk": 24, "jumprelu": 16}
"""For each pre-activation of a batch, while codes are dense: measured at 2,048 x 4,096."""
MEMORY_SHARE = 0.5  # of the machine's memory, when the recipe names no limit


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
            "matryoshka" if self.saes.prefixes else "",
            f"lr_{self.learning_rate:g}" if self.learning_rate else "",
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

    def architecture(self, config: Config, d_in: int, variance: float) -> Architecture:
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
                return TopK(k)
            case "batch_topk":
                return BatchTopK(k)

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


def specs(config: Config, n_layers: int) -> tuple[Spec, ...]:
    """List every Sae the recipe asks for, in the order of a forward pass.

    Raises ConfigError for one asked for twice and for transcoders whose sites do not pair up.
    """
    wanted = [spec for saes in (config, *config.more) for spec in _product(saes, config, n_layers)]
    names = [spec.sae for spec in wanted]
    if twice := next((name for name in names if names.count(name) > 1), None):
        do = "name each width, target and seed once"
        raise ConfigError("train", f"asks for {twice} twice", do)
    return tuple(sorted(wanted, key=lambda spec: spec.site.order))


def sites_of(specs: Sequence[Spec]) -> tuple[Site, ...]:
    """List the sites that some Sae reads or writes, in the order of a forward pass."""
    sites = {site for spec in specs for site in (*spec.reads, *spec.writes)}
    return tuple(sorted(sites, key=lambda site: site.order))


def _product(saes: Saes, config: Config, n_layers: int) -> list[Spec]:
    rates = saes.learning_rates or (None,)
    ends = _ends(saes, n_layers)
    product = itertools.product(ends, saes.widths, penalties(saes), rates, saes.seeds)
    return [
        Spec(reads, writes, width, penalty, rate, seed, saes)
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


def state_bytes(spec: Spec, d_at: Mapping[Site, int]) -> int:
    """Return what a Sae keeps from step to step: weights and second moments, float32."""
    d_in, d_out = (sum(d_at[site] for site in sites) for sites in (spec.reads, spec.writes))
    skip = d_in * d_out if spec.saes.kind == "skip_transcoder" else 0
    vectors = 8 * spec.width + d_out
    return 2 * FLOAT_BYTES * (spec.width * (d_in + d_out) + skip + vectors)


def step_bytes(spec: Spec, d_at: Mapping[Site, int], batch_tokens: int) -> int:
    """Return what a step needs besides, at most: inputs, errors, a packed encoder, the codes.

    Codes are at their densest in the first steps, where half of all latents may fire.
    """
    d_in, d_out = (sum(d_at[site] for site in sites) for sites in (spec.reads, spec.writes))
    dense = batch_tokens * (3 * d_in + (2 + len(spec.bounds)) * d_out) + spec.width * d_in
    codes = DENSEST_STEP_BYTES[spec.saes.architecture] * batch_tokens * spec.width
    return FLOAT_BYTES * dense + codes


def groups(
    wanted: Sequence[Spec], d_at: Mapping[Site, int], config: Config
) -> list[tuple[Spec, ...]]:
    """Split Saes, in order, into groups whose memory stays within the recipe's limit.

    Raises ConfigError if one Sae alone does not fit.
    """
    limit = int(config.memory_gb * 1e9) if config.memory_gb else _half_of_memory()
    packed: list[list[Spec]] = [[]]
    for spec in wanted:
        alone = group_bytes([spec], d_at, config)
        if alone > limit:
            found = f"needs {alone / 1e9:.1f} GB, more than the {limit / 1e9:.1f} GB it may take"
            raise ConfigError(spec.sae, found, "raise train.memory_gb, or lower its width")
        if group_bytes([*packed[-1], spec], d_at, config) > limit:
            packed.append([])
        packed[-1].append(spec)
    return [tuple(group) for group in packed]


def group_bytes(specs: Sequence[Spec], d_at: Mapping[Site, int], config: Config) -> int:
    """Return the memory of a group: everybody's state, their inputs, a step for each thread."""
    states = sum(state_bytes(spec, d_at) for spec in specs)
    ends = {ends for spec in specs for ends in (spec.reads, spec.writes)}
    inputs = config.batch_tokens * sum(d_at[site] for sites in ends for site in sites)
    steps = sorted(step_bytes(spec, d_at, config.batch_tokens) for spec in specs)
    return states + FLOAT_BYTES * inputs + sum(steps[-torch.get_num_threads() :])


def _half_of_memory() -> int:
    return int(MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
