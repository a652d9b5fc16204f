"""What people keep of a run: its pages; bookmarks, saved edits and the export over REST."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

import fastapi
from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict

from panscope.atlas import export
from panscope.atlas.export import Kept
from panscope.atlas.records import FeatureRow
from panscope.edits import described, dumped, parse_all
from panscope.web.api import Name, Offset, Run
from panscope.web.lists import ListName
from panscope.web.pages import page
from panscope.web.problem import FAILURES
from panscope.web.run import RunFolder
from panscope.web.sought import Words
from panscope.web.steer import Trees, checked
from panscope.web.writing import may_write

PAGE, MOST = 100, 100_000  # rows of a table
PageLimit = Annotated[int, fastapi.Query(ge=1, le=MOST)]

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
    lists: Offset = 0,
    comments: Offset = 0,
    limit: PageLimit = PAGE,
    name: Annotated[ListName, fastapi.Query(alias="list")] = "",
) -> HTMLResponse:
    """Show a window on each kind of notes, of one Sae or of all; or on one list."""
    if name:
        return _list_page(request, run, name, offset, limit)
    notes = run.notes
    export.refuse_unknown(notes, sae, run.catalogue.atlas.saes)
    marked, said = Counter(notes.saved.counts()), Counter(notes.comments.counts())
    view = {"sae": sae, "offset": offset, "edits": edits, "limit": limit}
    view |= {"lists": lists, "comments": comments}
    bookmarks = notes.saved.bookmarks(sae, limit, offset)
    remarks = notes.comments.recent(sae, limit, comments)
    saved = notes.saved.all_edits(limit, edits)
    return page(
        request,
        "notes.html",
        sae=sae,
        counts=marked + said,
        bookmarks=[(one, _row(run, one.sae, one.index)) for one in bookmarks],
        lists=notes.lists.names(limit, lists),
        comments=[(one, _is_known(run, one.sae, one.index)) for one in remarks],
        edits=[(one, parse_all(json.loads(one.edits))) for one in saved],
        windows={
            "bookmarks": _window(view, "offset", _of(marked, sae)),
            "lists": _window(view, "lists", notes.lists.n_names()),
            "comments": _window(view, "comments", _of(said, sae)),
            "edits": _window(view, "edits", notes.saved.n_names()),
        },
        pieces=run.catalogue.atlas.pieces,
        described=described,
    )


def _list_page(
    request: Request, run: RunFolder, name: str, offset: int, limit: int
) -> HTMLResponse:
    """Show a window on the features of a list."""
    total, features = run.notes.lists.count(name), run.notes.lists.features(name, limit, offset)
    return page(
        request,
        "list.html",
        list=name,
        features=[(one, _row(run, one.sae, one.index)) for one in features],
        window=_window({"list": name, "offset": offset, "limit": limit}, "offset", total),
        pieces=run.catalogue.atlas.pieces,
    )


@router.get("/notes")
def notes(run: Run, sae: Words = "") -> Kept:
    """Export bookmarks, lists and comments, of one Sae or of all, and the edits last saved.

    The newest come first.
    """
    export.refuse_unknown(run.notes, sae, run.catalogue.atlas.saes)
    return export.exported(run.notes, sae)


@router.put("/sae/{sae:path}/feature/{index}/bookmark", dependencies=[Depends(may_write)])
def bookmark(run: Run, sae: str, index: int) -> Kept:
    """Keep a feature among the bookmarks."""
    run.catalogue.check(sae, index)
    with run.open_notes() as notes:
        notes.saved.bookmark(sae, index)
        return notes.saved.exported()


@router.delete("/sae/{sae:path}/feature/{index}/bookmark", dependencies=[Depends(may_write)])
def forget(run: Run, sae: str, index: int) -> Kept:
    """Take a feature from the bookmarks, if it is there."""
    with run.open_notes() as notes:
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
    with run.open_notes() as notes:
        notes.saved.save(request.name, text)
    return edits(run, request.name.strip())


@router.delete("/edits/{name:path}", dependencies=[Depends(may_write)])
def remove(run: Run, name: str) -> Kept:
    """Remove the edits under a name, and those that had it before."""
    with run.open_notes() as notes:
        notes.saved.remove(name)
        return notes.saved.exported()


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
    usual = {"sae": "", "limit": PAGE}
    query = urlencode({key: value for key, value in view.items() if value != usual.get(key, 0)})
    return f"/notes?{query}" if query else "/notes"


def _of(counts: Counter[str], sae: str) -> int:
    """How many there are of one Sae, or of all."""
    return counts[sae] if sae else counts.total()


def _row(run: RunFolder, sae: str, index: int) -> FeatureRow | None:
    """What the atlas knows of a feature; None if it has no such Sae any more."""
    return run.catalogue.row(sae, index) if _is_known(run, sae, index) else None


def _is_known(run: RunFolder, sae: str, index: int) -> bool:
    """Whether the atlas still has a feature: notes outlive what they are about."""
    known = run.catalogue.atlas.saes.get(sae)
    return known is not None and index < known.width
