"""From a finished tally to records: bands of the activation range, examples, whole features.

Bands are quantile bands: from the strongest half octave down, half octaves are joined until they
hold a quarter of the latent's firings. Their edges are the histogram's, so they cannot overlap and
their shares are exact.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from panscope.atlas.records import Band, Example, Feature
from panscope.stages.describe.directions import Directions
from panscope.stages.describe.tally import BINS_PER_SAMPLE_BIN, SAMPLES, Examples, Tally

BAND_SHARE = 0.25
EXAMPLES_A_BAND = 4
STRONGEST = -1  # the band number of the strongest contexts


class Span(NamedTuple):
    """A band as a range of sample bins, `first <= bin < end`, with its firings."""

    first: int
    end: int
    firings: int


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


def features(tally: Tally, directions: Directions) -> Iterator[Feature]:
    """Yield every latent's record, in order."""
    for latent in range(len(tally.total)):
        yield _feature(tally, directions, latent)


def _feature(tally: Tally, directions: Directions, latent: int) -> Feature:
    histogram = tally.histogram.counts[latent]
    count = int(histogram.sum())
    joined = spans(histogram.view(-1, BINS_PER_SAMPLE_BIN).sum(1).tolist())
    edges = tally.histogram.edges[::BINS_PER_SAMPLE_BIN]
    return Feature(
        index=latent,
        count=count,
        density=count / tally.n_tokens,
        max=float(tally.maximum[latent]),
        mean=float(tally.total[latent]) / max(count, 1),
        histogram=tuple(histogram.tolist()),
        **directions.of(latent),
        bands=tuple(Band(edges[s.first], edges[s.end], s.firings / count) for s in joined),
        examples=tuple(_examples(tally, latent, joined)),
    )


def _examples(tally: Tally, latent: int, joined: Sequence[Span]) -> Iterator[Example]:
    """Yield the strongest contexts, then each band's sample, no context twice."""
    context = tally.strongest.windows.shape[2]
    shown: set[int] = set()
    for rank, origin in enumerate(tally.strongest.best.origins[latent].tolist()):
        if origin >= 0:
            shown.add(origin // context)
            yield _example(tally.strongest, latent, rank, STRONGEST)
    n_sample_bins = tally.histogram.n_bins // BINS_PER_SAMPLE_BIN
    for band, span in enumerate(joined):
        keys = range(latent * n_sample_bins + span.first, latent * n_sample_bins + span.end)
        fresh = [
            (float(tally.sampled.best.scores[key, rank]), key, rank)
            for key in keys
            for rank in range(SAMPLES)
            if int(tally.sampled.best.origins[key, rank]) // context not in shown | {-1}
        ]
        for _, key, rank in sorted(fresh, reverse=True)[:EXAMPLES_A_BAND]:
            yield _example(tally.sampled, key, rank, band)


def _example(kept: Examples, key: int, rank: int, band: int) -> Example:
    window: Tensor = kept.windows[key, rank]
    context, peak = divmod(int(kept.best.origins[key, rank]), len(window))
    positions = window.nonzero().squeeze(1)
    return Example(
        band=band,
        context=context,
        peak=peak,
        positions=tuple(positions.tolist()),
        values=tuple(window[positions].tolist()),
    )
