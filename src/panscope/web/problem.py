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
    """The body of every failed request.

    A model, as pydantic makes its schema once: a dataclass's would be made anew for each of the 300
    failures that the routes name, which took a tenth of a second of every start.
    """

    error: Problem


FAILURES: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorShape, "description": "Writing needs the server's token"},
    403: {"model": ErrorShape, "description": "This server only reads"},
    404: {"model": ErrorShape, "description": "No such Sae or feature"},
    409: {"model": ErrorShape, "description": "The artefact is not finished"},
    413: {"model": ErrorShape, "description": "The body is too large"},
    422: {"model": ErrorShape, "description": "The request cannot be used"},
    500: {"model": ErrorShape, "description": "A file is corrupt"},
    503: {"model": ErrorShape, "description": "The model is busy; see Retry-After"},
}


class Refused(PanscopeError):
    """A request that the server does not take as it is; `http_status` says in which way."""

    def __init__(self, http_status: int, where: str, found: str, do: str) -> None:
        super().__init__(where, found, do)
        self.http_status = http_status
