"""What people keep of a run, bookmarks and saved edits: their page, and over REST."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict

from panscope.atlas.labels import Bookmark
from panscope.atlas.notes import Notes
from panscope.atlas.records import FeatureRow
from panscope.edits import described, dumped, parse_all
from panscope.web.api import Name, Run
from panscope.web.pages import page
from panscope.web.problem import FAILURES
from panscope.web.run import RunFolder
from panscope.web.steer import Trees, checked
from panscope.web.writing import may_write

Found = dict[str, list[dict[str, Any]]]

router = APIRouter(prefix="/api", tags=["notes"], responses=FAILURES)
page_router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)


class SaveRequest(BaseModel):
    """Edits to be kept under a name."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    edits: Trees


@page_router.get("/notes")
def notes_page(request: Request, run: Run) -> HTMLResponse:
    """Show bookmarks and saved edits."""
    rows = [(bookmark, _row(run, bookmark)) for bookmark in run.notes.bookmarks()]
    saved = [(one, parse_all(json.loads(one.edits))) for one in run.notes.saved_edits()]
    shown = {"pieces": run.catalogue.atlas.pieces, "described": described}
    return page(request, "notes.html", bookmarks=rows, saved=saved, **shown)


@router.get("/notes")
def notes(run: Run) -> Found:
    """Export bookmarks, and the edits last saved under each name; newest first."""
    return run.notes.exported()


@router.put("/sae/{sae:path}/feature/{index}/bookmark", dependencies=[Depends(may_write)])
def bookmark(run: Run, sae: str, index: int) -> Found:
    """Keep a feature among the bookmarks."""
    run.catalogue.check(sae, index)
    with _open(run) as notes:
        notes.bookmark(sae, index)
        return notes.exported()


@router.delete("/sae/{sae:path}/feature/{index}/bookmark", dependencies=[Depends(may_write)])
def forget(run: Run, sae: str, index: int) -> Found:
    """Take a feature from the bookmarks, if it is there."""
    with _open(run) as notes:
        notes.forget(sae, index)
        return notes.exported()


@router.get("/edits/{name:path}")
def edits(run: Run, name: str) -> dict[str, Any]:
    """Give the edits that were last saved under a name."""
    saved = run.notes.edits(name)
    return {"name": saved.name, "created": saved.created, "edits": json.loads(saved.edits)}


@router.post("/edits", dependencies=[Depends(may_write)])
def save(run: Run, request: SaveRequest) -> dict[str, Any]:
    """Keep edits under a name; what was saved under it before stays in the notes, behind them."""
    text = dumped(checked(run, request.edits))
    with _open(run) as notes:
        notes.save_edits(request.name, text)
    return edits(run, request.name.strip())


@contextmanager
def _open(run: RunFolder) -> Iterator[Notes]:
    with closing(Notes.open(run.notes.path)) as notes:
        yield notes


def _row(run: RunFolder, bookmark: Bookmark) -> FeatureRow | None:
    """What the atlas knows of a bookmarked feature; None if it has no such Sae any more."""
    known = run.catalogue.atlas.saes.get(bookmark.sae)
    if known is None or bookmark.index >= known.width:
        return None
    return run.catalogue.row(bookmark.sae, bookmark.index)
