"""How well Saes rebuild activations, and at what sparsity: L0, FVU, densities, all by position.

FVU is the paper's: squared error over squared distance from the dataset mean, each summed over
dimensions and tokens (Gemma Scope, arXiv:2408.05147, section 4.1), of what the Sae writes: of the
MLP's output for a transcoder, of all sites together for a crosscoder. Special tokens count nowhere.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panscope.kernels.pairs import Pairs
from panscope.stats import Ratio

DENSITY_EDGES = tuple(-6 + i / 4 for i in range(25))  # log10 of firings a token, quarter decades


@dataclass(slots=True)
class Fidelity:
    """One Sae's sums so far."""

    l0: Ratio
    fvu: Ratio
    firings: Int[Tensor, " latents"]
    by_position: Float[Tensor, "quantities position"]  # tokens, L0, squared error, squared distance

    @classmethod
    def zero(cls, width: int, context: int) -> Self:
        """Start with nothing seen."""
        firings = torch.zeros(width, dtype=torch.int64)
        by_position = torch.zeros(4, context, dtype=torch.float64)
        return cls(Ratio.zero(), Ratio.zero(), firings, by_position)

    def add_(
        self,
        pairs: Pairs,
        rebuilt: Float[Tensor, "tokens d_out"],
        target: Float[Tensor, "tokens d_out"],
        mean: Float[Tensor, " d_out"],
        mask: Bool[Tensor, "batch position"],
    ) -> None:
        """Take in what a Sae made of a batch of rows; the tokens are those of `mask`, row by row.

        `pairs` are the latents that fired, `rebuilt` what came of them, in place of `target`.
        """
        error = (rebuilt - target).double().square().sum(1)
        distance = (target - mean).double().square().sum(1)
        self.firings += torch.bincount(pairs.latent, minlength=pairs.n_latents).cpu()
        l0 = pairs.offsets.diff()
        per_token = torch.stack([torch.ones_like(error), l0, error, distance]).cpu()
        placed = torch.zeros(4, *mask.shape, dtype=torch.float64)
        placed[:, mask.cpu()] = per_token
        self.by_position += placed.sum(1)
        tokens, l0_sums, errors, distances = placed.sum(2)
        self.l0.add_(l0_sums, tokens)
        self.fvu.add_(errors, distances)

    def metrics(self) -> dict[str, Any]:
        """Return what the suite's manifest keeps."""
        n_tokens = int(self.by_position[0].sum())
        alive = self.firings[self.firings > 0]
        log_density = (alive.double() / n_tokens).log10().clamp(DENSITY_EDGES[0], 0)
        edges = torch.tensor(DENSITY_EDGES, dtype=torch.float64)
        tokens, l0, error, distance = self.by_position
        return {
            "n_tokens": n_tokens,
            "l0": self.l0.value,
            "l0_se": self.l0.standard_error,
            "fvu": self.fvu.value,
            "fvu_se": self.fvu.standard_error,
            "dead_share": float((self.firings == 0).double().mean()),
            "density_bins": list(DENSITY_EDGES),
            "density_histogram": torch.histogram(log_density, edges).hist.int().tolist(),
            "position_l0": _finite(l0 / tokens),
            "position_fvu": _finite(error / distance),
        }


def _finite(values: Float[Tensor, " position"]) -> list[float | None]:
    """List values; None where no token stood (JSON has no nan)."""
    return [None if math.isnan(v) else v for v in values.tolist()]
