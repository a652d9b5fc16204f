"""Search over REST, in all Saes of a run: by a label's words, tokens, numbers, text, direction."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import fastapi
from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from panscope.atlas.queries import Query
from panscope.atlas.records import FeatureRow
from panscope.errors import ConfigError, NotFound, nearest
from panscope.web.api import Limit, Name, Offset, Run, Text
from panscope.web.problem import FAILURES
from panscope.web.readings import Microscope, Near, Seen
from panscope.web.run import RunFolder

N_CANDIDATES = 20  # of each token and Sae; the features of a text are sought among them

router = APIRouter(prefix="/api", tags=["search"], responses=FAILURES)
Sites = Annotated[str, fastapi.Query(max_length=200)]
Share = Annotated[float | None, fastapi.Query(ge=-1, le=1)]
Words = Annotated[str, fastapi.Query(max_length=2_000)]


@dataclass(frozen=True, slots=True)
class Hit:
    """A feature that a search found; `value` is what it was ranked by, if not a column of `row`."""

    sae: str
    row: FeatureRow
    label: str
    value: float | None


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


class PromptRequest(BaseModel):
    """A text whose strongest features are asked for.

    `tokens` are places in the text without its BOS, none for all; `sites` is a name or glob. What
    ranks is the share of the feature's own maximum, the value, or the sum over the tokens; values
    of different sites are in different units.
    """

    model_config = ConfigDict(extra="forbid")
    text: Text
    sites: str = Field(default="", max_length=200)
    tokens: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list, max_length=4_096)
    by: Literal["share", "value", "sum"] = "share"
    max_density: float = Field(default=1.0, gt=0, le=1)
    limit: int = Field(default=50, ge=1, le=500)


class DirectionRequest(BaseModel):
    """A direction whose nearest features are asked for.

    Either a feature's (`sae`, `index`), or how a site differs between two texts on average over
    their tokens (`text` less `without`, at `site`).
    """

    model_config = ConfigDict(extra="forbid")
    sae: Name = ""
    index: int = 0
    text: Text = ""
    without: Text = ""
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
    known = run.catalogue.atlas.saes
    shown = [f.label for f in found[:limit] if f.label.sae in known]
    hits = [
        Hit(label.sae, run.catalogue.row(label.sae, label.index), label.text, None)
        for label in shown
        if label.index < known[label.sae].width
    ]
    return _hits(run, hits, offset + len(found), offset)


@router.get("/search/features")
def by_numbers(
    run: Run,
    query: Annotated[Query, Depends()],
    sites: Sites = "",
    min_score: Share = None,
    offset: Offset = 0,
    limit: Limit = 50,
) -> Hits:
    """List features of all Saes by token, density, maximum, site, and the score of their label.

    `sites` is a site's name or a glob such as `resid_post.*`; `min_score` compares with the best
    score of the label that is shown.
    """
    saes = saes_at(run, sites)
    only = None if min_score is None else {sae: run.notes.scored(sae, min_score) for sae in saes}
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
    saes = saes_at(run, request.sites)
    with run.turns.take():
        seen = run.live.microscope(request.text, N_CANDIDATES, request.max_density, saes)
    ranked = sorted(_strengths(seen, request), key=lambda found: -found[2])
    hits = [
        Hit(sae, run.catalogue.row(sae, index), run.label_text(sae, index), value)
        for sae, index, value in ranked[: request.limit]
    ]
    return replace(_hits(run, hits, len(ranked), 0), tokens=seen.tokens, note=seen.note)


@router.post("/search/direction")
def by_direction(run: Run, request: DirectionRequest) -> Hits:
    """Find the features whose decoder directions are nearest to a direction, in all Saes."""
    saes = saes_at(run, request.sites)
    if request.sae:
        run.catalogue.check(request.sae, request.index)
    elif not request.text.strip() or not request.without.strip():
        do = "give sae and index, or text, without and site"
        raise ConfigError("direction", "is neither a feature's nor a difference of texts", do)
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


def saes_at(run: RunFolder, sites: str) -> list[str]:
    """The Saes at sites that a name or glob means, all for an empty one.

    Raises NotFound with the nearest names if there is none.
    """
    records = list(run.catalogue.atlas.saes.values())
    if found := [r.sae for r in records if not sites or fnmatchcase(r.site, sites)]:
        return found
    known = nearest(sites, (record.site for record in records))
    raise NotFound(f"sites {sites!r}", "match no Sae of this run", known)


def _nearest(run: RunFolder, request: DirectionRequest, saes: Sequence[str]) -> Sequence[Near]:
    if request.sae:
        return run.live.nearest_to_feature(request.sae, request.index, saes, request.limit)
    texts = (request.text, request.without)
    return run.live.nearest_to_difference(*texts, request.site, saes, request.limit)


def _strengths(seen: Microscope, request: PromptRequest) -> Iterable[tuple[str, int, float]]:
    """Yield Sae, index and strength of every feature that fires on the tokens asked for."""
    asked = set(request.tokens) or set(range(len(seen.tokens)))
    if beyond := [token for token in asked if token >= len(seen.tokens)]:
        do = f"give places from 0 to {len(seen.tokens) - 1}"
        raise ConfigError(f"token {beyond[0]}", "is behind the end of the text", do)
    for reading in seen.saes:
        for feature in reading.features:
            values = _values_at(feature, asked)
            if values:
                yield reading.sae, feature.index, _strength(feature, values, request.by)


def _values_at(feature: Seen, asked: set[int]) -> list[float]:
    pairs = zip(feature.positions, feature.values, strict=True)
    return [value for position, value in pairs if position in asked]


def _strength(feature: Seen, values: Sequence[float], by: str) -> float:
    if by == "sum":
        return sum(values)
    return max(values) / (feature.max or 1.0) if by == "share" else max(values)


def _hits(run: RunFolder, hits: Sequence[Hit], total: int, offset: int) -> Hits:
    tokens = {t for hit in hits for t in hit.row.top_tokens + hit.row.peak_tokens}
    return Hits(total, offset, tuple(hits), run.catalogue.pieces(tokens))
