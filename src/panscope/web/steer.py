"""Steering: its page, and over REST the normal and the steered text, an event a token."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import Generator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from panscope.edits import Edit, parse_all, refuse_unknown
from panscope.errors import PanscopeError
from panscope.web.api import Run
from panscope.web.pages import page
from panscope.web.problem import FAILURES
from panscope.web.readings import TokensBeside
from panscope.web.run import RunFolder
from panscope.web.writing import may_write

SECONDS = 20.0  # of one text: less than others wait for their turn
READING_SECONDS = 5.0  # more, for a reader slower than the model
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "An event a token"}
}

Trees = Annotated[list[dict[str, Any]], Field(max_length=16)]
"""Edits as they come: objects with action, sae, index, value ..."""

router = APIRouter(prefix="/api", responses=FAILURES, dependencies=[Depends(may_write)])
page_router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)


@page_router.get("/steer")
def steer_page(request: Request, run: Run) -> HTMLResponse:
    """Show the page on which a text is steered."""
    return page(request, "steer.html", saes=list(run.catalogue.atlas.saes.values()))


class _Events(StreamingResponse):
    """A stream that is closed when its reader goes away: the turn it holds is given back."""

    def __init__(self, events: Generator[str, None, None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, as long as somebody listens; cut the stream of who reads too slowly."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SECONDS + READING_SECONDS):
                    await super().__call__(scope, receive, send)
        finally:
            self._events.close()  # no thread runs it any more: who cancels waits for that


class SteerRequest(BaseModel):
    """A prompt, and what is to be changed while the model goes on with it.

    `edits` are objects as in the documentation of steering: action, sae, index, value ... A
    temperature of 0 takes the likeliest token; one seed draws both texts.
    """

    model_config = ConfigDict(extra="forbid")
    prompt: str = Field(max_length=4_000)
    edits: Trees = []
    tokens: int = Field(default=48, ge=1, le=256)
    temperature: float = Field(default=0.7, ge=0, le=10)
    seed: int = Field(default=0, ge=0, lt=1 << 63)


@router.post("/steer", tags=["live"], response_class=StreamingResponse, responses=EVENTS)
def steer(run: Run, request: SteerRequest) -> StreamingResponse:
    """Write a text twice, as the model is and with edits in it, token by token.

    Events are `token` (both texts' next), then `end` with a reason, or `error` in the one shape.
    Loads the model on first use; ends after 20 seconds.
    """
    events = _events(run, request, checked(run, request.edits))
    first = next(events)  # made at once, so that a refusal has its status
    return _Events(_from(first, events))


def checked(run: RunFolder, trees: list[dict[str, Any]]) -> tuple[Edit, ...]:
    """Read edits, all of them of features that this run has."""
    edits = parse_all(trees)
    refuse_unknown(edits, {name: sae.width for name, sae in run.catalogue.atlas.saes.items()})
    return edits


def _from(first: str, rest: Generator[str, None, None]) -> Generator[str, None, None]:
    """Yield what was made already, then the rest."""
    with contextlib.closing(rest):
        yield first
        yield from rest


def _events(
    run: RunFolder, request: SteerRequest, edits: Sequence[Edit]
) -> Generator[str, None, None]:
    """Hold the turn at the model, and write until the texts end or the time is over."""
    live = run.live
    with run.turns.take():
        until = time.monotonic() + SECONDS
        written = live.beside(
            request.prompt, edits, request.tokens, request.temperature, request.seed
        )
        yield event("token", next(written))
        try:
            for both in written:
                yield event("token", both)
                if time.monotonic() > until:
                    yield event("end", {"reason": f"stopped after {SECONDS:.0f} seconds"})
                    return
        except PanscopeError as error:
            yield event("error", {"kind": type(error).__name__, "message": str(error)})
            return
    yield event("end", {"reason": "written"})


def event(kind: str, about: TokensBeside | dict[str, str]) -> str:
    """Write a server-sent event: one line of JSON.

    >>> event("end", {"reason": "written"})
    'event: end\\ndata: {"reason": "written"}\\n\\n'
    """
    tree = about if isinstance(about, dict) else dataclasses.asdict(about)
    return f"event: {kind}\ndata: {json.dumps(tree)}\n\n"
