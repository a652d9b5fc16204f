"""Search over REST, in all Saes of a run: by labels, numbers, what a text fires, directions."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import fastapi
from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from panscope.atlas.labels import Label
from panscope.atlas.queries import Query
from panscope.atlas.records import FeatureRow
from panscope.errors import ConfigError, NotFound, nearest
from panscope.stages import explain
from panscope.web.api import Limit, Name, Offset, Run, Text
from panscope.web.problem import FAILURES
from panscope.web.readings import Microscope, Near, Seen
from panscope.web.run import RunFolder

EMBEDDING_SECONDS = 10.0  # for a text's vector: who searches waits, and so do others
N_CANDIDATES = 20  # of each token and Sae; the features of a text are sought among them

router = APIRouter(prefix="/api", tags=["search"], responses=FAILURES)
Sites = Annotated[str, fastapi.Query(max_length=200)]
Share = Annotated[float, fastapi.Query(ge=-1, le=1)]
Layer = Annotated[int | None, fastapi.Query(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Words = Annotated[str, fastapi.Query(max_length=2_000)]


@dataclass(frozen=True, slots=True)
class Hit:
    """A feature that a search found; `value` is what it was ranked by, if not a column of `row`.

    By a text: `positions` are the places of its tokens at which the feature fires, `values` how.
    """

    sae: str
    row: FeatureRow
    label: str
    value: float | None
    positions: tuple[int, ...] = ()
    values: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Hits:
    """A window on what a search found, and the text of the tokens in it.

    `total` counts all that was found; of labels, no more than one beyond the window. `tokens` are
    those of the text that was asked about, `note` says what of it was cut.
    """

    total: int
    offset: int
    hits: tuple[Hit, ...]
    pieces: dict[int, str]
    tokens: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class ScoreQuery:
    """Between which bounds a label's score must lie: that of one scorer, or its best."""

    scorer: Literal["", "detection", "fuzzing", "simulation"] = ""
    min_score: Share = -1.0
    max_score: Share = 1.0

    @property
    def asks(self) -> bool:
        """Whether any label could fail to fit."""
        return (self.scorer, self.min_score, self.max_score) != ("", -1.0, 1.0)


class PromptRequest(BaseModel):
    """A text whose strongest features are asked for.

    `tokens` are places in the text without its BOS, none for all; `sites` is a name or glob. What
    ranks is the share of the feature's own maximum, the value, or the sum over the tokens; values
    of different sites are in different units.
    """

    model_config = ConfigDict(extra="forbid")
    text: Text
    sites: str = Field(default="", max_length=200)
    layer: int | None = Field(default=None, ge=0)
    tokens: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list, max_length=4_096)
    by: Literal["share", "value", "sum"] = "share"
    max_density: float = Field(default=1.0, gt=0, le=1)
    limit: int = Field(default=50, ge=1, le=500)


