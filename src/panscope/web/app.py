"""The app: routes, one error shape, headers that keep the pages to themselves; and the server."""

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from panscope import __version__
from panscope.errors import ConfigError, PanscopeError
from panscope.web import api, contrasts, failures, neuronpedia, pages, steer, writing
from panscope.web.gate import HEADERS, LOOPBACK, Gate
from panscope.web.readings import ReadsText
from panscope.web.run import RunFolder


def create_app(
    run: Path,
    live: ReadsText | None = None,
    token: str | None = None,
    hosts: frozenset[str] | None = None,
) -> FastAPI:
    """Make the app that shows a run folder; `live` stands in for the model in tests.

    Who has the `token` may write, nobody without one; `hosts` are the names it answers to.
    """
    about = "Everything the pages show, as JSON. Failed requests answer with one error shape."
    app = FastAPI(
        title="panscope", version=__version__, description=about, docs_url=None, redoc_url=None
    )
    app.state.run = RunFolder(run, live)
    app.state.token = token
    app.mount("/static", StaticFiles(directory=pages.HERE / "static"), name="static")
    app.include_router(writing.router)
    app.include_router(api.router)
    app.include_router(neuronpedia.router)
    app.include_router(steer.router)
    app.include_router(steer.page_router)
    app.include_router(contrasts.router)
    app.include_router(contrasts.page_router)
    app.include_router(pages.router)
    app.add_exception_handler(PanscopeError, failures.panscope_error)
    app.add_exception_handler(RequestValidationError, failures.invalid_request)
    app.add_exception_handler(HTTPException, failures.http_error)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(Gate, hosts=hosts)
    return app


def serve(
    run: Path,
    host: str,
    port: int,
    announce: Callable[[str], None] = lambda url: None,
    token: str | None = None,
) -> None:
    """Show a run folder until interrupted; `announce` is told the address once it is taken.

    With a `token` those who have it may write; the address then carries it behind a #, which
    browsers keep to themselves.

    Raises ConfigError for an address that cannot be had, NotFound and the like for a run folder
    without a readable atlas.
    """
    app = create_app(run, token=token, hosts=_names_of(host))
    app.state.run.catalogue  # noqa: B018 - a wrong folder is told now, not on the first page
    with _listening(host, port) as listener:
        key = f"/#token={token}" if token else ""
        announce(f"http://{host}:{listener.getsockname()[1]}{key}")
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


def _names_of(host: str) -> frozenset[str] | None:
    """Return the names of a server that only this machine reaches; None for one that others do.

    >>> sorted(_names_of("127.0.0.1")), _names_of("0.0.0.0")
    (['127.0.0.1', '[::1]', 'localhost'], None)
    """
    with contextlib.suppress(ValueError):
        if not ipaddress.ip_address(host).is_loopback:
            return None
        return LOOPBACK | {host}
    return LOOPBACK if host.lower() == "localhost" else None


def _unexpected(request: Request, error: Exception) -> Response:
    """Answer outside of the gate, so with its headers."""
    answer = failures.unexpected(request, error)
    answer.headers.update(HEADERS)
    return answer
