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
from panscope.stages.describe.tally import BINS_PER_SAMPLE_BIN, Examples, Tally

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
    shown: set[int] = set()
    n_top = tally.strongest.windows.shape[1]
    yield from _unseen(tally.strongest, [latent], STRONGEST, n_top, shown)
    n_sample_bins = tally.histogram.n_bins // BINS_PER_SAMPLE_BIN
    for band, span in enumerate(joined):
        keys = range(latent * n_sample_bins + span.first, latent * n_sample_bins + span.end)
        yield from _unseen(tally.sampled, keys, band, EXAMPLES_A_BAND, shown)


def _unseen(
    kept: Examples, keys: Sequence[int], band: int, n: int, shown: set[int]
) -> Iterator[Example]:
    """Yield up to n examples of some keys, best first, from contexts not shown; mark them shown."""
    context = kept.windows.shape[2]
    slots = [(key, rank) for key in keys for rank in range(kept.windows.shape[1])]
    slots = [slot for slot in slots if kept.best.origins[slot] >= 0]
    for slot in sorted(slots, key=lambda slot: -float(kept.best.scores[slot])):
        row = int(kept.best.origins[slot]) // context
        if row not in shown and n > 0:
            shown.add(row)
            n -= 1
            yield _example(kept, *slot, band)


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
