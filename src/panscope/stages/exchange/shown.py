"""A feature as SAEDashboard and Neuronpedia lay it out: strings for tokens, a value for each.

Both have one object an example with the interval of activations that it was chosen from; the
strongest contexts have -1 for both its lower end and its share. What an Atlas does not keep
(alignment and correlation with neurons, cosines of activations) is left empty, as they allow.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from panscope.atlas.features import Atlas
from panscope.atlas.labels import Label
from panscope.atlas.notes import Notes
from panscope.atlas.records import Example, Feature, SaeRecord

DECIMALS = 5
FEATURES_PER_FILE = 256
STRONGEST = -1.0
EMPTY: dict[str, list[float]] = {
    f"{table}_{column}": []
    for table, columns in {
        "neuron_alignment": ("indices", "values", "l1"),
        "correlated_neurons": ("indices", "l1", "pearson"),
        "correlated_features": ("l1",),  # a cosine, whatever it is called
    }.items()
    for column in columns
}


@dataclass(frozen=True, slots=True)
class Exhibit:
    """What is shown: an Atlas, the notes beside it, and what its model is called there."""

    atlas: Atlas
    notes: Notes
    model: str

    def labels(self, sae: str, index: int) -> Collection[Label]:
        """Return a feature's newest label by each method; those it replaced are history."""
        labels = self.notes.labels(sae, index)
        return {label.method: label for label in reversed(labels)}.values()


@dataclass(frozen=True, slots=True)
class Shown:
    """An example: its tokens, the value of each, the position it was chosen for, its interval."""

    tokens: list[str]
    values: list[float]
    peak: int
    low: float
    high: float
    share: float
    """Of all tokens, those whose value is in the interval."""


def living(atlas: Atlas, sae: SaeRecord) -> Iterator[Feature]:
    """Yield the features that fired, in order; the others have nothing to show."""
    return (feature for feature in atlas.features(sae.sae, range(sae.width)) if feature.count)


def in_files(features: Iterator[Feature]) -> Iterator[list[Feature]]:
    """Cut features into as many as a file holds."""
    while some := list(islice(features, FEATURES_PER_FILE)):
        yield some


def text_read(atlas: Atlas, sae: SaeRecord) -> dict[str, object]:
    """Say what text the features were found in; contexts begin with a BOS that counts nowhere."""
    context = len(next(iter(atlas.contexts.values())).tokens) if atlas.contexts else 0
    return {
        "n_prompts_total": sae.n_tokens // max(1, context - 1),
        "n_tokens_in_prompt": context,
        "dataset": str(atlas.manifest.facts.get("text", {}).get("path", "")),
    }


def examples(atlas: Atlas, feature: Feature) -> Iterator[Shown]:
    """Yield a feature's examples, the strongest contexts first."""
    for example in sorted(feature.examples, key=lambda example: example.band):
        context = atlas.contexts[example.context]
        values = [0.0] * len(context.tokens)
        for position, value in zip(example.positions, example.values, strict=True):
            values[position] = rounded(value)
        tokens = [atlas.pieces[token].replace("\0", " ") for token in context.tokens]
        yield Shown(tokens, values, example.peak, *_interval(feature, example))


def columns(atlas: Atlas, sae: SaeRecord, feature: Feature) -> dict[str, object]:
    """Return what both say of a feature under the same names."""
    return {
        **EMPTY,
        "decoder_weights_dist": [rounded(share) for share in feature.head_shares],
        "neg_str": [atlas.pieces[token] for token in feature.bottom_tokens],
        "neg_values": [rounded(logit) for logit in feature.bottom_logits],
        "pos_str": [atlas.pieces[token] for token in feature.top_tokens],
        "pos_values": [rounded(logit) for logit in feature.top_logits],
        "frac_nonzero": feature.density,
        "correlated_features_indices": list(feature.companions),
        "correlated_features_pearson": [rounded(c) for c in feature.companion_correlations],
        **_bars("freq", sae.bin_edges, feature.histogram),
        **_bars("logits", sae.logit_bin_edges, feature.logit_histogram),
    }


def rounded(value: float) -> float:
    """Round as they do."""
    return round(value, DECIMALS)


def _interval(feature: Feature, example: Example) -> tuple[float, float, float]:
    if example.band < 0:
        return STRONGEST, rounded(feature.max), STRONGEST
    band = feature.bands[example.band]
    return rounded(band.low), rounded(band.high), band.share * feature.density


def _bars(name: str, edges: Sequence[float], counts: Sequence[int]) -> dict[str, object]:
    """Return a histogram from its first to its last bar, by the middles of the bins."""
    filled = [number for number, count in enumerate(counts) if count]
    bins = range(filled[0], filled[-1] + 1) if filled else ()
    return {
        f"{name}_hist_data_bar_values": [rounded((edges[n] + edges[n + 1]) / 2) for n in bins],
        f"{name}_hist_data_bar_heights": [counts[n] for n in bins],
    }
