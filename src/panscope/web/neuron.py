"""A feature as Neuronpedia lays it out: its keys, its types, its strings for layers and indices.

What panscope does not know is there and empty, since clients read the keys without asking.
"""

from dataclasses import dataclass, field

import numpy as np

from panscope.atlas.labels import Label
from panscope.atlas.records import Context, Example
from panscope.atlas.views import FeatureView
from panscope.web.neuron_notes import Explanation, InList, Named, Said, explanation
from panscope.web.sources import set_of

Numbers = list[float]
WHOLE = -1.0  # binMin and binContains of the strongest examples


@dataclass(frozen=True, slots=True)
class Activation:
    """An example: every token of its context, the BOS included, and the feature's value on it.

    `binContains` is the share of all tokens that fall between `binMin` and `binMax`; the strongest
    examples have -1 there.
    """

    modelId: str
    layer: str
    index: str
    tokens: list[str]
    values: Numbers
    maxValue: float
    maxValueTokenIndex: int
    minValue: float
    binMin: float
    binMax: float
    binContains: float
    qualifyingTokenIndex: int
    dataIndex: str
    dataSource: str
    dfaValues: Numbers = field(default_factory=list)
    dfaTargetIndex: int | None = None
    dfaMaxValue: float | None = None


@dataclass(frozen=True, slots=True)
class Neuron:
    """A feature. `freq_hist_data_bar_values` are the middles of its bins, which are logarithmic."""

    modelId: str
    layer: str
    index: str
    sourceSetName: str
    hookName: str
    maxActApprox: float
    frac_nonzero: float
    pos_str: list[str]
    pos_values: Numbers
    neg_str: list[str]
    neg_values: Numbers
    freq_hist_data_bar_heights: Numbers
    freq_hist_data_bar_values: Numbers
    logits_hist_data_bar_heights: Numbers
    logits_hist_data_bar_values: Numbers
    topkCosSimIndices: list[int]
    topkCosSimValues: Numbers
    explanations: list[Explanation]
    activations: list[Activation] = field(default_factory=list)
    hasVector: bool = False
    vector: Numbers = field(default_factory=list)
    vectorLabel: str | None = None
    vectorDefaultSteerStrength: float | None = None
    creatorId: str = "panscope"
    createdAt: str = ""
    decoder_weights_dist: Numbers = field(default_factory=list)
    neuron_alignment_indices: list[int] = field(default_factory=list)
    neuron_alignment_values: Numbers = field(default_factory=list)
    neuron_alignment_l1: Numbers = field(default_factory=list)
    correlated_neurons_indices: list[int] = field(default_factory=list)
    correlated_neurons_pearson: Numbers = field(default_factory=list)
    correlated_neurons_l1: Numbers = field(default_factory=list)
    correlated_features_indices: list[int] = field(default_factory=list)
    correlated_features_pearson: Numbers = field(default_factory=list)
    correlated_features_l1: Numbers = field(default_factory=list)
    lists: list[InList] = field(default_factory=list)
    comments: list[Said] = field(default_factory=list)


def neuron(
    view: FeatureView, model: str, labels: tuple[Label, ...], with_activations: bool = True
) -> Neuron:
    """Lay a feature out; `labels` newest first."""
    feature, named = view.feature, Named(model, view.sae.sae, view.feature.index)
    contexts = {context.context: context for context in view.contexts}
    shown = feature.examples if with_activations else ()
    companions = getattr(feature, "companions", ())
    return Neuron(
        **named.keys(),
        sourceSetName=set_of(view.sae.sae),
        hookName=view.sae.site,
        maxActApprox=feature.max,
        frac_nonzero=feature.density,
        pos_str=[view.pieces[token] for token in feature.top_tokens],
        pos_values=list(feature.top_logits),
        neg_str=[view.pieces[token] for token in feature.bottom_tokens],
        neg_values=list(feature.bottom_logits),
        freq_hist_data_bar_heights=list(map(float, feature.histogram)),
        freq_hist_data_bar_values=_geometric_middles(view.sae.bin_edges),
        logits_hist_data_bar_heights=list(map(float, getattr(feature, "logit_histogram", ()))),
        logits_hist_data_bar_values=_middles(getattr(view.sae, "logit_bin_edges", ())),
        topkCosSimIndices=list(feature.neighbours),
        topkCosSimValues=list(feature.neighbour_cosines),
        correlated_features_indices=list(companions),
        correlated_features_pearson=list(getattr(feature, "companion_correlations", ())),
        decoder_weights_dist=list(feature.head_shares),
        explanations=[explanation(label, named) for label in labels],
        activations=[_activation(view, named, e, contexts[e.context]) for e in shown],
    )


def _activation(view: FeatureView, named: Named, example: Example, context: Context) -> Activation:
    feature = view.feature
    values = np.zeros(len(context.tokens))
    values[list(example.positions)] = example.values
    band = feature.bands[example.band] if example.band >= 0 else None
    return Activation(
        **named.keys(),
        tokens=[view.pieces[token] for token in context.tokens],
        values=values.tolist(),
        maxValue=float(values.max()),
        maxValueTokenIndex=int(values.argmax()),
        minValue=float(values.min()),
        binMin=band.low if band else WHOLE,
        binMax=band.high if band else feature.max,
        binContains=band.share * feature.density if band else WHOLE,
        qualifyingTokenIndex=example.peak,
        dataIndex=str(context.context),
        dataSource=context.kind,
    )


def _geometric_middles(edges: tuple[float, ...]) -> Numbers:
    logs = np.log(np.asarray(edges))
    return [float(middle) for middle in np.exp((logs[1:] + logs[:-1]) / 2)]


def _middles(edges: tuple[float, ...]) -> Numbers:
    numbers = np.asarray(edges)
    return [float(middle) for middle in (numbers[1:] + numbers[:-1]) / 2]
