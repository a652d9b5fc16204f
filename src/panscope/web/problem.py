"""What a failed request answers, and the refusals that only a server has."""

from dataclasses import dataclass
from typing import Any

from panscope.errors import PanscopeError

RETRY_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong: the error's kind, and a sentence that says where, what, and what to do."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """The body of every failed request."""

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
