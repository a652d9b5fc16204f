"""The pages: a template each, filled with what the API gives; scripts then make them move."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates
from pydantic_core import to_json

from panscope.atlas.alive import random_alive
from panscope.atlas.queries import Catalogue
from panscope.errors import ConfigError, NotFound, nearest
from panscope.stages import explain
from panscope.web.api import Run
from panscope.web.embed import Embed
from panscope.web.headers import POLICY_EMBEDDED
from panscope.web.numbers import count, density, number, percent, visible
from panscope.web.run import RunFolder, SaeView
from panscope.web.search import layer_of

HERE = Path(__file__).parent
N_SAMPLE_TOKENS = 48
N_KEPT = 100  # comments on a feature, or lists with it, that its page shows
MAPS = {
    "pca": "The two directions of largest variance of the decoder (PCA)",
    "umap": "Neighbourhoods of decoder directions by cosine (UMAP)",
}
SEARCHES = {
    "words": "Words of labels",
    "meaning": "Meaning of labels",
    "numbers": "Tokens and numbers",
    "text": "A text",
    "direction": "A direction",
}

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)


def plain(record: Any) -> dict[str, Any]:
    """A record's fields by name; records inside it are left to `as_json`.

    (dataclasses.asdict copies each number: 12 ms for a feature, of which a page may take 15.)
    """
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def as_json(value: Any, **_: Any) -> str:
    """Write records and plain values as JSON for a page's scripts; what JSON lacks becomes null."""
    return to_json(value, inf_nan_mode="null").decode()


def points(saes: Iterable[SaeView]) -> list[dict[str, Any]]:
    """What the plot needs of each Sae: its scalars, without metrics by position or by bin."""
    return [
        {**plain(sae), "metrics": {k: v for k, v in sae.metrics.items() if not isinstance(v, list)}}
        for sae in saes
        if sae.metrics
    ]


templates = Jinja2Templates(HERE / "templates")
templates.env.filters |= {
    "number": number,
    "count": count,
    "density": density,
    "percent": percent,
    "plain": plain,
    "points": points,
    "visible": visible,
}
templates.env.policies["json.dumps_function"] = as_json
templates.env.trim_blocks = templates.env.lstrip_blocks = True


def page(request: Request, name: str, **values: Any) -> HTMLResponse:
    """Fill a template; `status` is both the page's HTTP status and a value it can show."""
    status = values.get("status", 200)
    return templates.TemplateResponse(request, name, values, status_code=status)


@router.get("/")
def suite(request: Request, run: Run) -> HTMLResponse:
    """Show all Saes of the run."""
    return page(request, "suite.html", suite=run.suite())


@router.get("/microscope")
def microscope(request: Request, run: Run) -> HTMLResponse:
    """Show the microscope."""
    catalogue = run.catalogue
    saes = list(catalogue.atlas.saes.values())
    names = list(dict.fromkeys(record.sae.partition("/")[2] for record in saes))
    return page(request, "microscope.html", saes=saes, names=names, samples=samples(catalogue))


def samples(catalogue: Catalogue) -> list[dict[str, str]]:
    """A passage of each kind of text, to pick instead of typing."""
    shown = catalogue.atlas.pieces
    return [
        {"kind": c.kind, "text": "".join(shown[t] for t in c.tokens[1:N_SAMPLE_TOKENS]).strip()}
        for c in catalogue.contexts.one_of_each_kind()
    ]


@router.get("/search")
def search(request: Request, run: Run, by: str = "words") -> HTMLResponse:
    """Show the search; `by` is one of its kinds."""
    if by not in SEARCHES:
        raise NotFound(f"search by {by!r}", "is no kind of search", nearest(by, SEARCHES))
    saes = list(run.catalogue.atlas.saes.values())
    return page(
        request,
        "search.html",
        by=by,
        searches=SEARCHES,
        saes=[record.sae for record in saes],
        sites=list(dict.fromkeys(record.site for record in saes)),
        layers=sorted({n for record in saes if (n := layer_of(record.site)) is not None}),
        samples=samples(run.catalogue),
        missing=_missing(run, by),
    )


def _missing(run: RunFolder, by: str) -> str:
    """Say what a kind of search lacks in this run, and how to get it; empty if it lacks nothing."""
    if by in ("text", "direction") and not run.has_suite:
        return "This search runs the model, and this run has no suite; panscope train makes it"
    if by != "meaning":
        return ""
    try:
        explain.embedding_of(run.folder)
    except ConfigError as error:
        return str(error)
    return ""


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    """Show the API, drawn from /openapi.json without anything from elsewhere."""
    return page(request, "docs.html")


@router.get("/help")
def help_page(request: Request) -> HTMLResponse:
    """Say what each page shows."""
    return page(request, "help.html")


@router.get("/sae/{sae:path}/random")
def random_feature(run: Run, sae: str) -> RedirectResponse:
    """Go to any alive feature."""
    columns = run.catalogue.columns(sae)
    index = random_alive(columns, np.random.default_rng())
    return RedirectResponse(f"/sae/{sae}/{index}", headers={"cache-control": "no-store"})


@router.get("/sae/{sae:path}/{index:int}")
def feature(request: Request, run: Run, sae: str, index: int) -> HTMLResponse:
    """Show one feature."""
    view, embed = run.catalogue.feature(sae, index), Embed.of(request.query_params)
    near = {row.index for row in (*view.neighbours, *view.encoder_neighbours, *view.companions)}
    answer = page(
        request,
        "feature.html",
        view=view,
        densities=run.catalogue.densities(sae),
        labels=run.notes.labels(sae, index),
        shown=run.notes.label_of(sae, index),
        label_texts=run.notes.texts(sae, near),
        starred=run.notes.saved.is_bookmarked(sae, index),
        lists=run.notes.lists.of(sae, index, N_KEPT),
        comments=run.notes.comments.of(sae, index, N_KEPT + 1),
        n_kept=N_KEPT,
        live=run.has_suite,
        embed=embed,
    )
    if embed.on:
        answer.headers["content-security-policy"] = POLICY_EMBEDDED
    return answer


@router.get("/sae/{sae:path}")
def sae(request: Request, run: Run, sae: str) -> HTMLResponse:
    """Show one Sae and the list of its features."""
    densities = run.catalogue.densities(sae)
    how = run.catalogue.atlas.manifest.config.get("map", "pca")
    drawn = MAPS[how] if run.catalogue.has_place(sae) else None
    return page(request, "sae.html", sae=run.sae(sae), densities=densities, map=drawn)