class MeaningRequest(BaseModel):
    """Words whose meaning is looked for among the labels of one Sae, or of all."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1, max_length=2_000)
    sae: Name = ""
    limit: int = Field(default=50, ge=1, le=500)


class DirectionRequest(BaseModel):
    """A direction whose nearest features are asked for.

    A feature's (`sae`, `index`), a `vector` of as many numbers as `site` has, or how that site
    differs between two texts on average over their tokens (`text` less `without`).
    """

    model_config = ConfigDict(extra="forbid")
    sae: Name = ""
    index: int = 0
    text: Text = ""
    without: Text = ""
    vector: list[Number] = Field(default_factory=list, max_length=16_384)
    site: Name = ""
    sites: str = Field(default="", max_length=200)
    limit: int = Field(default=50, ge=1, le=500)


@dataclass(frozen=True, slots=True)
class Direction:
    """The direction that a feature writes at full length, in the units of its site."""

    sae: str
    index: int
    direction: tuple[float, ...]


@router.get("/search/labels")
def by_words(run: Run, text: Words, sae: Words = "", offset: Offset = 0, limit: Limit = 50) -> Hits:
    """Find features by the words of their labels, best match first."""
    found = run.notes.search(text, limit + 1, offset, sae)
    hits = _described(run, [f.label for f in found[:limit]])
    return _hits(run, hits, offset + len(found), offset)


@router.post("/search/meanings")
def by_meaning(run: Run, request: MeaningRequest) -> Hits:
    """Find features by what their labels mean, nearest first; `value` is the cosine.

    The text goes to the embedding model that the run's recipe names, and is asked about once.
    """
    endpoint = explain.embedding_of(run.folder)
    quick = endpoint.model_copy(update={"tries": 1, "timeout_seconds": EMBEDDING_SECONDS})
    with run.turns.take():
        found = explain.search(quick, run.notes, request.text, request.limit, request.sae)
    cosines = {(f.label.sae, f.label.index): 1 - f.rank for f in found}
    known = _described(run, [f.label for f in found])
    hits = [replace(hit, value=cosines[hit.sae, hit.row.index]) for hit in known]
    return _hits(run, hits, len(hits), 0)


@router.get("/search/features")
def by_numbers(
    run: Run,
    query: Annotated[Query, Depends()],
    score: Annotated[ScoreQuery, Depends()],
    sites: Sites = "",
    layer: Layer = None,
    offset: Offset = 0,
    limit: Limit = 50,
) -> Hits:
    """List features of all Saes by token, density, maximum, place, and the score of their label.

    `sites` is a site's name or a glob such as `resid_post.*`. `min_score` and `max_score` bound a
    score of the label that is shown: that of `scorer`, or the best.
    """
    saes = saes_at(run, sites, layer)
    bounds = (score.min_score, score.max_score, score.scorer)
    only = {sae: run.notes.scored(sae, *bounds) for sae in saes} if score.asks else None
    total, found = run.catalogue.across(saes, query, offset, limit, only)
    hits = [
        Hit(sae, run.catalogue.row(sae, index), run.label_text(sae, index), None)
        for sae, index in found
    ]
    return _hits(run, hits, total, offset)


@router.post("/search/prompt")
def by_prompt(run: Run, request: PromptRequest) -> Hits:
    """Find the strongest features of a text, or of some of its tokens, in all Saes.

    They are sought among the 20 strongest of each token in each Sae.
    """
    saes = saes_at(run, request.sites, request.layer)
    with run.turns.take():
        seen = run.live.microscope(request.text, N_CANDIDATES, request.max_density, saes)
    ranked = sorted(_strengths(seen, request), key=lambda found: -found[2])
    hits = [
        Hit(
            sae,
            run.catalogue.row(sae, f.index),
            run.label_text(sae, f.index),
            value,
            f.positions,
            f.values,
        )
        for sae, f, value in ranked[: request.limit]
    ]
    return replace(_hits(run, hits, len(ranked), 0), tokens=seen.tokens, note=seen.note)


@router.post("/search/direction")
def by_direction(run: Run, request: DirectionRequest) -> Hits:
    """Find the features whose decoder directions are nearest to a direction, in all Saes."""
    saes = saes_at(run, request.sites)
    if request.sae:
        run.catalogue.check(request.sae, request.index)
    elif not request.vector and not (request.text.strip() and request.without.strip()):
        do = "give sae and index, or vector and site, or text, without and site"
        found = "is neither a feature's nor a vector nor a difference of texts"
        raise ConfigError("direction", found, do)
    with run.turns.take():
        near = _nearest(run, request, saes)
    hits = [
        Hit(n.sae, run.catalogue.row(n.sae, n.index), run.label_text(n.sae, n.index), n.cosine)
        for n in near
    ]
    return _hits(run, hits, len(hits), 0)


@router.get("/sae/{sae:path}/feature/{index}/elsewhere")
def elsewhere(run: Run, sae: str, index: int) -> Hits:
    """List the features of other Saes that write most nearly the same."""
    near = run.catalogue.record(sae, index).elsewhere
    hits = [
        Hit(e.sae, run.catalogue.row(e.sae, e.index), run.label_text(e.sae, e.index), e.cosine)
        for e in near
    ]
    return _hits(run, hits, len(hits), 0)


@router.get("/sae/{sae:path}/feature/{index}/direction")
def direction(run: Run, sae: str, index: int) -> Direction:
    """Give the decoder's direction of a feature; loads the Sae on first use."""
    run.catalogue.check(sae, index)
    with run.turns.take():
        return Direction(sae, index, run.live.direction(sae, index))


