"""From a finished tally to an Atlas's columns: bands of the activation range, examples, the rest.

Bands are quantile bands: from the strongest half octave down, half octaves are joined until they
hold a quarter of the latent's firings. Their edges are the histogram's, so they cannot overlap and
their shares are exact.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from panscope.atlas.columns import BandColumns, ExampleColumns, FeatureColumns
from panscope.stages.describe.directions import Directions
from panscope.stages.describe.tally import BINS_PER_SAMPLE_BIN, SAMPLES, Tally

BAND_SHARE = 0.25
EXAMPLES_A_BAND = 4
STRONGEST = -1  # the band number of the strongest contexts


class Span(NamedTuple):
    """A band as a range of sample bins, `first <= bin < end`, with its firings."""

    first: int
    end: int
    firings: int


class Kept(NamedTuple):
    """The firings kept of each latent: its strongest contexts, then its sample bins' samples."""

    origins: Int[Tensor, "latents slots"]
    scores: Float[Tensor, "latents slots"]
    windows: Float[Tensor, "latents slots context"]


class Group(NamedTuple):
    """Slots of which up to `limit` examples are shown as those of a band, best first."""

    band: int
    slots: range
    limit: int


def columns(tally: Tally, directions: Directions) -> FeatureColumns:
    """Lay out all that is known of a Sae's latents."""
    counts = tally.histogram.counts
    n_firings = counts.sum(1)
    in_sample_bins = counts.view(len(counts), -1, BINS_PER_SAMPLE_BIN).sum(2)
    joined = [spans(row) for row in in_sample_bins.tolist()]
    return FeatureColumns(
        count=n_firings.numpy(),
        density=(n_firings.double() / tally.n_tokens).numpy(),
        max=tally.maximum.numpy(),
        mean=(tally.total / n_firings.clamp_min(1)).numpy(),
        histogram=counts.numpy(),
        top=directions.top,
        bottom=directions.bottom,
        near=directions.near,
        bands=_bands(tally, joined),
        examples=_examples(tally, joined),
    )


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


def _bands(tally: Tally, joined: Sequence[Sequence[Span]]) -> BandColumns:
    edges = np.array(tally.histogram.edges[::BINS_PER_SAMPLE_BIN])
    counts = np.array([len(of_latent) for of_latent in joined])
    totals = [sum(span.firings for span in of_latent) for of_latent in joined]
    all_spans = [span for of_latent in joined for span in of_latent]
    firsts, ends, firings = np.array(all_spans, dtype=np.int64).reshape(-1, 3).T
    share = firings / np.repeat(totals, counts)
    return BandColumns(counts=counts, low=edges[firsts], high=edges[ends], share=share)


def _examples(tally: Tally, joined: Sequence[Sequence[Span]]) -> ExampleColumns:
    """Choose each latent's examples, then unpack the windows of all at once."""
    kept = _kept(tally)
    context = kept.windows.shape[2]
    ranks, rows = _ranks(kept).tolist(), (kept.origins // context).tolist()
    chosen = [
        list(_chosen(rows[latent], ranks[latent], _groups(tally, of_latent)))
        for latent, of_latent in enumerate(joined)
    ]
    counts = torch.tensor([len(of_latent) for of_latent in chosen])
    pairs = torch.tensor([pair for of_latent in chosen for pair in of_latent])
    pairs = pairs.long().view(-1, 2)
    latents, slots = torch.arange(len(chosen)).repeat_interleave(counts), pairs[:, 1]
    origins, windows = kept.origins[latents, slots], kept.windows[latents, slots]
    fired = windows != 0
    return ExampleColumns(
        counts=counts.numpy(),
        band=pairs[:, 0].numpy(),
        context=(origins // context).numpy(),
        peak=(origins % context).numpy(),
        lengths=fired.sum(1).numpy(),
        positions=fired.nonzero()[:, 1].numpy(),
        values=windows[fired].numpy(),
    )


def _kept(tally: Tally) -> Kept:
    """Join what the tally kept, latent by latent."""
    n_latents, parts = len(tally.total), (tally.strongest, tally.sampled)
    context = tally.strongest.windows.shape[2]
    return Kept(
        origins=torch.cat([part.best.origins.view(n_latents, -1) for part in parts], dim=1),
        scores=torch.cat([part.best.scores.view(n_latents, -1) for part in parts], dim=1),
        windows=torch.cat([part.windows.view(n_latents, -1, context) for part in parts], dim=1),
    )


def _ranks(kept: Kept) -> Int[Tensor, "latents slots"]:
    """Rank each latent's slots, best first, the earlier of equals first."""
    by_origin = kept.origins.argsort(1)
    order = kept.scores.gather(1, by_origin).argsort(dim=1, descending=True, stable=True)
    return by_origin.gather(1, order).argsort(1)


def _groups(tally: Tally, joined: Sequence[Span]) -> Iterator[Group]:
    """List the strongest contexts, then each band, as ranges of slots (as in `Kept`)."""
    n_top = tally.strongest.windows.shape[1]
    yield Group(STRONGEST, range(n_top), n_top)
    for band, span in enumerate(joined):
        slots = range(n_top + span.first * SAMPLES, n_top + span.end * SAMPLES)
        yield Group(band, slots, EXAMPLES_A_BAND)


def _chosen(
    rows: Sequence[int], ranks: Sequence[int], groups: Iterable[Group]
) -> Iterator[tuple[int, int]]:
    """Yield band and slot of what is shown of a latent, no row of text twice.

    `rows` and `ranks` are those of the latent's slots; an empty slot's row is negative.
    """
    shown: set[int] = set()
    for band, slots, limit in groups:
        for slot in sorted(slots, key=ranks.__getitem__):
            if rows[slot] >= 0 and rows[slot] not in shown and limit > 0:
                shown.add(rows[slot])
                limit -= 1
                yield band, slot
