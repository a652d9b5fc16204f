"""The app: routes, one error shape, headers that keep the pages to themselves; and the server."""

import contextlib
import errno
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from panscope import __version__
from panscope.allocator import nothing_collected
from panscope.errors import ConfigError, PanscopeError
from panscope.events import Emit
from panscope.web import (
    api,
    comments,
    contrasts,
    explaining,
    failures,
    freeze,
    freeze_plan,
    labels,
    lists,
    neuronpedia,
    notes,
    pages,
    runs,
    search,
    steer,
    tour,
    watch,
    writing,
)
from panscope.web.gate import LOOPBACK, Gate
from panscope.web.headers import HEADERS
from panscope.web.progress import EVENTS
from panscope.web.readings import ReadsText
from panscope.web.run import RunFolder, is_run

STOP_SECONDS = 2  # for answers on their way; a stream is cut


class _Server(uvicorn.Server):
    """A server that sends away who waits before it waits for them."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop = stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop what is at work, then the server."""
        self._stop()
        await super().shutdown(sockets)


def create_app(
    run: Path,
    live: ReadsText | None = None,
    token: str | None = None,
    hosts: frozenset[str] | None = None,
) -> FastAPI:
    """Make the app that shows a run folder; `live` stands in for the model in tests.

    Who has the `token` may write, nobody without one; `hosts` are the names it answers to.
    """
    app = _bare(hosts)
    app.state.run = RunFolder(run, live)
    app.state.stop = app.state.run.stop
    app.state.token = token
    for router in (
        writing.router,
        watch.router,
        tour.router,
        labels.router,
        explaining.router,
        notes.router,
        lists.router,
        comments.router,
        search.router,
        steer.router,
        contrasts.router,
        api.router,
        neuronpedia.router,
        pages.router,
        steer.page_router,
        contrasts.page_router,
        notes.page_router,
    ):
        # `include_router` would make every route a second time, within the first request: 0.2 s.
        app.router.routes.extend(router.routes)
    return app


def create_runs_app(
    folder: Path, token: str | None = None, hosts: frozenset[str] | None = None
) -> FastAPI:
    """Make the app that shows a folder of runs, each behind an address of its own."""
    app = _bare(hosts)
    app.state.runs = runs.Runs(folder, lambda run: create_app(run, None, token, hosts))
    app.state.stop = app.state.runs.stop
    app.router.routes.extend(runs.router.routes)
    app.mount(runs.PREFIX, app.state.runs)
    return app


def _bare(hosts: frozenset[str] | None) -> FastAPI:
    """Make an app with the one error shape, the gate, and the static files."""
    about = "Everything the pages show, as JSON. Failed requests answer with one error shape."
    app = FastAPI(
        title="panscope",
        version=__version__,
        description=about,
        docs_url=None,
        redoc_url=None,
        lifespan=_stopping,
    )
    app.mount("/static", StaticFiles(directory=pages.HERE / "static"), name="static")
    app.add_exception_handler(PanscopeError, failures.panscope_error)
    app.add_exception_handler(RequestValidationError, failures.invalid_request)
    app.add_exception_handler(HTTPException, failures.http_error)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(Gate, hosts=hosts)
    return app


@contextlib.asynccontextmanager
async def _stopping(app: FastAPI) -> AsyncIterator[None]:
    """End what is at work in the background when the server stops."""
    yield
    app.state.stop()


def _shown(folder: Path, token: str | None = None, hosts: frozenset[str] | None = None) -> FastAPI:
    """Make the app for a run, or for a folder of runs; a wrong folder is told now."""
    if not is_run(folder) and runs.runs_in(folder):
        return create_runs_app(folder, token, hosts)
    app = create_app(folder, token=token, hosts=hosts)
    if not (folder / EVENTS).is_file():
        app.state.run.catalogue  # noqa: B018 - not on the first page
    return app


def serve(
    run: Path,
    host: str,
    port: int,
    announce: Callable[[str], None] = lambda url: None,
    token: str | None = None,
) -> None:
    """Show a run, or a folder of runs, until interrupted.

    `announce` is told the address once it is taken. With a `token` those who have it may write;
    the address then carries it behind a #, which browsers keep to themselves.

    Raises ConfigError for an address that cannot be had, NotFound and the like for a run folder
    without a readable atlas.
    """
    with nothing_collected():
        app = _shown(run, token, _names_of(host))
    with _listening(host, port) as listener:
        key = f"/#token={token}" if token else ""
        announce(f"http://{host}:{listener.getsockname()[1]}{key}")
        config = uvicorn.Config(
            app,
            log_level="warning",
            lifespan="off",  # `_Server` stops the app; this is cut by a second ctrl-c, aloud
            access_log=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        with contextlib.suppress(KeyboardInterrupt):
            _Server(config, app.state.stop).run(sockets=[listener])


def freeze_run(run: Path, out: Path, n_features: int, emit: Emit) -> int:
    """Write a run's pages as files, `n_features` of each Sae at most; return how many pages."""
    app = create_app(run)
    plan = freeze_plan.Plan(app.state.run, n_features)
    freeze.freeze(app, plan, out, emit)
    return plan.n_files


def check_address(host: str, port: int) -> None:
    """Raise ConfigError for an address that cannot be had: before long work, not behind it."""
    _listening(host, port).close()


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port < 1 << 16:
        raise ConfigError(f"port {port}", "is not a port", "give --port 1 to 65535")
    try:
        listener = socket.create_server((host, port), backlog=128)
        # Or a page's last packet waits 40 ms for the delayed ACK of its first: asyncio sends at
        # once on its own sockets, not on one that it is given.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
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
