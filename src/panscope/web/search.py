"""Search over REST, in all Saes of a run: by labels, numbers, what a text fires, directions."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Annotated

from fastapi import APIRouter, Depends

from panscope.atlas.labels import Label
from panscope.atlas.queries import Query
from panscope.errors import ConfigError, NotFound, nearest
from panscope.stages import explain
from panscope.web.api import Limit, Offset, Run
from panscope.web.problem import FAILURES
from panscope.web.readings import Microscope, Near, Seen
from panscope.web.run import RunFolder
from panscope.web.sought import (
    Direction,
    DirectionRequest,
    Hit,
    Hits,
    Layer,
    MeaningRequest,
    PromptRequest,
    ScoreQuery,
    Sites,
    Words,
)

EMBEDDING_SECONDS = 10.0  # for a text's vector: who searches waits, and so do others
N_CANDIDATES = 20  # of each token and Sae; the features of a text are sought among them

router = APIRouter(prefix="/api", tags=["search"], responses=FAILURES)


@router.get("/search/labels")
def by_words(run: Run, text: Words, sae: Words = "", offset: Offset = 0, limit: Limit = 50) -> Hits:
    """Find features by the words of their labels, best match first."""
    found = run.notes.search(text, limit + 1, offset, sae)
    hits = _described(run, [f.label for f in found[:limit]])
    is_behind = offset > 0 and not found
    total = len(run.notes.search(text, offset, 0, sae)) if is_behind else offset + len(found)
    return _hits(run, hits, total, offset)


@router.post("/search/meanings")
def by_meaning(run: Run, request: MeaningRequest) -> Hits:
    """Find features by what their labels mean, nearest first; `value` is the cosine.

    The text goes to the embedding model that the run's recipe names, and is asked about once.
    """
    endpoint = explain.embedding_of(run.folder)
    quick = endpoint.model_copy(update={"tries": 1, "timeout_seconds": EMBEDDING_SECONDS})
    with run.turns.take() as ending:
        asked = (request.text, request.limit, request.sae)
        found = explain.search(quick, run.notes, *asked, ending)
    hits = [replace(hit, value=1 - f.rank) for f in found for hit in _described(run, [f.label])]
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
    bounds = score.min_score, score.max_score, score.scorer
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
