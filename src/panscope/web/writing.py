"""Who may write: those with the token of a server that was started to be written to."""

import os
import secrets
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from panscope.errors import ConfigError
from panscope.web.problem import FAILURES, Refused

VARIABLE = "PANSCOPE_TOKEN"
MIN_CHARACTERS = 16

Given = Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))]
router = APIRouter(prefix="/api", tags=["writing"], responses=FAILURES)


@dataclass(frozen=True, slots=True)
class Writing:
    """Whether this server can be written to at all, and whether this request's token is right."""

    writable: bool
    accepted: bool


def token_from_environment() -> str:
    """Return the token that PANSCOPE_TOKEN holds, or a new one of 32 characters."""
    token = os.environ.get(VARIABLE) or secrets.token_urlsafe(24)
    if len(token) < MIN_CHARACTERS or not token.isascii() or not token.isprintable():
        found = f"is not {MIN_CHARACTERS} or more ASCII characters"
        raise ConfigError(VARIABLE, found, "give a longer one, or unset it to get a random one")
    return token


@router.get("/writing")
def writing(request: Request, given: Given) -> Writing:
    """Say whether notes can be written here, and with this token."""
    token = request.app.state.token
    return Writing(token is not None, token is not None and _is_right(given, token))


def may_write(request: Request, given: Given) -> None:
    """Let a request pass that carries the server's token; to be used as a route's dependency.

    Raises Refused: 403 if nobody may write here, 401 without the right token.
    """
    token = request.app.state.token
    if token is None:
        do = "start it with panscope serve --writable"
        raise Refused(403, request.url.path, "writes, and this server only reads", do)
    if not _is_right(given, token):
        do = "send Authorization: Bearer and the token that panscope serve printed"
        raise Refused(401, request.url.path, "needs the server's token", do)


def _is_right(given: HTTPAuthorizationCredentials | None, token: str) -> bool:
    said = given.credentials.encode() if given else b""
    return secrets.compare_digest(said, token.encode())
