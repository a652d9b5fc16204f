"""What people keep of a run, bookmarks and saved edits: their page, and over REST."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

import fastapi
from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict

from panscope.atlas.labels import Bookmark
from panscope.atlas.notes import Notes
from panscope.atlas.records import FeatureRow
from panscope.edits import described, dumped, parse_all
from panscope.web.api import Name, Offset, Run
from panscope.web.pages import page
from panscope.web.problem import FAILURES
from panscope.web.run import RunFolder
from panscope.web.sought import Words
from panscope.web.steer import Trees, checked
from panscope.web.writing import may_write

PAGE, MOST = 100, 100_000  # rows of a table
Found = dict[str, list[dict[str, Any]]]

router = APIRouter(prefix="/api", tags=["notes"], responses=FAILURES)
page_router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Window:
    """From where on how many are shown of all; the addresses of those before and behind them."""

    offset: int
    limit: int
    total: int
    newer: str
    older: str


class SaveRequest(BaseModel):
    """Edits to be kept under a name."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    edits: Trees


@page_router.get("/notes")
def notes_page(
    request: Request,
    run: Run,
    sae: Words = "",
    offset: Offset = 0,
    edits: Offset = 0,
    limit: Annotated[int, fastapi.Query(ge=1, le=MOST)] = PAGE,
) -> HTMLResponse:
    """Show a window on the bookmarks, of one Sae or of all, and one on the saved edits."""
    saved, counts = run.notes.saved, run.notes.saved.counts()
    saved.refuse_unknown(sae, run.catalogue.atlas.saes)
    n_bookmarks = counts.get(sae, 0) if sae else sum(counts.values())
    view = {"sae": sae, "offset": offset, "edits": edits, "limit": limit}
    return page(
        request,
        "notes.html",
        sae=sae,
        counts=counts,
        bookmarks=[(mark, _row(run, mark)) for mark in saved.bookmarks(sae, limit, offset)],
        marks=_window(view, "offset", n_bookmarks),
        saved=[(one, parse_all(json.loads(one.edits))) for one in saved.all_edits(limit, edits)],
        names=_window(view, "edits", saved.n_names()),
        pieces=run.catalogue.atlas.pieces,
        described=described,
    )


@router.get("/notes")
def notes(run: Run, sae: Words = "") -> Found:
    """Export bookmarks, of one Sae or of all, and the edits last saved under each name.

    The newest come first.
    """
    run.notes.saved.refuse_unknown(sae, run.catalogue.atlas.saes)
    return run.notes.saved.exported(sae)


@router.put("/sae/{sae:path}/feature/{index}/bookmark", dependencies=[Depends(may_write)])
def bookmark(run: Run, sae: str, index: int) -> Found:
    """Keep a feature among the bookmarks."""
    run.catalogue.check(sae, index)
    with _open(run) as notes:
        notes.saved.bookmark(sae, index)
        return notes.saved.exported()


@router.delete("/sae/{sae:path}/feature/{index}/bookmark", dependencies=[Depends(may_write)])
def forget(run: Run, sae: str, index: int) -> Found:
    """Take a feature from the bookmarks, if it is there."""
    with _open(run) as notes:
        notes.saved.forget(sae, index)
        return notes.saved.exported()


@router.get("/edits/{name:path}")
def edits(run: Run, name: str) -> dict[str, Any]:
    """Give the edits that were last saved under a name."""
    saved = run.notes.saved.edits(name)
    return {"name": saved.name, "created": saved.created, "edits": json.loads(saved.edits)}


@router.post("/edits", dependencies=[Depends(may_write)])
def save(run: Run, request: SaveRequest) -> dict[str, Any]:
    """Keep edits under a name; what was saved under it before stays in the notes, behind them."""
    text = dumped(checked(run, request.edits))
    with _open(run) as notes:
        notes.saved.save(request.name, text)
    return edits(run, request.name.strip())


@router.delete("/edits/{name:path}", dependencies=[Depends(may_write)])
def remove(run: Run, name: str) -> Found:
    """Remove the edits under a name, and those that had it before."""
    with _open(run) as notes:
        notes.saved.remove(name)
        return notes.saved.exported()


@contextmanager
def _open(run: RunFolder) -> Iterator[Notes]:
    with closing(Notes.open(run.notes.path)) as notes:
        yield notes


def _window(view: dict[str, Any], key: str, total: int) -> Window:
    """Say what part of a table is shown, whose place stands in the address under `key`."""
    offset, limit = view[key], view["limit"]
    newer = _address({**view, key: max(0, offset - limit)}) if offset else ""
    older = _address({**view, key: offset + limit}) if offset + limit < total else ""
    return Window(offset, limit, total, newer, older)


def _address(view: dict[str, Any]) -> str:
    """Write the page's address without what has its usual value.

    >>> _address({"sae": "", "offset": 200, "edits": 0, "limit": 100})
    '/notes?offset=200'
    """
    usual = {"sae": "", "offset": 0, "edits": 0, "limit": PAGE}
    query = urlencode({key: value for key, value in view.items() if value != usual[key]})
    return f"/notes?{query}" if query else "/notes"


def _row(run: RunFolder, bookmark: Bookmark) -> FeatureRow | None:
    """What the atlas knows of a bookmarked feature; None if it has no such Sae any more."""
    known = run.catalogue.atlas.saes.get(bookmark.sae)
    if known is None or bookmark.index >= known.width:
        return None
    return run.catalogue.row(bookmark.sae, bookmark.index)
