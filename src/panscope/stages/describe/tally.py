"""What is kept of one Sae's firings while its log is read: bounded, exact.

Histograms have fixed logarithmic bins around the site's scale. Examples are of two sorts, of which
the places are kept: each latent's strongest, one a document (and, for texts of few documents, one a
row), and a uniform sample of the firings in each half octave of strength, one a row, from which
bands are made when the text has ended.

Memory a latent, in bytes: 8 bins + 24 + 8 kinds + 16 (2 n_top + SAMPLES * sample bins); 1.4 kB for
ten strongest and four kinds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panscope.kernels.bodies import counting
from panscope.kernels.firings import Codes, Firings
from panscope.stages.describe.tokens import Tokens
from panscope.stats import LogHistogram, TopK

OCTAVES = range(-8, 3)  # around the site's scale: thresholds lie at 2^-5, maxima at 2^0
BINS_PER_OCTAVE = 4
BINS_PER_SAMPLE_BIN = 2
SAMPLES = 2  # firings kept per half octave
SALT = 0x14057B7EF767814


@dataclass(slots=True)
class Tally:
    """One Sae's statistics so far; the text's pieces are taken in in order."""

    histogram: LogHistogram
    kind_counts: Int[Tensor, "latents kinds"]
    total: Float[Tensor, " latents"]
    square: Float[Tensor, " latents"]
    strongest: TopK
    """One a document."""
    by_row: TopK
    """The strongest, one a row."""
    sampled: TopK
    """Key: `latent * sample bins + sample bin`; score: its lot."""
    n_tokens: int
    seed: int

    @classmethod
    def zero(cls, width: int, scale: float, n_top: int, n_kinds: int, seed: int) -> Self:
        """Start with nothing seen."""
        histogram = LogHistogram.zero(width, scale, OCTAVES, BINS_PER_OCTAVE)
        return cls(
            histogram=histogram,
            kind_counts=torch.zeros(width, n_kinds, dtype=torch.int64),
            total=torch.zeros(width, dtype=torch.float64),
            square=torch.zeros(width, dtype=torch.float64),
            strongest=TopK.zero(width, n_top),
            by_row=TopK.zero(width, n_top),
            sampled=TopK.zero(width * (histogram.n_bins // BINS_PER_SAMPLE_BIN), SAMPLES),
            n_tokens=0,
            seed=seed,
        )

    @property
    def maximum(self) -> Float[Tensor, " latents"]:
        """Each latent's strongest firing; zero if it never fired."""
        return self.strongest.scores[:, 0]

    def add_(self, firings: Firings, tokens: Tokens) -> None:
        """Take in what fired at the tokens of the text's next piece."""
        body = counting()
        bins = body.bins_of(firings.values, torch.tensor(self.histogram.edges[1:-1]))
        any_class = torch.zeros_like(bins)
        self.n_tokens += len(tokens.origins)
        body.count_(self.histogram.counts, firings, bins)
        body.count_tokens_(self.kind_counts, firings, tokens.kinds)
        body.sum_(self.total, self.square, firings)
        for best, groups in ((self.strongest, tokens.documents), (self.by_row, tokens.rows)):
            body.offer_(best, firings, firings.values, tokens.origins, groups, any_class)
        lots = body.lots_of(firings, tokens.origins, self.seed * SALT % (1 << 62))
        sample_bins = bins // BINS_PER_SAMPLE_BIN
        body.offer_(self.sampled, firings, lots, tokens.origins, tokens.rows, sample_bins)


def scale_of(pieces: Sequence[Codes]) -> float:
    """Return the scale for a Sae whose suite says none: the median of its latents' maxima.

    In Saes trained here maxima lie at the site's scale too. 1 where nothing fired.
    """
    maxima = torch.zeros(pieces[0].width)
    for piece in pieces:
        maxima.scatter_reduce_(0, piece.latents.long(), piece.values, "amax")
    fired = maxima[maxima > 0]
    return float(fired.median()) if len(fired) else 1.0
