"""What replacing a site's activations costs the model: loss, delta loss, KL, loss recovered.

Losses are cross-entropies in nats over the predictions from and of unmasked tokens. Differences are
taken sequence by sequence, against one clean forward pass that serves every Sae.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vecdot

from panscope.model.text import Rows
from panscope.stats import Ratio


@dataclass(frozen=True, slots=True)
class Clean:
    """The unedited predictions of a batch."""

    probs: Float[Tensor, "batch position vocab"]
    certainty: Float[Tensor, "batch position"]
    """Minus the entropy of the predictions."""
    losses: Float[Tensor, " batch"]
    counts: Float[Tensor, " batch"]


def clean(logits: Float[Tensor, "batch position vocab"], rows: Rows) -> Clean:
    """Prepare a batch's unedited logits for comparisons."""
    log_probs = logits.float().log_softmax(-1)
    probs = log_probs.exp()
    counts = _predicting(rows, log_probs.device).sum(1)
    return Clean(probs, vecdot(probs, log_probs), _losses(log_probs, rows), counts)


@dataclass(slots=True)
class Damage:
    """The loss and KL under one replacement, as sums over sequences."""

    loss: Ratio = field(default_factory=Ratio.zero)
    delta: Ratio = field(default_factory=Ratio.zero)
    kl: Ratio = field(default_factory=Ratio.zero)

    def add_(self, logits: Float[Tensor, "batch position vocab"], base: Clean, rows: Rows) -> None:
        """Take in the edited logits of a batch."""
        log_probs = logits.float().log_softmax(-1)
        losses = _losses(log_probs, rows)
        divergence = base.certainty - vecdot(base.probs, log_probs)
        self.loss.add_(losses, base.counts)
        self.delta.add_(losses - base.losses, base.counts)
        counted = _predicting(rows, log_probs.device)
        self.kl.add_((divergence[:, :-1] * counted).sum(1), base.counts)


def metrics(spliced: Damage, zero: Damage, mean: Damage) -> dict[str, Any]:
    """Return a Sae's loss metrics; loss recovered is 1 for no damage, 0 for that of an ablation."""
    return {
        "loss": spliced.loss.value,
        "delta_loss": spliced.delta.value,
        "delta_loss_se": spliced.delta.standard_error,
        "kl": spliced.kl.value,
        "kl_se": spliced.kl.standard_error,
        "delta_loss_zero": zero.delta.value,
        "delta_loss_mean": mean.delta.value,
        "loss_recovered_zero": 1 - spliced.delta.value / zero.delta.value,
        "loss_recovered_mean": 1 - spliced.delta.value / mean.delta.value,
    }


def _predicting(rows: Rows, device: torch.device) -> Float[Tensor, "batch predictions"]:
    """Mark the predictions that count: from a token that is not special, of one that is not.

    What follows the last token of a document is the next one's BOS, which no model should know.
    """
    return (rows.mask[:, :-1] & rows.mask[:, 1:]).to(device, torch.float32)


def _losses(log_probs: Float[Tensor, "batch position vocab"], rows: Rows) -> Tensor:
    """Sum each row's cross-entropy over the predictions that count."""
    targets = rows.ids[:, 1:, None].to(log_probs.device)
    nats = -log_probs[:, :-1].gather(-1, targets).squeeze(-1)
    return (nats * _predicting(rows, log_probs.device)).double().sum(1)