def saes_at(run: RunFolder, sites: str, layer: int | None = None) -> list[str]:
    """The Saes at sites that a name or glob means, all for an empty one; of one layer or of all.

    Raises NotFound with the nearest names if there is none.
    """
    records = list(run.catalogue.atlas.saes.values())
    named = [r for r in records if not sites or fnmatchcase(r.site, sites)]
    if not named:
        known = nearest(sites, (record.site for record in records))
        raise NotFound(f"sites {sites!r}", "match no Sae of this run", known)
    if found := [r.sae for r in named if layer is None or layer_of(r.site) == layer]:
        return found
    layers = sorted({n for r in named if (n := layer_of(r.site)) is not None})
    raise NotFound(f"layer {layer}", "has no such Sae", f"known: {', '.join(map(str, layers))}")


def layer_of(site: str) -> int | None:
    """The layer of a site by its name, also where several are read at once.

    >>> layer_of("resid_post.12"), layer_of("mlp_in.3+mlp_out.3"), layer_of("embed")
    (12, 3, None)
    """
    return next((int(part) for part in re.split(r"\W", site) if part.isdecimal()), None)


def _nearest(run: RunFolder, request: DirectionRequest, saes: Sequence[str]) -> Sequence[Near]:
    if request.sae:
        return run.live.nearest_to_feature(request.sae, request.index, saes, request.limit)
    if request.vector:
        return run.live.nearest_to_vector(request.vector, request.site, saes, request.limit)
    texts = (request.text, request.without)
    return run.live.nearest_to_difference(*texts, request.site, saes, request.limit)


def _strengths(seen: Microscope, request: PromptRequest) -> Iterable[tuple[str, Seen, float]]:
    """Yield Sae, feature and strength of every feature that fires on the tokens asked for."""
    asked = set(request.tokens) or set(range(len(seen.tokens)))
    if beyond := [token for token in asked if token >= len(seen.tokens)]:
        do = f"give places from 0 to {len(seen.tokens) - 1}"
        raise ConfigError(f"token {beyond[0]}", "is behind the end of the text", do)
    for reading in seen.saes:
        for feature in reading.features:
            values = _values_at(feature, asked)
            if values:
                yield reading.sae, feature, _strength(feature, values, request.by)


def _values_at(feature: Seen, asked: set[int]) -> list[float]:
    pairs = zip(feature.positions, feature.values, strict=True)
    return [value for position, value in pairs if position in asked]


def _strength(feature: Seen, values: Sequence[float], by: str) -> float:
    if by == "sum":
        return sum(values)
    return max(values) / (feature.max or 1.0) if by == "share" else max(values)


def _described(run: RunFolder, labels: Iterable[Label]) -> list[Hit]:
    """The features of labels, as far as the atlas has them: notes may be older."""
    known = run.catalogue.atlas.saes
    return [
        Hit(label.sae, run.catalogue.row(label.sae, label.index), label.text, None)
        for label in labels
        if label.sae in known and label.index < known[label.sae].width
    ]


def _hits(run: RunFolder, hits: Sequence[Hit], total: int, offset: int) -> Hits:
    tokens = {t for hit in hits for t in hit.row.top_tokens + hit.row.peak_tokens}
    return Hits(total, offset, tuple(hits), run.catalogue.pieces(tokens))
