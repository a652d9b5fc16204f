"""A frozen copy of a run's pages: files that open from a disk or from any server of files.

    DIR/
      index.html                         written last: without it a copy is not whole
      frozen.json                        what it is a copy of
      sae/<site>/<name>/index.html       a Sae, with the list and the map of the features copied
      sae/<site>/<name>/<index>.html     a feature
      search/<kind>/index.html           a search through the features copied
      tour/  progress/  contrast/ ...    the other pages
      static/                            styles, and each page's scripts in one file

What runs the model is left out, and the pages that would run it say so.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message

from panscope import __version__
from panscope.config import digest_of
from panscope.errors import ConfigError, PanscopeError
from panscope.events import Advanced, Emit, Finished, Started
from panscope.files import blake3_of, clear_unsealed, write_bytes, write_json
from panscope.web.freeze_plan import Plan
from panscope.web.frozen import rows, scripts_of, standing_alone
from panscope.web.notes import MOST
from panscope.web.pages import HERE
from panscope.web.progress import EVENTS
from panscope.web.run import RunFolder

STAGE = "freeze"
ASKED = {"/progress": ("/api/progress",), "/docs": ("/openapi.json",)}


def freeze(app: ASGIApp, plan: Plan, out: Path, emit: Emit) -> None:
    """Write the pages of a plan as files; pages of the run as it is now are kept.

    Raises ConfigError for a folder that holds something else.
    """
    begun = time.monotonic()
    _claim(out, plan)
    _write_assets(out)
    emit(Started(STAGE, plan.n_files, "pages"))
    asyncio.run(_write_pages(app, plan, out, lambda n: emit(Advanced(STAGE, n))))
    emit(Finished(STAGE, time.monotonic() - begun))


def _claim(out: Path, plan: Plan) -> None:
    """Note what `out` is a copy of; drop pages that show what the run no longer is."""
    atlas = plan.run.catalogue.atlas.manifest.digest
    copied = {"atlas": atlas, "features": plan.n_features, "panscope": __version__}
    wanted = {**copied, "beside": _beside(plan.run.folder)}
    note = out / "frozen.json"
    known = json.loads(note.read_text()) if note.is_file() else {}
    if known and {key: known.get(key) for key in copied} != copied:
        found = "holds a copy of another atlas, or of other features"
        raise ConfigError(str(out), found, "choose another folder or delete that one")
    strangers = (path for path in out.glob("*") if not path.match(f".{note.name}.*.tmp"))
    if not known and any(strangers):
        raise ConfigError(str(out), "is not empty", "choose another folder")
    is_same = known == wanted
    if not is_same:
        (out / "index.html").unlink(missing_ok=True)  # first: without it a copy is not whole
    clear_unsealed(out, () if is_same else ("**/*.html",))
    write_json(note, wanted)


def _beside(run: Path) -> str:
    """Name what pages show beside the atlas: metrics, notes, contrasts, progress."""
    named = ("suite/manifest.json", "notes.sqlite", "notes.sqlite-wal", EVENTS)
    paths = [*(run / name for name in named), *sorted(run.glob("contrast/*/manifest.json"))]
    return digest_of([blake3_of(path) for path in paths if path.is_file() and path.stat().st_size])


def _write_assets(out: Path) -> None:
    for path in sorted((HERE / "static").iterdir()):
        if path.suffix != ".js" or path.name == "theme.js":
            write_bytes(out / "static" / path.name, path.read_bytes())


async def _write_pages(app: ASGIApp, plan: Plan, out: Path, done: Callable[[int], None]) -> None:
    bundles = set[str]()
    for number, path in enumerate(plan.paths(), 1):
        name = plan.name_of(path)
        assert name is not None
        if not (out / name).is_file():
            data = await _data(app, plan, path)
            html, script = standing_alone(await _get(app, _whole(path)), path, plan, data)
            if script not in bundles:
                write_bytes(out / f"static/{script}.bundle.js", scripts_of(script).encode())
                bundles.add(script)
            write_bytes(out / name, html.encode())
        done(number)


def _whole(path: str) -> str:
    """Ask for all of what a server shows in parts.

    >>> _whole("/notes?list=a"), _whole("/help")
    ('/notes?list=a&limit=100000', '/help')
    """
    plain, mark, _ = path.partition("?")
    return f"{path}{'&' if mark else '?'}limit={MOST}" if plain == "/notes" else path


async def _data(app: ASGIApp, plan: Plan, path: str) -> dict[str, Any]:
    """What a page's scripts would ask a server for: lists of features, and whole answers."""
    sae, _, index = path.removeprefix("/sae/").rpartition("/")
    if path.removeprefix("/sae/") in plan.chosen:
        return {"rows": rows(plan.run, plan, [path.removeprefix("/sae/")])}
    if path in ("/search", "/search?by=words"):
        return {"rows": rows(plan.run, plan, list(plan.chosen), labelled_only=True)}
    if path == "/search?by=numbers":
        return {"rows": rows(plan.run, plan, list(plan.chosen))}
    asked = tuple(_asked(plan.run, sae, int(index))) if sae in plan.chosen else ASKED.get(path, ())
    answers = {one: json.loads(await _get(app, one)) for one in asked}
    return {"answers": answers} if answers else {}


def _asked(run: RunFolder, sae: str, index: int) -> Iterator[str]:
    """List what a feature's page asks for when parts of it are opened."""
    if run.catalogue.record(sae, index).elsewhere:
        yield f"/api/sae/{sae}/feature/{index}/elsewhere"
    scored = (label.id for label in run.notes.labels(sae, index) if label.scores)
    yield from (f"/api/sae/{sae}/feature/{index}/labels/{label}" for label in scored)


async def _get(app: ASGIApp, path: str) -> str:
    """Ask the app for a page, without a socket."""
    status, body = 0, b""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, body
        status = message.get("status", status)
        body += message.get("body", b"")

    plain, _, query = path.partition("?")
    scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "method": "GET"}
    scope |= {"path": unquote(plain), "query_string": query.encode()}
    scope |= {"headers": [], "root_path": "", "scheme": "http"}
    await app({**scope, "server": ("localhost", 80), "client": None}, receive, send)
    if (task := asyncio.current_task()) and task.cancelling():
        raise asyncio.CancelledError  # ctrl-c, which the gate has answered as a server that stops
    if status != 200:
        raise PanscopeError(path, f"answered {status}", "open it with panscope serve to see why")
    return body.decode()
