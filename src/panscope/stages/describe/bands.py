"""Which firings are shown of each latent: the strongest, and some of each band of its range.

Bands are quantile bands: from the strongest half octave down, half octaves are joined until they
hold a quarter of the latent's firings. Their edges are the histogram's, so they cannot overlap and
their shares are exact.

No row of text stands twice, and no document while there are others.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from panscope.atlas.columns import BandColumns
from panscope.stages.describe.tally import BINS_PER_SAMPLE_BIN, SAMPLES, Tally
from panscope.stats import TopK

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


class Place(NamedTuple):
    """A firing that may be shown."""

    sample_bin: int
    origin: int
    row: int
    document: int


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
    width = len(joined)
    n_top = tally.strongest.scores.shape[1]
    strongest = _ordered((tally.strongest, tally.by_row), width, documents, context)
    sampled = _ordered((tally.sampled,), width, documents, context)
    shown = [
        (latent, band, origin)
        for latent, spans in enumerate(joined)
        for band, origin in _of_latent(strongest[latent], sampled[latent], spans, n_top)
    ]
    latents, bands, origins = torch.tensor(shown, dtype=torch.int64).view(-1, 3).unbind(1)
    return Chosen(latents, bands, origins)


def _of_latent(
    strongest: Sequence[Place], sampled: Sequence[Place], spans: Sequence[Span], n_top: int
) -> Iterator[tuple[int, int]]:
    """Yield band and origin of what is shown of a latent."""
    rows, documents = set[int](), set[int]()
    groups = [(STRONGEST, strongest, n_top)]
    for band, span in enumerate(spans):
        inside = [place for place in sampled if span.first <= place.sample_bin < span.end]
        groups.append((band, inside, EXAMPLES_A_BAND))
    for band, places, limit in groups:
        for place in _picked(places, limit, rows, documents):
            yield band, place.origin


def _picked(
    places: Sequence[Place], limit: int, rows: set[int], documents: set[int]
) -> list[Place]:
    """Pick up to `limit` places in rows not shown yet, in other documents first; note them."""
    picked: list[Place] = []
    for may_repeat in (False, True):
        for place in places:
            is_new = may_repeat or place.document not in documents
            if len(picked) < limit and place.row not in rows and is_new:
                rows.add(place.row)
                documents.add(place.document)
                picked.append(place)
    return sorted(picked, key=places.index)


def _ordered(
    kept: Sequence[TopK], width: int, documents: Int[Tensor, " origins"], context: int
) -> list[list[Place]]:
    """List what was kept of each latent, best first, the earlier of equals first."""
    origins = torch.cat([best.origins.view(width, -1) for best in kept], dim=1)
    scores = torch.cat([best.scores.view(width, -1) for best in kept], dim=1)
    by_origin = origins.argsort(1)
    ranked = scores.gather(1, by_origin).argsort(dim=1, descending=True, stable=True)
    order = by_origin.gather(1, ranked)
    origins = origins.gather(1, order)
    of_document = documents[origins.clamp_min(0)]
    fields = (order // SAMPLES, origins, origins // context, of_document)
    return [
        [place for place in map(Place, *row) if place.origin >= 0]
        for row in zip(*(field.tolist() for field in fields), strict=True)
    ]
