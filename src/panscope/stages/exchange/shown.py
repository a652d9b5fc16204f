"""A feature as SAEDashboard and Neuronpedia lay it out: strings for tokens, a value for each.

Both have one object an example with the interval of activations that it was chosen from; the
strongest contexts have -1 for both its lower end and its share. What an Atlas does not keep
(alignment with neurons, correlations, the logits' histogram) is left empty, as they allow.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from panscope.atlas.features import Atlas
from panscope.atlas.records import Example, Feature, SaeRecord

DECIMALS = 5
FEATURES_PER_FILE = 256
STRONGEST = -1.0
EMPTY: dict[str, list[float]] = {
    f"{table}_{column}": []
    for table, columns in {
        "neuron_alignment": ("indices", "values", "l1"),
        "correlated_neurons": ("indices", "l1", "pearson"),
        "correlated_features": ("indices", "l1", "pearson"),
        "logits_hist_data_bar": ("heights", "values"),
    }.items()
    for column in columns
}


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
        "decoder_weights_dist": [],
        "neg_str": [atlas.pieces[token] for token in feature.bottom_tokens],
        "neg_values": [rounded(logit) for logit in feature.bottom_logits],
        "pos_str": [atlas.pieces[token] for token in feature.top_tokens],
        "pos_values": [rounded(logit) for logit in feature.top_logits],
        "frac_nonzero": feature.density,
        **_bars(sae, feature),
    }


def rounded(value: float) -> float:
    """Round as they do."""
    return round(value, DECIMALS)


def _interval(feature: Feature, example: Example) -> tuple[float, float, float]:
    if example.band < 0:
        return STRONGEST, rounded(feature.max), STRONGEST
    band = feature.bands[example.band]
    return rounded(band.low), rounded(band.high), band.share * feature.density


def _bars(sae: SaeRecord, feature: Feature) -> dict[str, object]:
    """Return the histogram from its first to its last bar, by the middles of the bins."""
    filled = [number for number, count in enumerate(feature.histogram) if count]
    bins = range(filled[0], filled[-1] + 1)
    edges = sae.bin_edges
    return {
        "freq_hist_data_bar_values": [rounded((edges[n] + edges[n + 1]) / 2) for n in bins],
        "freq_hist_data_bar_heights": [feature.histogram[n] for n in bins],
    }
