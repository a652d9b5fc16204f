"""What is kept of one Sae's firings while the text goes by: bounded, exact, mergeable by parts.

Histograms have fixed logarithmic bins around the site's scale. Examples are of two sorts: the
strongest contexts of each latent, one firing a context, and a uniform sample of the firings in each
half octave of strength, from which bands are made when the text has ended. An example keeps its
latent's activations over the whole context, in float16: three significant digits.

Memory a latent, in bytes: (n_top + sample bins * SAMPLES) (2 context + 12) + 8 bins + 12; 15 kB for
ten strongest contexts of 128 tokens.
"""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panscope.axes import Latents
from panscope.stats import LogHistogram, TopK

OCTAVES = range(-8, 3)  # around the site's scale: thresholds lie at 2^-5, maxima at 2^0
BINS_PER_OCTAVE = 4
BINS_PER_SAMPLE_BIN = 2
SAMPLES = 2  # firings kept per half octave


@dataclass(slots=True)
class Examples:
    """The best firings of each key, with the latent's activations over their contexts."""

    best: TopK
    windows: Float[Tensor, "keys k context"]

    @classmethod
    def zero(cls, n_keys: int, k: int, context: int) -> Self:
        """Start with nothing seen."""
        windows = torch.zeros(n_keys, k, context, dtype=torch.float16)
        return cls(TopK.zero(n_keys, k), windows)

    def add_(
        self,
        keys: Int[Tensor, " n"],
        scores: Float[Tensor, " n"],
        origins: Int[Tensor, " n"],
        latents: Int[Tensor, " n"],
        rows: Int[Tensor, " n"],
        by_row: Float[Tensor, "rows context latents"],
    ) -> None:
        """Take in firings; `by_row` holds the batch they come from."""
        moves = self.best.add_(keys, scores, origins)
        kept = self.windows[moves.keys[~moves.is_new], moves.old_ranks]
        fresh = by_row[rows[moves.sources], :, latents[moves.sources]]
        self.windows[moves.keys[~moves.is_new], moves.ranks[~moves.is_new]] = kept
        self.windows[moves.keys[moves.is_new], moves.ranks[moves.is_new]] = fresh.half()


@dataclass(slots=True)
class Tally:
    """One Sae's statistics so far."""

    histogram: LogHistogram
    total: Float[Tensor, " latents"]
    maximum: Float[Tensor, " latents"]
    strongest: Examples
    sampled: Examples
    n_tokens: int
    seed: int

    @classmethod
    def zero(cls, width: int, scale: float, n_top: int, context: int, seed: int) -> Self:
        """Start with nothing seen."""
        histogram = LogHistogram.zero(width, scale, OCTAVES, BINS_PER_OCTAVE)
        n_sample_bins = histogram.n_bins // BINS_PER_SAMPLE_BIN
        return cls(
            histogram=histogram,
            total=torch.zeros(width, dtype=torch.float64),
            maximum=torch.zeros(width),
            strongest=Examples.zero(width, n_top, context),
            sampled=Examples.zero(width * n_sample_bins, SAMPLES, context),
            n_tokens=0,
            seed=seed,
        )

    def add_(self, f: Latents, mask: Bool[Tensor, "rows context"], first_row: int) -> None:
        """Take in the activations of whole rows; masked tokens count nowhere and show nothing."""
        n_rows, context = mask.shape
        f = f.cpu() * mask.flatten()[:, None]
        by_row = f.view(n_rows, context, -1)
        self.n_tokens += int(mask.sum())
        self._count(f, by_row, first_row)
        self._keep_strongest(by_row, first_row)

    def _count(self, f: Latents, by_row: Tensor, first_row: int) -> None:
        tokens, latents = f.nonzero(as_tuple=True)
        values = f[tokens, latents]
        bins = self.histogram.bins(values)
        self.histogram.add_(latents, bins)
        self.total.index_add_(0, latents, values.double())
        context = by_row.shape[1]
        n_sample_bins = self.histogram.n_bins // BINS_PER_SAMPLE_BIN
        keys = latents * n_sample_bins + bins // BINS_PER_SAMPLE_BIN
        origins = tokens + first_row * context
        lots = _lot(origins, latents, self.seed)
        self.sampled.add_(keys, lots, origins, latents, tokens // context, by_row)

    def _keep_strongest(self, by_row: Tensor, first_row: int) -> None:
        peaks, positions = by_row.max(1)
        self.maximum = torch.maximum(self.maximum, peaks.amax(0))
        rows, latents = peaks.nonzero(as_tuple=True)
        origins = (rows + first_row) * by_row.shape[1] + positions[rows, latents]
        self.strongest.add_(latents, peaks[rows, latents], origins, latents, rows, by_row)


def _lot(origins: Tensor, latents: Tensor, seed: int) -> Tensor:
    """Draw a number in (0, 1] for each firing, from where it is and the seed alone.

    The highest lots are a uniform sample that does not depend on batches or workers.
    """
    salt = seed * 0x14057B7EF767814 % (1 << 62)
    mixed = origins * 0x9E3779B97F4A7C1 + latents * 0x5851F42D4C957F2 + salt
    mixed = (mixed ^ (mixed >> 31)) * 0x3F58476D1CE4E5B
    mixed = (mixed ^ (mixed >> 29)) * 0x14D049BB133111E
    return (1 + (mixed >> 20 & 0xFFFFFF)).float() / 0x1000000
