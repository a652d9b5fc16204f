"""A folder of runs: a first page that lists them, and each run behind `/run/<name>`.

A run's pages are written as if they were alone; their addresses are moved behind the prefix as they
are sent. Runs are opened when they are first asked for, and those unused longest are closed,
unless something is at work there.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from panscope.errors import NotFound, PanscopeError, nearest
from panscope.web.addresses import moved
from panscope.web.failures import panscope_error
from panscope.web.pages import page
from panscope.web.progress import StageView
from panscope.web.run import RunFolder, is_run

PREFIX = "/run"
N_OPEN = 4
UP = '<ol class="crumbs">'

router = APIRouter()


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as a line of the first page; `problem` says why it cannot be shown."""

    name: str
    model: str
    n_saes: int
    n_features: int
    stages: tuple[StageView, ...]
    problem: str


def runs_in(folder: Path) -> dict[str, Path]:
    """List the runs in a folder by name, in order."""
    if not folder.is_dir():
        return {}
    return {path.name: path for path in sorted(folder.iterdir()) if is_run(path)}


class Runs:
    """The apps of a folder's runs, as one app behind `/run`."""

    def __init__(self, folder: Path, make: Callable[[Path], FastAPI]) -> None:
        self.folder = folder
        self._make = make
        self._open: OrderedDict[str, FastAPI] = OrderedDict()
        self._lock = Lock()

    def app(self, name: str) -> FastAPI:
        """The app of a run; NotFound names the nearest."""
        found = runs_in(self.folder)
        if name not in found:
            raise NotFound(f"runs in {self.folder}", f"no run {name!r}", nearest(name, found))
        with self._lock:
            if name not in self._open:
                self._open[name] = self._make(found[name])
            self._open.move_to_end(name)
            if len(self._open) > N_OPEN:
                self._close_one(name)
            return self._open[name]

    def _close_one(self, kept: str) -> None:
        """Close the run unused longest at which nothing is at work, if there is one."""
        for name, app in self._open.items():
            if name != kept and not app.state.run.at_work:
                del self._open[name]
                app.state.run.close()
                return

    def stop(self) -> None:
        """End what is at work in the background of the runs that are open."""
        for app in self._open.values():
            app.state.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to its run, the prefix taken off."""
        name, _, rest = scope["path"].removeprefix(f"{PREFIX}/").partition("/")
        try:
            app = self.app(name)
        except PanscopeError as error:
            await panscope_error(Request(scope), error)(scope, receive, send)
            return
        prefix = f"{PREFIX}/{quote(name)}"
        path = f"/{rest}"
        inside = {**scope, "path": path, "raw_path": quote(path).encode(), "root_path": ""}
        await app(inside, receive, _moving(send, prefix))


def _moving(send: Send, prefix: str) -> Send:
    """Move the addresses of pages and redirects behind a prefix; pass all else on as it comes."""
    start: Message = {}
    body = b""

    async def sent(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if place := headers.get("location"):  # with a host where it is the router's own
                inside = urlsplit(place)._replace(scheme="", netloc="").geturl()
                headers["location"] = prefix + inside
            if headers.get("content-type", "").startswith("text/html"):
                start = message
                return
        elif start:
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            html = moved(body.decode(), lambda path: prefix + path, prefix)
            whole = html.replace(UP, f'{UP}<li><a href="/">Runs</a></li>', 1).encode()
            MutableHeaders(scope=start)["content-length"] = str(len(whole))
            await send(start)
            message = {"type": "http.response.body", "body": whole}
        await send(message)

    return sent


@router.get("/", include_in_schema=False, response_class=HTMLResponse)
def home(request: Request) -> HTMLResponse:
    """Show all runs of the folder."""
    folder: Path = request.app.state.runs.folder
    return page(request, "runs.html", folder=folder.resolve().name, runs=_views(folder))


@router.get("/api/runs", tags=["runs"])
def list_runs(request: Request) -> list[RunView]:
    """List the runs of the folder; each has its own API behind `/run/<name>/api`."""
    return _views(request.app.state.runs.folder)


def _views(folder: Path) -> list[RunView]:
    return [_view(name, RunFolder(path)) for name, path in runs_in(folder).items()]


def _view(name: str, run: RunFolder) -> RunView:
    """Describe a run; what is broken in it is said in its line, and the other lines stay."""
    stages: tuple[StageView, ...] = ()
    try:
        stages = run.progress.view().stages
        suite = run.suite()
    except PanscopeError as error:
        is_begun = stages and not run.atlas_marks
        problem = "not described yet" if is_begun else str(error)
        return RunView(name, "", 0, 0, stages, problem)
    n_features = sum(sae.width for sae in suite.saes)
    return RunView(name, suite.model, len(suite.saes), n_features, stages, "")
