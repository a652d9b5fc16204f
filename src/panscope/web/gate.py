"""The gate: what a request must pass before any route sees it, and the headers of every answer.

It wraps the app as plain ASGI, so that streams stay streams and a request costs no further task.
"""

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from panscope.web.failures import panscope_error
from panscope.web.headers import HEADERS
from panscope.web.problem import Refused

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
MAX_PATH_CHARACTERS = 2_000  # of digits alone no number is made: Python takes 4,300
MAX_BODY_BYTES = 1 << 18  # 256 KiB: a text of 20,000 characters of four bytes, three times over
BODY_SECONDS = 10.0
READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Gate:
    """Refuses foreign hosts, cross-site writes, addresses too long, bodies too large or too slow.

    `hosts` are the names under which the server may be asked for, None for any. A server on this
    machine alone knows them, and a page elsewhere whose name was made to point here is told apart
    by the name it asks for (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None = None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, answer = Request(scope), _Answer(send)
        try:
            _check_length(request)
            self._check_names(request)
            passed = receive if request.method in READING else await _read_whole(request, receive)
        except Refused as error:
            await panscope_error(request, error)(scope, receive, answer)
            return
        if request.method == "HEAD":  # what GET would say; the server leaves the body out
            scope = {**scope, "method": "GET"}
        try:
            await self._app(scope, passed, answer)
        except asyncio.CancelledError:  # the server stops, and has waited for this long enough
            await _ended(request, answer)(scope, receive, answer)

    def _check_names(self, request: Request) -> None:
        host = _without_port(request.headers.get("host", ""))
        if self._hosts is not None and host not in self._hosts:
            do = f"ask for {' or '.join(sorted(self._hosts))}, or serve with --host"
            raise Refused(421, f"host {host!r}", "is not this server", do)
        cross_site = request.headers.get("sec-fetch-site") == "cross-site"
        if cross_site and request.method not in READING:
            raise Refused(403, request.url.path, "was asked by another site's page", "open it here")


def _check_length(request: Request) -> None:
    if len(path := request.url.path) > MAX_PATH_CHARACTERS:
        found = f"has more than {MAX_PATH_CHARACTERS:,} characters"
        raise Refused(414, f"address {path[:40]}...", found, "start from / or /docs")


def _without_port(host: str) -> str:
    """Take the port off a Host header.

    >>> _without_port("LocalHost:8000"), _without_port("[::1]:8000"), _without_port("a")
    ('localhost', '[::1]', 'a')
    """
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


async def _read_whole(request: Request, receive: Receive) -> Receive:
    """Read a body within its limits; return a `receive` that hands it out, then the rest."""
    where = f"body of {request.url.path}"
    too_large = Refused(
        413, where, f"is more than {MAX_BODY_BYTES} bytes", "send a shorter text or fewer names"
    )
    pieces: list[Message] = []
    n_bytes, more = 0, True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                pieces.append(message := await receive())
                n_bytes += len(message.get("body", b""))
                more = message.get("more_body", False)
                if n_bytes > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError as error:
        found = f"did not arrive within {BODY_SECONDS:.0f} s"
        raise Refused(408, where, found, "send it again") from error
    waiting = iter(pieces)

    async def replay() -> Message:
        return next(waiting, None) or await receive()

    return replay


class _Answer:
    """Sends an answer with the headers of every answer; `has_begun` says whether any is sent."""

    def __init__(self, send: Send) -> None:
        self.has_begun = False
        self._send = send

    async def __call__(self, message: Message) -> None:
        """Send a part of the answer."""
        self.has_begun = True
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            # "no-cache" asks before it reuses: pages and scripts change with the package
            for name, value in {**HEADERS, "cache-control": "no-cache"}.items():
                headers.setdefault(name, value)
        await self._send(message)


def _ended(request: Request, answer: _Answer) -> ASGIApp:
    """Return what ends an answer that was cut off: a refusal, or the end of what has begun."""

    async def end(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": b""})

    stopped = Refused(503, "the server", "is being stopped", "start it again, then ask again")
    return end if answer.has_begun else panscope_error(request, stopped)
