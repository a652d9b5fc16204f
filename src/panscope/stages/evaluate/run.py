"""The measurement: two passes over held-out text, one clean forward for all Saes.

1. Read every site that is written once for its mean, without the LM head.
2. For each batch: one clean forward with logits that also reads every site; from its values each
   Sae's reconstruction; then, through the layers above only, one pass with each Sae spliced in, and
   two ablations of what it writes.

Of a Sae that is part of a whole (the suite's `part_of`) the reconstruction by itself stands for
nothing: it is measured by what all parts together rebuild of the sites that it writes.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from panscope import config, splice
from panscope.config import digest_of
from panscope.errors import ConfigError
from panscope.events import Advanced, Emit, Finished, Started
from panscope.kernels.pairs import Pairs
from panscope.model import tap
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.sae.sae import Sae
from panscope.sae.suite import Suite
from panscope.sites import Site
from panscope.stages.evaluate import loss
from panscope.stages.evaluate.fidelity import Fidelity
from panscope.stages.evaluate.loss import Damage
from panscope.stats import Moments, Ratio

STAGE = "evaluate"
Sites = tuple[Site, ...]


class Config(config.Config):
    """How much held-out text is read."""

    tokens: Annotated[int, Field(gt=0)] = 262_144
    batch_rows: Annotated[int, Field(gt=0)] = 4
    """Rows of a forward pass: logits of 4 x 128 x 4,096 stay in a CPU's cache; raise on a GPU."""


def run(
    config: Config,
    model: Model,
    suite: Suite,
    batches: Sequence[Rows],
    inputs: Mapping[str, str],
    emit: Emit,
) -> Suite:
    """Measure every Sae on the rows of `batches` and write the metrics into the suite's manifest.

    `inputs` names what is measured on. A suite that was measured so already is returned as it is.
    """
    key = digest_of({"config": config.described, "inputs": dict(inputs)})
    if suite.manifest.facts.get("evaluation", {}).get("digest") == key:
        emit(Finished(STAGE, 0.0, reused=True))
        return suite
    if not batches:
        raise ConfigError("evaluate", "no held-out text", "raise text.held_out or give more text")
    started = time.monotonic()
    with torch.inference_mode():
        measurement = _measure(model, suite, batches, emit)
    facts = {"evaluation": {"digest": key, **measurement.clean()}}
    measured = suite.with_metrics(measurement.metrics(), facts)
    emit(Finished(STAGE, time.monotonic() - started))
    return measured


def _measure(model: Model, suite: Suite, batches: Sequence[Rows], emit: Emit) -> "_Measurement":
    saes = {name: suite.load(name).to(model.device) for name in suite.names}
    means = _means(model, saes.values(), batches)
    measurement = _Measurement(model, saes, _wholes(suite), means, batches[0])
    seen_tokens = 0
    emit(Started(STAGE, sum(rows.ids.numel() for rows in batches), "tokens"))
    for rows in batches:
        measurement.add_(rows)
        seen_tokens += rows.ids.numel()
        emit(Advanced(STAGE, seen_tokens))
    return measurement


def _wholes(suite: Suite) -> list[list[str]]:
    """Group the Saes whose reconstructions add up; most stand alone."""
    wholes: dict[str, list[str]] = {}
    for name, fact in suite.facts.items():
        wholes.setdefault(fact.get("part_of", name), []).append(name)
    return list(wholes.values())


class _Measurement:
    """The sums for every Sae of a suite, batch after batch; one ablation serves equal writes."""

    def __init__(
        self,
        model: Model,
        saes: Mapping[str, Sae],
        wholes: Sequence[Sequence[str]],
        means: Mapping[Sites, Tensor],
        first: Rows,
    ) -> None:
        self._model, self._saes, self._wholes, self._means = model, saes, wholes, means
        context = first.ids.shape[1]
        self._clean_loss = Ratio.zero()
        self._fidelity = {name: Fidelity.zero(sae.width, context) for name, sae in saes.items()}
        self._spliced = {name: Damage() for name in saes}
        self._zeroed = {sites: Damage() for sites in means}
        self._averaged = {sites: Damage() for sites in means}

    def add_(self, rows: Rows) -> None:
        """Measure everything on a batch, against one clean forward pass."""
        reads = {site for sae in self._saes.values() for site in sae.reads}
        unedited = splice.clean(self._model, rows, reads, self._means)
        base = loss.clean(unedited.logits, rows)
        self._clean_loss.add_(base.losses, base.counts)

        def replace_(damage: Damage, sites: Sites, values: Tensor) -> None:
            damage.add_(splice.logits(self._model, unedited, sites, values), base, rows)

        for sites, mean in self._means.items():
            target = unedited.at(sites)
            replace_(self._zeroed[sites], sites, torch.zeros_like(target))
            replace_(self._averaged[sites], sites, mean.expand_as(target))
        for names in self._wholes:
            fired, sums = self._rebuilt(names, unedited)
            for name, pairs in fired.items():
                sites = self._saes[name].writes
                rebuilt, target = sums.at(sites), unedited.at(sites)
                self._fidelity[name].add_(pairs, rebuilt, target, self._means[sites], rows.mask)
                replace_(self._spliced[name], sites, rebuilt)

    def _rebuilt(
        self, names: Sequence[str], unedited: splice.Clean
    ) -> tuple[dict[str, Pairs], splice.Sums]:
        """Return what fires in Saes that make a whole, and what comes of it."""
        fired, sums = {}, splice.Sums(self._model.d_at)
        for name in names:
            sae = self._saes[name]
            x = unedited.at(sae.reads)
            fired[name] = sae.pairs(x)
            sums.add_(sae, splice.rebuilt(sae, fired[name], x))
        return fired, sums

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Return every Sae's metrics."""
        found = {}
        for name, sae in self._saes.items():
            zeroed, averaged = (sums[sae.writes] for sums in (self._zeroed, self._averaged))
            damage = loss.metrics(self._spliced[name], zeroed, averaged)
            found[name] = self._fidelity[name].metrics() | damage
        return found

    def clean(self) -> dict[str, float]:
        """Return the unedited model's loss."""
        loss = self._clean_loss
        return {"clean_loss": loss.value, "clean_loss_se": loss.standard_error}


def _means(model: Model, saes: Iterable[Sae], batches: Sequence[Rows]) -> dict[Sites, Tensor]:
    """Return, for all that some Sae writes, the mean activation over the unmasked tokens."""
    written = dict.fromkeys(sae.writes for sae in saes)
    moments = {site: Moments.zero(model.d_at(site)) for sites in written for site in sites}
    for rows in batches:
        for site, value in tap.run(model, rows.ids, read=moments).values.items():
            moments[site].add_(value[rows.mask])
    means = {site: moment.mean.float().to(model.device) for site, moment in moments.items()}
    return {sites: torch.cat([means[site] for site in sites]) for sites in written}
