"""The pages: a template each, filled with what the API gives; scripts then make them move."""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates
from pydantic_core import to_json

from panscope.atlas.queries import Catalogue, density_histogram, random_alive
from panscope.web.api import Run
from panscope.web.run import SaeView

HERE = Path(__file__).parent
THIN = "\u202f"  # a narrow blank at which no line breaks
NOTHING = "–"
N_SAMPLE_TOKENS = 48

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, thin blanks in thousands; small and large ones by power of ten.

    >>> number(0.123456), number(1234.5), number(2e-7), number(None)
    ('0.123', '1\u202f230', '2.00e-7', '–')
    """
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if not -4 < power < 9:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    shown = f"{round(value, digits - 1 - power):,.{max(0, digits - 1 - power)}f}"
    return shown.replace(",", THIN)


def count(value: float | None) -> str:
    """A whole number with thin blanks in thousands.

    >>> count(1234567)
    '1\u202f234\u202f567'
    """
    return NOTHING if value is None else f"{round(value):,}".replace(",", THIN)


def density(value: float | None) -> str:
    """A share of tokens in per cent; under 0.01 % as one in so many.

    >>> density(0.0123), density(1 / 23456), density(0)
    ('1.23\u202f%', '1 in 23\u202f500 tokens', 'never')
    """
    if value is None:
        return NOTHING
    if value == 0:
        return "never"
    return f"{number(100 * value)}{THIN}%" if value >= 1e-4 else f"1 in {number(1 / value)} tokens"


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


def visible(piece: str) -> str:
    """A piece with its blanks made visible, for plain text.

    >>> visible(" a\\n")
    '·a↵'
    """
    return piece.replace(" ", "·").replace("\n", "↵").replace("\t", "→")


templates = Jinja2Templates(HERE / "templates")
templates.env.filters |= {
    "number": number,
    "count": count,
    "density": density,
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
    view = run.catalogue.feature(sae, index)
    densities = density_histogram(run.catalogue.columns(sae))
    return page(request, "feature.html", view=view, densities=densities)


@router.get("/sae/{sae:path}")
def sae(request: Request, run: Run, sae: str) -> HTMLResponse:
    """Show one Sae and the list of its features."""
    densities = density_histogram(run.catalogue.columns(sae))
    return page(request, "sae.html", sae=run.sae(sae), densities=densities)
