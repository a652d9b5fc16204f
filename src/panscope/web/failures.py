"""Failures: one error shape for programs, a page for people, the right status for both."""

import re

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from panscope.errors import ConfigError, Incomplete, PanscopeError
from panscope.web import pages
from panscope.web.problem import RETRY_SECONDS

_API = re.compile(r"(/run/[^/]+)?/api(/|$)")  # of a run alone, or of one among many
MORE_HEADERS = {
    401: {"www-authenticate": "Bearer"},
    503: {"retry-after": str(RETRY_SECONDS)},
}


def failure(
    request: Request, status: int, kind: str, message: str, headers: dict[str, str] | None = None
) -> Response:
    """Answer with the one shape under /api, with a page elsewhere.

    What cannot be read of an atlas that was made anew meanwhile is no damage.
    """
    if status >= 500 and _has_another_atlas(request):
        changed = Incomplete("the atlas", "was made anew meanwhile", "ask again")
        status, kind, message = changed.http_status, type(changed).__name__, str(changed)
    if _API.match(request.url.path):
        shape = {"error": {"kind": kind, "message": message}}
        answer: Response = JSONResponse(shape, status_code=status)
    else:
        answer = pages.page(request, "error.html", status=status, kind=kind, message=message)
    answer.headers.update({**MORE_HEADERS.get(status, {}), **(headers or {})})
    return answer


def _has_another_atlas(request: Request) -> bool:
    """Whether the atlas is another than when the request began to read it."""
    began = getattr(request.state, "atlas", None)
    return began is not None and began != request.app.state.run.atlas_marks


def panscope_error(request: Request, error: Exception) -> Response:
    """Answer with what panscope says of its own errors."""
    assert isinstance(error, PanscopeError)
    return failure(request, error.http_status, type(error).__name__, str(error))


def invalid_request(request: Request, error: Exception) -> Response:
    """Name the first part of a request that cannot be used."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    refused = ConfigError(where, f"cannot be used ({first['msg']})", "see /docs for what it takes")
    return panscope_error(request, refused)


def http_error(request: Request, error: Exception) -> Response:
    """Answer for an address or a method that no route has."""
    assert isinstance(error, HTTPException)
    kind = "NotFound" if error.status_code == 404 else "ConfigError"
    message = f"{request.url.path}: {error.detail.lower()}; start from / or /docs"
    return failure(request, error.status_code, kind, message, dict(error.headers or {}))


def unexpected(request: Request, error: Exception) -> Response:
    """Answer for what nobody foresaw."""
    message = f"{request.url.path}: {type(error).__name__} ({error}); please report it"
    return failure(request, 500, "PanscopeError", message)
