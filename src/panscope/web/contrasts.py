"""Finished contrasts of a run: their list and their tables, as pages and over REST."""

import json
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from panscope import files
from panscope.errors import NotFound, nearest
from panscope.web.api import Run
from panscope.web.pages import page
from panscope.web.problem import FAILURES
from panscope.web.run import RunFolder

N_PEAK_TOKENS = 3

router = APIRouter(prefix="/api", responses=FAILURES, tags=["contrast"])
page_router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)


@router.get("/contrasts")
def contrasts(run: Run) -> dict[str, dict[str, Any]]:
    """List the contrasts of the run by name: the prompts of each set, and how much differs."""
    return {name: dict(manifest.facts) for name, manifest in finished(run).items()}


@router.get("/contrast/{name}")
def contrast(run: Run, name: str) -> dict[str, Any]:
    """Give one contrast: the features that differ, and of each Sae its probes and ablations."""
    known = finished(run)
    if name not in known:  # names come from the folder's own list, never from the address
        raise NotFound("contrast", f"no {name!r}", nearest(name, known))
    path = files.checked(run.folder / "contrast" / name, known[name], "result.json")
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


@page_router.get("/contrast")
def contrasts_page(request: Request, run: Run) -> HTMLResponse:
    """Show the list of contrasts."""
    return page(request, "contrasts.html", contrasts=contrasts(run))


@page_router.get("/contrast/{name}")
def contrast_page(request: Request, run: Run, name: str) -> HTMLResponse:
    """Show one contrast."""
    result = contrast(run, name)
    peaks = [_peak_pieces(run, one["sae"], one["index"]) for one in result["found"]]
    return page(request, "contrast.html", contrast=name, result=result, peaks=peaks)


def finished(run: RunFolder) -> dict[str, files.Manifest]:
    """Read the manifests of the contrasts that are finished, by name."""
    folders = sorted((run.folder / "contrast").glob(f"*/{files.MANIFEST}"))
    return {path.parent.name: files.read_manifest(path.parent, "contrast") for path in folders}


def _peak_pieces(run: RunFolder, sae: str, index: int) -> list[str]:
    """The tokens on which a feature fires most strongly; none if the atlas lacks the Sae."""
    catalogue = run.catalogue
    if sae not in catalogue.atlas.saes:
        return []
    peaks = catalogue.columns(sae).row(index).peak_tokens[:N_PEAK_TOKENS]
    return list(catalogue.pieces(peaks).values())
