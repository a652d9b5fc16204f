"""Which firings are shown of each latent: the strongest, and some of each band of its range.

Bands are quantile bands: from the strongest half octave down, half octaves are joined until they
hold a quarter of the latent's firings. Their edges are the histogram's, so they cannot overlap and
their shares are exact.

No row of text stands twice, and no document while there are others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from panscope.atlas.columns import BandColumns
from panscope.stages.describe.tally import BINS_PER_SAMPLE_BIN, SAMPLES, Tally

BAND_SHARE = 0.25
EXAMPLES_A_BAND = 4
STRONGEST = -1  # the band number of the strongest


class Span(NamedTuple):
    """A band as a range of sample bins, `first <= bin < end`, with its firings."""

    first: int
    end: int
    firings: int


class Chosen(NamedTuple):
    """The firings that are shown, latent after latent: of which, in which band, and their place."""

    latents: Int[Tensor, " shown"]
    bands: Int[Tensor, " shown"]
    origins: Int[Tensor, " shown"]


class Candidates(NamedTuple):
    """What may be shown of each latent, in order: its band, its row of text, its document."""

    bands: Int[Tensor, "latents slots"]
    rows: Int[Tensor, "latents slots"]
    documents: Int[Tensor, "latents slots"]


def joined(tally: Tally) -> list[list[Span]]:
    """Join each latent's sample bins into bands."""
    counts = tally.histogram.counts
    in_sample_bins = counts.view(len(counts), -1, BINS_PER_SAMPLE_BIN).sum(2)
    return [spans(row) for row in in_sample_bins.tolist()]


def spans(counts: Sequence[int]) -> list[Span]:
    """Join sample bins, from the last down, into bands of at least a quarter of all firings."""
    total, joined, end, held = sum(counts), [], len(counts), 0
    for first in range(len(counts) - 1, -1, -1):
        held += counts[first]
        if held == 0:
            end = first
        elif held >= BAND_SHARE * total:
            joined.append(Span(first, end, held))
            end, held = first, 0
    if held:
        lowest = next(i for i, count in enumerate(counts) if count)
        joined.append(Span(lowest, end, held))
    return joined


def columns(tally: Tally, joined: Sequence[Sequence[Span]]) -> BandColumns:
    """Lay the bands out."""
    edges = np.array(tally.histogram.edges[::BINS_PER_SAMPLE_BIN])
    counts = np.array([len(of_latent) for of_latent in joined])
    totals = [sum(span.firings for span in of_latent) for of_latent in joined]
    all_spans = [span for of_latent in joined for span in of_latent]
    firsts, ends, firings = np.array(all_spans, dtype=np.int64).reshape(-1, 3).T
    share = firings / np.repeat(totals, counts)
    return BandColumns(counts=counts, low=edges[firsts], high=edges[ends], share=share)


def chosen(
    tally: Tally,
    joined: Sequence[Sequence[Span]],
    documents: Int[Tensor, " origins"],
    context: int,
) -> Chosen:
    """Choose what is shown of every latent; `documents` are those of all the text's tokens."""
    width, n_top = len(joined), tally.strongest.scores.shape[1]
    kept = (tally.strongest, tally.by_row, tally.sampled)
    origins = torch.cat([best.origins.view(width, -1) for best in kept], dim=1)
    scores = torch.cat([best.scores.view(width, -1) for best in kept], dim=1)
    top = torch.full((width, 2 * n_top), STRONGEST)
    n_bins = (origins.shape[1] - 2 * n_top) // SAMPLES
    bands = torch.cat([top, _of_bins(joined, n_bins).repeat_interleave(SAMPLES, dim=1)], dim=1)
    order = origins.argsort(1)
    for keys, falls in ((scores, True), (bands, False)):  # the last counts first
        ranks = keys.gather(1, order).argsort(dim=1, stable=True, descending=falls)
        order = order.gather(1, ranks)
    origins, bands = origins.gather(1, order), bands.gather(1, order)
    candidates = Candidates(bands, origins // context, documents[origins.clamp_min(0)])
    shown = _picked(candidates, origins >= 0, n_top)
    return Chosen(shown.nonzero()[:, 0], bands[shown], origins[shown])


def _of_bins(joined: Sequence[Sequence[Span]], n_bins: int) -> Int[Tensor, "latents bins"]:
    """Return the band of each sample bin of each latent; those of empty bins mean nothing."""
    rows = [[0] * n_bins for _ in joined]
    for row, of_latent in zip(rows, joined, strict=True):
        for band, span in enumerate(of_latent):
            row[span.first : span.end] = [band] * (span.end - span.first)
    return torch.tensor(rows, dtype=torch.int64).view(len(rows), n_bins)


def _picked(
    candidates: Candidates, is_there: Bool[Tensor, "latents slots"], n_top: int
) -> Bool[Tensor, "latents slots"]:
    """Go through each latent's candidates, then again with documents that are shown already."""
    bands, rows, documents = candidates
    shown = torch.zeros_like(is_there)
    limits = torch.where(bands == STRONGEST, n_top, EXAMPLES_A_BAND)
    for may_repeat in (False, True):
        for slot in range(bands.shape[1]):
            mine = slice(slot, slot + 1)
            clashes = rows == rows[:, mine]
            if not may_repeat:
                clashes |= documents == documents[:, mine]
            n_shown = (shown & (bands == bands[:, mine])).sum(1)
            is_free = ~(shown & clashes).any(1) & (n_shown < limits[:, slot])
            shown[:, slot] |= is_there[:, slot] & is_free
    return shown
