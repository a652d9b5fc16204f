"""The app: routes, one error shape, headers that keep the pages to themselves; and the server."""

import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from panscope import __version__
from panscope.errors import ConfigError, PanscopeError
from panscope.web import api, pages
from panscope.web.readings import ReadsText
from panscope.web.run import RunFolder

# Scripts, styles and data come from this server alone, so a piece of text that looks like a script
# is inert even if a page forgot to escape it.
POLICY = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'"
HEADERS = {
    "content-security-policy": f"{POLICY}; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def create_app(run: Path, live: ReadsText | None = None) -> FastAPI:
    """Make the app that shows a run folder; `live` stands in for the model in tests."""
    about = "Everything the pages show, as JSON. Failed requests answer with one error shape."
    app = FastAPI(
        title="panscope", version=__version__, description=about, docs_url=None, redoc_url=None
    )
    app.state.run = RunFolder(run, live)
    app.mount("/static", StaticFiles(directory=pages.HERE / "static"), name="static")
    app.include_router(api.router)
    app.include_router(pages.router)
    app.add_exception_handler(PanscopeError, _panscope_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)
    app.middleware("http")(_with_headers)
    return app


def serve(
    run: Path, host: str, port: int, announce: Callable[[str], None] = lambda url: None
) -> None:
    """Show a run folder until interrupted; `announce` is told the address once it is taken.

    Raises ConfigError for an address that cannot be had, NotFound and the like for a run folder
    without a readable atlas.
    """
    app = create_app(run)
    app.state.run.catalogue  # noqa: B018 - a wrong folder is told now, not on the first page
    with _listening(host, port) as listener:
        announce(f"http://{host}:{listener.getsockname()[1]}")
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def check_address(host: str, port: int) -> None:
    """Raise ConfigError for an address that cannot be had: before long work, not behind it."""
    _listening(host, port).close()


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port < 1 << 16:
        raise ConfigError(f"port {port}", "is not a port", "give --port 1 to 65535")
    try:
        return socket.create_server((host, port), backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port}", "is in use", "give another with --port") from error
        found = f"cannot be listened on ({error.strerror})"
        raise ConfigError(f"{host}:{port}", found, "give another --host or --port") from error


async def _with_headers(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    # "no-cache" asks before it reuses: pages and scripts change with the package, unversioned
    response.headers.setdefault("cache-control", "no-cache")
    return response


def _failure(request: Request, status: int, kind: str, message: str) -> Response:
    """The one error shape for programs, a page for people."""
    if request.url.path.startswith("/api"):
        shape = {"error": {"kind": kind, "message": message}}
        return JSONResponse(shape, status_code=status)
    return pages.page(request, "error.html", status=status, kind=kind, message=message)


def _panscope_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PanscopeError)
    return _failure(request, error.http_status, type(error).__name__, str(error))


def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    refused = ConfigError(where, f"cannot be used ({first['msg']})", "see /docs for what it takes")
    return _panscope_error(request, refused)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = "NotFound" if error.status_code == 404 else "ConfigError"
    message = f"{request.url.path}: {error.detail.lower()}; start from / or /docs"
    return _failure(request, error.status_code, kind, message)


def _unexpected(request: Request, error: Exception) -> Response:
    message = f"{request.url.path}: {type(error).__name__} ({error}); please report it"
    return _failure(request, 500, "PanscopeError", message)
