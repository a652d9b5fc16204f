"""What is measured of a Sae while it trains: sums on the device, read every few steps.

FVU is the squared error over the target's variance, which is taken from the stream's first batches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panscope.dist import ALONE, Group
from panscope.kernels.pairs import PerLatent

DENSITY_EDGES = tuple(-5 + i / 2 for i in range(11))  # log10 of firings a token, half decades
DENSE_SHARE = 0.1  # of tokens: a latent that fires on more is called dense (Gemma Scope, 5.1)


@dataclass(slots=True)
class Meter:
    """The sums since the last reading, and how long each latent has been idle."""

    sums: Float[Tensor, " 3"]
    """Loss and last prefix's squared error, each a token, and steps; float64."""
    fired: Float[Tensor, " latents"]
    idle_tokens: Int[Tensor, " latents"]
    n_tokens: Int[Tensor, ""]
    variance: float
    group: Group = ALONE

    @classmethod
    def begin(cls, width: int, variance: float, device: torch.device, group: Group = ALONE) -> Self:
        """Start with nothing seen."""
        return cls(
            torch.zeros(3, dtype=torch.float64, device=device),
            torch.zeros(width, device=device),
            torch.zeros(width, dtype=torch.int64, device=device),
            torch.zeros((), dtype=torch.int64, device=device),
            variance,
            group,
        )

    def add_(
        self,
        counts: PerLatent,
        squared: Float[Tensor, " prefixes"],
        penalty: Float[Tensor, ""],
        n_tokens: int,
    ) -> None:
        """Take in a step."""
        loss = squared.sum() / n_tokens + penalty
        one = torch.ones_like(loss)
        self.sums += torch.stack([loss, squared[-1] / n_tokens, one])
        self.fired += counts
        self.idle_tokens += n_tokens
        self.idle_tokens.masked_fill_(counts > 0, 0)
        self.n_tokens += n_tokens

    def read(self, dead_after_tokens: int) -> dict[str, float]:
        """Return the means since the last reading and begin anew. The one place that waits."""
        loss, error, steps = self.sums.tolist()
        share = self.group.gathered(self.fired) / self.n_tokens.clamp_min(1)
        idle_tokens = self.group.gathered(self.idle_tokens)
        found = {
            "loss": loss / max(1, steps),
            "l0": float(share.sum()),
            "fvu": error / max(1, steps) / self.variance,
            "dead_share": float((idle_tokens >= dead_after_tokens).float().mean()),
            "silent_share": float((share == 0).float().mean()),
            "dense_share": float((share > DENSE_SHARE).float().mean()),
        }
        for total in (self.sums, self.fired, self.n_tokens):
            total.zero_()
        return found

    def histogram(self) -> tuple[int, ...]:
        """Count the latents that fired since the last reading by log10 of their firing share."""
        fired = self.group.gathered(self.fired)
        share = fired[fired > 0] / self.n_tokens.clamp_min(1)
        edges = torch.tensor(DENSITY_EDGES)
        logs = share.log10().clamp(DENSITY_EDGES[0], DENSITY_EDGES[-1]).cpu()
        return tuple(torch.histogram(logs, edges).hist.int().tolist())

    def state(self) -> Mapping[str, Tensor]:
        """Return what a checkpoint must hold."""
        return {
            "sums": self.sums,
            "fired": self.fired,
            "idle_tokens": self.idle_tokens,
            "n_tokens": self.n_tokens,
        }
