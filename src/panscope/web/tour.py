"""The guided tour: look at a text, guess what features mean and check it, steer, open problems.

Its puzzles come out of the atlas that is being shown: features of three degrees of difficulty, by
how many different tokens they peak on.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from panscope.atlas.queries import Catalogue
from panscope.atlas.records import Example
from panscope.atlas.short import Columns
from panscope.atlas.views import FeatureView
from panscope.web.api import Run, first_of_each_site
from panscope.web.pages import page

BEFORE, AFTER = 16, 8  # tokens around a peak
N_SHOWN, N_FIRING, N_SILENT = 5, 2, 2
N_TRIED = 40  # features that are asked for silent passages, 3 ms each
LEVELS = {"easy": (1, 1), "medium": (2, 3), "hard": (4, 5)}
DENSITIES = 1e-4, 1e-2  # rarer ones have few examples, denser ones mean many things

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@dataclass(frozen=True, slots=True)
class Passage:
    """Some tokens around a place, and a feature's value on each."""

    pieces: tuple[str, ...]
    values: tuple[float, ...]
    peak: int


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A feature to be guessed: passages where it fires, and some more to check the guess on.

    `silent` passages are other features', without any token on which this one is seen to fire.
    """

    level: str
    sae: str
    index: int
    max: float
    shown: tuple[Passage, ...]
    firing: tuple[Passage, ...]
    silent: tuple[Passage, ...]
    promotes: tuple[str, ...]


@router.get("/tour")
def tour(request: Request, run: Run) -> HTMLResponse:
    """Show the tour; steering is a part of it where there is a suite to steer with."""
    sae = chosen_sae(run.catalogue)
    found = puzzles(run.catalogue, sae)
    return page(request, "tour.html", sae=sae, puzzles=found, live=run.has_suite)


def chosen_sae(catalogue: Catalogue) -> str:
    """Take the residual stream two thirds of the way up, where features are most abstract."""
    saes = first_of_each_site(catalogue)
    residual = [sae for sae in saes if sae.startswith("resid_post.")] or saes
    return residual[2 * len(residual) // 3]


def puzzles(catalogue: Catalogue, sae: str) -> list[Puzzle]:
    """Choose one feature of each level that has examples enough; the same each time."""
    columns, random = catalogue.columns(sae), np.random.default_rng(0)
    found = []
    for level, (least, most) in LEVELS.items():
        for index in random.permutation(_candidates(columns, least, most)).tolist():
            if puzzle := _puzzle(catalogue, sae, index, level):
                found.append(puzzle)
                break
    return found


def _candidates(columns: Columns, least: int, most: int) -> list[int]:
    n_tokens = (columns.peak_tokens >= 0).sum(axis=1)
    fits = (n_tokens >= least) & (n_tokens <= most) & (columns.density > 0)
    usual = fits & (columns.density >= DENSITIES[0]) & (columns.density <= DENSITIES[1])
    return [int(index) for index in np.flatnonzero(usual if usual.any() else fits)]


def _puzzle(catalogue: Catalogue, sae: str, index: int, level: str) -> Puzzle | None:
    view = catalogue.feature(sae, index)
    passages = list(_distinct(view))
    shown = [passage for band, passage in passages if band == -1][:N_SHOWN]
    firing = [passage for _, passage in passages if passage not in shown][:N_FIRING]
    silent = _silent(catalogue, view)
    if len(shown) < 2 or len(firing) < N_FIRING or len(silent) < N_SILENT:
        return None
    return Puzzle(
        level=level,
        sae=sae,
        index=index,
        max=view.feature.max,
        shown=tuple(shown),
        firing=tuple(firing),
        silent=silent,
        promotes=tuple(view.pieces[token] for token in view.feature.top_tokens[:6]),
    )


def _distinct(view: FeatureView) -> Iterator[tuple[int, Passage]]:
    """The passages of a feature's examples with their bands; one a context, no text twice."""
    contexts, texts = set[int](), set[tuple[str, ...]]()
    for example in view.feature.examples:
        passage = _passage(view, example)
        if example.context not in contexts and passage.pieces not in texts:
            contexts.add(example.context)
            texts.add(passage.pieces)
            yield example.band, passage


def _silent(catalogue: Catalogue, view: FeatureView) -> tuple[Passage, ...]:
    """Take passages of the next features, without any token on which this one is seen to fire."""
    fires_on = _firing_pieces(view)
    found: list[Passage] = []
    other = view
    for _ in range(N_TRIED):
        if other.next is None or len(found) == N_SILENT:
            break
        other = catalogue.feature(view.sae.sae, other.next)
        theirs = (replace(p, values=(0.0,) * len(p.values)) for _, p in _distinct(other))
        free = (p for p in theirs if fires_on.isdisjoint(p.pieces) and p not in found)
        found += itertools.islice(free, 1)
    return tuple(found)


def _firing_pieces(view: FeatureView) -> frozenset[str]:
    contexts = {context.context: context for context in view.contexts}
    return frozenset(
        view.pieces[contexts[example.context].tokens[position]]
        for example in view.feature.examples
        for position in example.positions
    )


def _passage(view: FeatureView, example: Example) -> Passage:
    context = next(c for c in view.contexts if c.context == example.context)
    first = max(1, example.peak - BEFORE)  # the BOS is left out
    span = range(first, min(len(context.tokens), example.peak + AFTER + 1))
    values = dict(zip(example.positions, example.values, strict=True))
    return Passage(
        pieces=tuple(view.pieces[context.tokens[position]] for position in span),
        values=tuple(values.get(position, 0.0) for position in span),
        peak=example.peak - first,
    )
