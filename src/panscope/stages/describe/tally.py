"""What is kept of one Sae's firings while the text goes by: bounded, exact, mergeable by parts.

Histograms have fixed logarithmic bins around the site's scale. Examples are of two sorts: the
strongest contexts of each latent, one firing a context, and a uniform sample of the firings in each
half octave of strength, from which bands are made when the text has ended. An example keeps its
latent's activations over the whole context, in float16: three significant digits.

Of a batch only its firings are handled, about L0 a token; no array of tokens x latents is made, and
windows are built for the few firings that enter.

Memory a latent, in bytes: (n_top + sample bins * SAMPLES) (2 context + 12) + 4 sample bins + 8 bins
+ 16; 15 kB for ten strongest contexts of 128 tokens.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panscope.kernels.pairs import Pairs
from panscope.stats import LogHistogram, TopK

OCTAVES = range(-8, 3)  # around the site's scale: thresholds lie at 2^-5, maxima at 2^0
BINS_PER_OCTAVE = 4
BINS_PER_SAMPLE_BIN = 2
SAMPLES = 2  # firings kept per half octave


class Firings(NamedTuple):
    """The firings in a batch of whole rows, in order of row and position.

    A cell is a row and a latent: `row * width + latent`. An origin numbers a token of all text.
    """

    latents: Int[Tensor, " n"]
    values: Float[Tensor, " n"]
    cells: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    origins: Int[Tensor, " n"]
    n_cells: int
    context: int

    @classmethod
    def of(cls, pairs: Pairs, mask: Bool[Tensor, "rows context"], first_row: int) -> Self:
        """Place pairs, whose tokens are those of `mask` row by row, in the text."""
        n_rows, context = mask.shape
        places = mask.flatten().nonzero().squeeze(1).cpu()
        token, latents = pairs.token.long().cpu(), pairs.latent.long().cpu()
        first_cells = places // context * pairs.n_latents
        return cls(
            latents=latents,
            values=pairs.z.cpu(),
            cells=first_cells[token] + latents,
            positions=(places % context)[token],
            origins=(places + first_row * context)[token],
            n_cells=n_rows * pairs.n_latents,
            context=context,
        )

    def peaks(self) -> Float[Tensor, " cells"]:
        """Return the strongest value of each cell; zero where nothing fired."""
        zeros = torch.zeros(self.n_cells)
        return zeros.scatter_reduce_(0, self.cells, self.values, "amax")

    def windows(self, chosen: Int[Tensor, " k"]) -> Float[Tensor, "k context"]:
        """Return the values of the whole cells in which some firings are."""
        cells = self.cells[chosen]
        slots = torch.full((self.n_cells,), -1)
        slots[cells] = torch.arange(len(cells))  # of firings in one cell, one has the say
        at = slots[self.cells]
        wanted = (at >= 0).nonzero().squeeze(1)
        windows = torch.zeros(len(cells), self.context, dtype=torch.float16)
        windows[at[wanted], self.positions[wanted]] = self.values[wanted].half()
        return windows[slots[cells]]


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
        keys: Int[Tensor, " k"],
        scores: Float[Tensor, " k"],
        firings: Firings,
        chosen: Int[Tensor, " k"],
    ) -> None:
        """Take in the `chosen` firings of a batch."""
        moves = self.best.add_(keys, scores, firings.origins[chosen])
        self.windows[moves.keys, moves.slots] = firings.windows(chosen[moves.sources])


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

    def add_(self, pairs: Pairs, mask: Bool[Tensor, "rows context"], first_row: int) -> None:
        """Take in what fired at the unmasked tokens of whole rows."""
        firings = Firings.of(pairs, mask, first_row)
        self.n_tokens += pairs.n_tokens
        self._count(firings)
        self._keep_strongest(firings)

    def _count(self, firings: Firings) -> None:
        bins = self.histogram.bins(firings.values)
        self.histogram.add_(firings.latents, bins)
        self.total.index_add_(0, firings.latents, firings.values.double())
        n_sample_bins = self.histogram.n_bins // BINS_PER_SAMPLE_BIN
        keys = firings.latents * n_sample_bins + bins // BINS_PER_SAMPLE_BIN
        lots = _lot(firings.origins, firings.latents, self.seed)
        drawn = self.sampled.best.entering(keys, lots)
        self.sampled.add_(keys[drawn], lots[drawn], firings, drawn)

    def _keep_strongest(self, firings: Firings) -> None:
        """Offer the peak of each cell, the first of equals, to its latent's strongest contexts."""
        peaks = firings.peaks()
        by_row = peaks.view(-1, len(self.maximum))
        self.maximum = torch.maximum(self.maximum, by_row.amax(0))
        entering = self.strongest.best.entering(firings.latents, firings.values)
        is_peak = firings.values[entering] == peaks[firings.cells[entering]]
        chosen = _first_of_each(firings.cells, entering[is_peak], firings.n_cells)
        keys, scores = firings.latents[chosen], firings.values[chosen]
        self.strongest.add_(keys, scores, firings, chosen)


def _first_of_each(
    cells: Int[Tensor, " n"], chosen: Int[Tensor, " k"], n_cells: int
) -> Int[Tensor, " j"]:
    """Keep, of the chosen firings in one cell, the first."""
    firsts = torch.full((n_cells,), len(cells))
    firsts.scatter_reduce_(0, cells[chosen], chosen, "amin")
    return chosen[firsts[cells[chosen]] == chosen]


def _lot(origins: Tensor, latents: Tensor, seed: int) -> Tensor:
    """Draw a number in (0, 1] for each firing, from where it is and the seed alone.

    The highest lots are a uniform sample that does not depend on batches or workers.
    """
    salt = seed * 0x14057B7EF767814 % (1 << 62)
    mixed = origins * 0x9E3779B97F4A7C1 + latents * 0x5851F42D4C957F2 + salt
    mixed = (mixed ^ (mixed >> 31)) * 0x3F58476D1CE4E5B
    mixed = (mixed ^ (mixed >> 29)) * 0x14D049BB133111E
    return (1 + (mixed >> 20 & 0xFFFFFF)).float() / 0x1000000
