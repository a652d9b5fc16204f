"""The measurement: two passes over held-out text, one clean forward for all Saes.

1. Read every site once for its mean, without the LM head.
2. For each batch: one clean forward with logits that also reads every site; from its values each
   Sae's fidelity; then one forward with each Sae spliced in, and two ablations for each site.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from panscope import config, splice
from panscope.config import digest_of
from panscope.errors import ConfigError
from panscope.events import Advanced, Emit, Finished, Started
from panscope.model import tap
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.sae.suite import Suite
from panscope.sites import Site
from panscope.stages.evaluate import loss
from panscope.stages.evaluate.fidelity import Fidelity
from panscope.stages.evaluate.loss import Damage
from panscope.stats import Moments, Ratio

STAGE = "evaluate"


class Config(config.Config):
    """How much held-out text is read."""

    tokens: int = 262_144
    batch_rows: int = 16


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
    key = digest_of({"config": config.model_dump(mode="json"), "inputs": dict(inputs)})
    if suite.manifest.facts.get("evaluation", {}).get("digest") == key:
        emit(Finished(STAGE, 0.0, reused=True))
        return suite
    if not batches:
        raise ConfigError("evaluate", "no held-out text", "raise text.held_out or give more text")
    started = time.monotonic()
    with torch.inference_mode():
        metrics, base = _measure(model, suite, batches, emit)
    facts = {"evaluation": {"digest": key, **base}}
    measured = suite.with_metrics(metrics, facts)
    emit(Finished(STAGE, time.monotonic() - started))
    return measured


def _measure(
    model: Model, suite: Suite, batches: Sequence[Rows], emit: Emit
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    saes = {name: suite.load(name).to(model.device) for name in suite.names}
    sites = tuple({sae.reads[0]: None for sae in saes.values()})
    means = _means(model, sites, batches)
    context = batches[0].ids.shape[1]
    fidelity = {name: Fidelity.zero(sae.width, context) for name, sae in saes.items()}
    spliced = {name: Damage() for name in saes}
    zeroed, averaged = ({site: Damage() for site in sites} for _ in range(2))
    clean_loss, seen_tokens = Ratio.zero(), 0
    emit(Started(STAGE, sum(rows.ids.numel() for rows in batches), "tokens"))
    for rows in batches:
        unedited = tap.run(model, rows.ids, read=sites, with_logits=True)
        assert unedited.logits is not None
        base = loss.clean(unedited.logits, rows)
        clean_loss.add_(base.losses, base.counts)
        for site in sites:
            mean = splice.constant(means[site])
            zeroed[site].add_(splice.logits(model, rows, {site: splice.zeros}), base, rows)
            averaged[site].add_(splice.logits(model, rows, {site: mean}), base, rows)
        for name, sae in saes.items():
            site = sae.reads[0]
            x = unedited.values[site][rows.mask].float()
            fidelity[name].add_(sae, x, means[site], rows.mask)
            logits = splice.logits(model, rows, {site: splice.reconstruction(sae)})
            spliced[name].add_(logits, base, rows)
        seen_tokens += rows.ids.numel()
        emit(Advanced(STAGE, seen_tokens))
    return {
        name: {
            **fidelity[name].metrics(),
            **loss.metrics(spliced[name], zeroed[sae.reads[0]], averaged[sae.reads[0]]),
        }
        for name, sae in saes.items()
    }, {"clean_loss": clean_loss.value, "clean_loss_se": clean_loss.standard_error}


def _means(model: Model, sites: Sequence[Site], batches: Sequence[Rows]) -> dict[Site, Tensor]:
    """Return each site's mean activation over the unmasked tokens."""
    moments = {site: Moments.zero(model.d_at(site)) for site in sites}
    for rows in batches:
        for site, value in tap.run(model, rows.ids, read=sites).values.items():
            moments[site].add_(value[rows.mask])
    return {site: moment.mean.float() for site, moment in moments.items()}
