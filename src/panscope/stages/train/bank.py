"""The bank: the Saes that are trained together over one stream.

Each member is on its own (parameters, moments, seed, schedule) and shares only the scaled
activations, so a Sae trained in a bank of many equals the same Sae trained alone, to the bit.

On a CPU a thread takes a whole member's step rather than a part of every operation: nothing waits
for the slowest thread thirty times a step. No sum depends on the number of threads, so neither
do the bits. In a group of processes members take turns: all must exchange in the same order.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from panscope.axes import Activations
from panscope.dist import ALONE, Group
from panscope.errors import ConfigError
from panscope.sites import Site
from panscope.stages.train import start
from panscope.stages.train.member import Member, Scales
from panscope.stages.train.objective import Config
from panscope.stages.train.sweep import Spec

Batch = Mapping[Site, Tensor]


@dataclass(frozen=True)
class Bank:
    """Members that see the same batches."""

    members: tuple[Member, ...]

    def step_(self, batch: Batch, step: int) -> None:
        """Train every member on one batch of raw activations; `step` counts from 0."""
        scaled = self._scaled(batch)

        @torch.inference_mode()  # a thread's own
        def train_(member: Member) -> None:
            x, target = (scaled[sites] for sites in _ends(member.spec))
            member.step_(x, target, step)

        side_by_side, left = self._split()
        list(self._threads.map(train_, side_by_side))
        for member in left:
            train_(member)

    def _scaled(self, batch: Batch) -> dict[tuple[Site, ...], Activations]:
        """Bring what the members read and write to unit mean square norm, each site once."""
        scaled: dict[tuple[Site, ...], Activations] = {}
        for member in self.members:
            for sites, scale in zip(_ends(member.spec), _both(member.scales), strict=True):
                if sites not in scaled:
                    scaled[sites] = _joined(batch, sites) / scale
        return scaled

    def _split(self) -> tuple[Sequence[Member], Sequence[Member]]:
        """Say which members are trained side by side, a thread each, and which by all threads."""
        on_cpu = all(member.scales.read.device.type == "cpu" for member in self.members)
        are_alone = all(member.group.size == 1 for member in self.members)
        n_threads = torch.get_num_threads() if on_cpu and are_alone else 1
        n_rounds = len(self.members) // n_threads if n_threads > 1 else 0
        n_paired = n_rounds * n_threads
        return self.members[:n_paired], self.members[n_paired:]

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(torch.get_num_threads(), initializer=_work_alone)

    def state(self) -> dict[str, Tensor]:
        """Return everything a checkpoint must hold, by name."""
        return {name: value for member in self.members for name, value in member.state().items()}

    def load_(self, state: Mapping[str, Tensor]) -> None:
        """Take a checkpoint's tensors."""
        for member in self.members:
            member.load_(state)


def begin(
    config: Config, specs: Sequence[Spec], first: Sequence[Batch], group: Group = ALONE
) -> Bank:
    """Make a bank at step 0, drawn or from Saes; scales are those of the stream's first batches."""
    sites = {site for spec in specs for ends in _ends(spec) for site in ends}
    x_at = {site: torch.cat([batch[site] for batch in first]) for site in sites}
    folder = config.begin_from
    starts = [None if folder is None else start.found(Path(folder), spec) for spec in specs]
    return Bank(
        tuple(
            Member.begin(spec, config, _scales(spec, x_at), group, begin_from)
            for spec, begin_from in zip(specs, starts, strict=True)
        )
    )


def scale_of(x: Activations) -> float:
    """Return the number C that gives x / C a unit mean square norm (Gemma Scope, appendix B)."""
    return float(x.double().square().sum(1).mean().sqrt())


def _work_alone() -> None:
    """Let this thread's operations start no others."""
    torch.set_num_threads(1)


def _ends(spec: Spec) -> tuple[tuple[Site, ...], tuple[Site, ...]]:
    return spec.reads, spec.writes


def _both(scales: Scales) -> tuple[Tensor, Tensor]:
    return scales.read, scales.written


def _joined(batch: Batch, sites: tuple[Site, ...]) -> Activations:
    """Put the values at several sites one after another, in float32."""
    if len(sites) == 1:
        return batch[sites[0]].float()
    return torch.cat([batch[site].float() for site in sites], dim=1)


def _scales(spec: Spec, x_at: Batch) -> Scales:
    read, written = (torch.cat([_scale(x_at[site], site) for site in ends]) for ends in _ends(spec))
    target = (_joined(x_at, spec.writes) / written).double()
    variance = float(target.var(0, correction=0).sum())
    return Scales(read, written, target.mean(0).float(), variance)


def _scale(x: Activations, site: Site) -> Float[Tensor, " d_in"]:
    scale = scale_of(x)
    if not x.double().var(0, correction=0).sum() > 0:
        do = "train on other sites, or on more varied text"
        raise ConfigError(f"site {site}", "has the same activations at every token", do)
    return torch.full((x.shape[1],), scale, device=x.device)
