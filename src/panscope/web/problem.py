"""What a failed request answers, and the refusals that only a server has."""

from typing import Any

from pydantic import BaseModel

from panscope.errors import PanscopeError

RETRY_SECONDS = 5


class Problem(BaseModel):
    """What went wrong: the error's kind, and a sentence that says where, what, and what to do."""

    kind: str
    message: str


class ErrorShape(BaseModel):
    """The body of every failed request."""

    error: Problem


def _failed(description: str) -> dict[str, Any]:
    """Name the shape instead of giving the class, of which FastAPI makes an adapter each time.

    For all failures of all routes that took a twentieth of a second of every start.
    """
    schema = {"$ref": "#/components/schemas/ErrorShape"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


FAILURES: dict[int | str, dict[str, Any]] = {
    401: _failed("Writing needs the server's token"),
    403: _failed("This server only reads"),
    404: {"model": ErrorShape, "description": "No such Sae or feature"},  # brings the schema
    409: _failed("The artefact is not finished"),
    413: _failed("The body is too large"),
    422: _failed("The request cannot be used"),
    500: _failed("A file is corrupt"),
    503: _failed("The model is busy; see Retry-After"),
}


class Refused(PanscopeError):
    """A request that the server does not take as it is; `http_status` says in which way."""

    def __init__(self, http_status: int, where: str, found: str, do: str) -> None:
        super().__init__(where, found, do)
        self.http_status = http_status
