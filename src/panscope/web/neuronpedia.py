"""Neuronpedia's routes over a run folder, so that its clients work when they are pointed here.

Tokens begin with the BOS, as there, and its values are zero, as no Sae was trained on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from panscope.web.api import Name, Run, Text
from panscope.web.neuron import Neuron, Numbers, neuron
from panscope.web.neuron_notes import Explanation, Named, explanation, in_list, said
from panscope.web.problem import FAILURES
from panscope.web.readings import SaeReading, Seen
from panscope.web.run import RunFolder
from panscope.web.sources import check_model, chosen, model_of, sae_of, source_of

N_FOUND = 20  # explanations on a page of a search

router = APIRouter(prefix="/api", tags=["Neuronpedia"], responses=FAILURES)
Places = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 20)]], Field(max_length=4_096)]


class FeatureName(BaseModel):
    """A feature by model, source and index."""

    modelId: Name
    source: Name
    index: Annotated[str, Field(pattern=r"^\d{1,9}$")] | Annotated[int, Field(ge=0, lt=10**9)]


class ActivationRequest(BaseModel):
    """A text to run one feature on."""

    feature: FeatureName
    customText: Text


class SearchRequest(BaseModel):
    """A text to search with; no layers means all of the set, no places means the maximum."""

    modelId: Name
    sourceSet: Name
    text: Text
    selectedLayers: list[Name] = Field(default_factory=list, max_length=1_000)
    sortIndexes: Places = Field(default_factory=list)
    ignoreBos: bool = True
    densityThreshold: float = -1.0
    numResults: int = Field(default=50, ge=1, le=100)


class TopKRequest(BaseModel):
    """A text whose tokens are asked for their strongest features in one source."""

    modelId: Name
    source: Name
    text: Text
    numResults: int = Field(default=10, ge=1, le=20)
    ignoreBos: bool = True
    densityThreshold: float = 0.01


class ExplanationRequest(BaseModel):
    """Words to look for in the explanations of a model; no layers means all."""

    modelId: Name
    query: Annotated[str, Field(min_length=1, max_length=1_000)]
    layers: list[Name] = Field(default_factory=list, max_length=1_000)
    offset: int = Field(default=0, ge=0, lt=1 << 31)


@dataclass(frozen=True, slots=True)
class Values:
    """One feature's value on every token of a text."""

    tokens: list[str]
    values: Numbers
    maxValue: float
    maxValueTokenIndex: int
    minValue: float


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A feature that a text activates, and where."""

    modelId: str
    layer: str
    index: str
    values: Numbers
    maxValue: float
    maxValueIndex: int
    neuron: Neuron


@dataclass(frozen=True, slots=True)
class SearchResults:
    """The features that a text activates most, strongest first."""

    tokens: list[str]
    result: list[SearchHit]
    sortIndexes: list[int]


@dataclass(frozen=True, slots=True)
class TopFeature:
    """A feature that is among the strongest on a token."""

    activationValue: float
    featureIndex: int
    feature: Neuron


@dataclass(frozen=True, slots=True)
class TopOfToken:
    """The strongest features of one token."""

    position: int
    token: str
    isSpecial: bool
    topFeatures: list[TopFeature]


@dataclass(frozen=True, slots=True)
class TopResults:
    """The strongest features of each token of a text."""

    source: str
    results: list[TopOfToken]


@dataclass(frozen=True, slots=True)
class ExplanationResults:
    """A page of the explanations that a search found, best match first."""

    request: ExplanationRequest
    results: list[Explanation]
    resultsCount: int
    hasMore: bool
    nextOffset: int


@router.get("/feature/{modelId}/{source}/{index}")
def feature(run: Run, modelId: str, source: str, index: int) -> Neuron:
    """Give one feature with its activations, explanations, lists and comments."""
    check_model(modelId, run.model)
    sae = sae_of(source, run.catalogue.atlas.saes)
    named, notes = Named(model_of(run.model), sae, index), run.notes
    return replace(
        _neuron(run, sae, index),
        lists=[in_list(one, named) for one in notes.lists.of(sae, index)],
        comments=[said(one, named) for one in notes.comments.of(sae, index)],
    )


@router.post("/activation/new")
def activation(run: Run, request: ActivationRequest) -> Values:
    """Run one feature on a text; loads the model on first use."""
    asked = request.feature
    check_model(asked.modelId, run.model)
    sae, index = sae_of(asked.source, run.catalogue.atlas.saes), int(asked.index)
    run.catalogue.atlas.feature(sae, index)
    with run.turns.take():
        read = run.live.activations(request.customText, sae, index)
    values = np.array([0.0, *read.values])
    return Values(
        tokens=[_bos(run), *read.tokens],
        values=values.tolist(),
        maxValue=float(values.max()),
        maxValueTokenIndex=int(values.argmax()),
        minValue=float(values.min()),
    )


@router.post("/search-all")
def search_all(run: Run, request: SearchRequest) -> SearchResults:
    """Find the features that a text activates most, in one set at some layers.

    By their maximum, or by their sum over the tokens at `sortIndexes`; features count that are
    among the strongest `numResults` of their Sae on some token.
    """
    check_model(request.modelId, run.model)
    saes = chosen(request.sourceSet, request.selectedLayers, run.catalogue.atlas.saes)
    density = _max_density(request.densityThreshold)
    with run.turns.take():
        seen = run.live.microscope(request.text, request.numResults, density, saes)
    n_tokens = 1 + len(seen.tokens)
    at = [place for place in request.sortIndexes if place < n_tokens]
    hits = [
        (reading.sae, feature.index, _spread(feature, n_tokens))
        for reading in seen.saes
        for feature in reading.features
    ]
    hits.sort(key=lambda hit: -float(hit[2][at].sum() if at else hit[2].max()))
    found = [_hit(run, *hit) for hit in hits[: request.numResults]]
    return SearchResults([_bos(run), *seen.tokens], found, at)


@router.post("/search-topk-by-token")
def search_topk_by_token(run: Run, request: TopKRequest) -> TopResults:
    """Find the strongest features of each token of a text in one source."""
    check_model(request.modelId, run.model)
    sae = sae_of(request.source, run.catalogue.atlas.saes)
    density = _max_density(request.densityThreshold)
    with run.turns.take():
        seen = run.live.microscope(request.text, request.numResults, density, [sae])
    reading = seen.saes[0]
    neurons = [_neuron(run, sae, feature.index, False) for feature in reading.features]
    first = [] if request.ignoreBos else [TopOfToken(0, _bos(run), True, [])]
    results = [
        TopOfToken(1 + n, token, False, _top(reading, neurons, n))
        for n, token in enumerate(seen.tokens)
    ]
    return TopResults(source_of(sae), first + results)


@router.post("/explanation/search")
def search_explanations(run: Run, request: ExplanationRequest) -> ExplanationResults:
    """Find explanations by their words, best match first."""
    check_model(request.modelId, run.model)
    saes = {sae_of(layer, run.catalogue.atlas.saes) for layer in request.layers}
    one = next(iter(saes)) if len(saes) == 1 else ""
    found = run.notes.search(request.query, N_FOUND + 1, request.offset, one)
    kept = [f.label for f in found[:N_FOUND] if not saes or f.label.sae in saes]
    model = model_of(run.model)
    results = [explanation(label, Named(model, label.sae, label.index)) for label in kept]
    more = len(found) > N_FOUND
    return ExplanationResults(
        request, results, len(results), more, request.offset + min(len(found), N_FOUND)
    )


def _neuron(run: RunFolder, sae: str, index: int, with_activations: bool = True) -> Neuron:
    view = run.catalogue.feature(sae, index)
    labels = run.notes.labels(sae, index)
    return neuron(view, model_of(run.model), labels, with_activations)


def _hit(run: RunFolder, sae: str, index: int, values: NDArray[np.float64]) -> SearchHit:
    return SearchHit(
        **Named(model_of(run.model), sae, index).keys(),
        values=values.tolist(),
        maxValue=float(values.max()),
        maxValueIndex=int(values.argmax()),
        neuron=_neuron(run, sae, index, with_activations=False),
    )


def _top(reading: SaeReading, neurons: Sequence[Neuron], token: int) -> list[TopFeature]:
    top = []
    for place in reading.strongest[token]:
        seen = reading.features[place]
        value = seen.values[seen.positions.index(token)]
        top.append(TopFeature(value, seen.index, neurons[place]))
    return top


def _spread(seen: Seen, n_tokens: int) -> NDArray[np.float64]:
    """Return a feature's values on all tokens, the BOS first."""
    values = np.zeros(n_tokens)
    values[np.asarray(seen.positions, int) + 1] = seen.values
    return values


def _max_density(threshold: float) -> float:
    """Return the highest density that counts; a threshold that is none lets all through."""
    return threshold if 0 < threshold < 1 else 1.0


def _bos(run: RunFolder) -> str:
    """Return the piece at the beginning of every context."""
    return run.catalogue.atlas.pieces[run.catalogue.contexts.bos]
