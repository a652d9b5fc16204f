"""A frozen copy of a run's pages: files that open from a disk or from any server of files.

    DIR/
      index.html  help.html              index.html is written last: without it a copy is not whole
      frozen.json                        what it is a copy of
      sae/<site>/<name>/index.html       a Sae, with the list of the features that are copied
      sae/<site>/<name>/<index>.html     a feature
      static/                            styles, and each page's scripts in one file

What needs a server (live tests, the microscope, the API) is left out, and every page says so.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message

from panscope import __version__
from panscope.atlas.queries import Catalogue, Query
from panscope.errors import ConfigError, PanscopeError
from panscope.events import Advanced, Emit, Finished, Started
from panscope.files import write_bytes, write_json
from panscope.web.addresses import moved
from panscope.web.bundle import bundle
from panscope.web.pages import HERE, as_json

STAGE = "freeze"
_MODULE = re.compile(r'<script type="module" src="/static/([\w.]+)\.js"></script>\n?')
_FEATURE = re.compile(r"/sae/(.+)/(\d+)")


@dataclass(frozen=True)
class Plan:
    """What is copied: of each Sae the first `n_features` alive features, in order of index.

    They come without regard to what they mean, so they are a fair sample, and next and previous
    lead from one to the other.
    """

    catalogue: Catalogue
    n_features: int

    @cached_property
    def chosen(self) -> dict[str, list[int]]:
        """The features of each Sae."""
        query = Query(sort="index", descending=False)
        return {
            sae: self.catalogue.select(sae, query)[: self.n_features].tolist()
            for sae in self.catalogue.atlas.saes
        }

    @property
    def n_files(self) -> int:
        """How many pages are written; styles and scripts are a dozen files more."""
        return 2 + len(self.chosen) + sum(map(len, self.chosen.values()))

    def paths(self) -> Iterator[str]:
        """The addresses of all pages, the first page last."""
        for sae, indices in self.chosen.items():
            yield from (f"/sae/{sae}/{index}" for index in indices)
            yield f"/sae/{sae}"
        yield from ("/help", "/")

    def file_of(self, path: str) -> str | None:
        """Name the file of a page, relative to the copy; None for what is not copied."""
        plain, hash_, part = path.partition("#")
        if plain in ("/", "/help"):
            return ("index" if plain == "/" else "help") + f".html{hash_}{part}"
        if plain.startswith("/static/"):
            return plain[1:]
        if plain[len("/sae/") :] in self.chosen:
            return f"{plain[1:]}/index.html"
        feature = _FEATURE.fullmatch(plain)
        is_chosen = feature and int(feature[2]) in self._sets.get(feature[1], ())
        return f"{plain[1:]}.html" if is_chosen else None

    @cached_property
    def _sets(self) -> dict[str, frozenset[int]]:
        return {sae: frozenset(indices) for sae, indices in self.chosen.items()}


def freeze(app: ASGIApp, plan: Plan, out: Path, emit: Emit) -> None:
    """Write the pages of a plan as files; a page that is there already is kept.

    Raises ConfigError for a folder that holds something else.
    """
    begun = time.monotonic()
    _claim(out, plan)
    _write_assets(out)
    emit(Started(STAGE, plan.n_files, "pages"))
    asyncio.run(_write_pages(app, plan, out, lambda n: emit(Advanced(STAGE, n))))
    emit(Finished(STAGE, time.monotonic() - begun))


def _claim(out: Path, plan: Plan) -> None:
    atlas = plan.catalogue.atlas.manifest.digest
    wanted = {"atlas": atlas, "features": plan.n_features, "panscope": __version__}
    note = out / "frozen.json"
    if note.is_file():
        if json.loads(note.read_text()) != wanted:
            found = "holds a copy of another atlas, or of other features"
            raise ConfigError(str(out), found, "choose another folder or delete that one")
    elif out.is_dir() and any(out.iterdir()):
        raise ConfigError(str(out), "is not empty", "choose another folder")
    else:
        write_json(note, wanted)


def _write_assets(out: Path) -> None:
    for path in sorted((HERE / "static").iterdir()):
        if path.suffix != ".js" or path.name == "theme.js":
            write_bytes(out / "static" / path.name, path.read_bytes())


async def _write_pages(app: ASGIApp, plan: Plan, out: Path, done: Callable[[int], None]) -> None:
    bundles = set[str]()
    for number, path in enumerate(plan.paths(), 1):
        name = plan.file_of(path)
        assert name is not None
        if not (out / name).is_file():
            html, script = _frozen(await _get(app, path), path, name, plan)
            if script not in bundles:
                text = bundle(HERE / "static", ["page.js", f"{script}.js"], {"ask.js": "frozen.js"})
                write_bytes(out / f"static/{script}.bundle.js", text.encode())
                bundles.add(script)
            write_bytes(out / name, html.encode())
        done(number)


def _frozen(html: str, path: str, name: str, plan: Plan) -> tuple[str, str]:
    """Turn a page into one that stands alone; also name the script that it needs."""
    root = "/".join([".."] * name.count("/")) or "."
    scripts = _MODULE.findall(html)
    html = _MODULE.sub("", html)
    last = scripts[-1]
    head = (
        '<link rel="stylesheet" href="/static/frozen.css">\n'
        f'<script defer src="/static/{last}.bundle.js"></script>\n'
    )
    html = html.replace("</head>", f"{head}</head>").replace("</main>", f"{_notice(plan)}</main>")
    if path[len("/sae/") :] in plan.chosen:
        html = html.replace("</body>", f"{_list(plan, path[len('/sae/') :])}</body>")

    def to(address: str) -> str | None:
        target = plan.file_of(address)
        return None if target is None else f"{root}/{target}"

    return moved(html, to, root, " data-frozen"), last


def _notice(plan: Plan) -> str:
    return (
        '<p class="notice">A frozen copy, with up to '
        f"{plan.n_features} features of each Sae. Live tests, the microscope and the API need a "
        "server: <code>panscope serve</code>.</p>\n"
    )


def _list(plan: Plan, sae: str) -> str:
    """Write the lines of a Sae's list into its page."""
    columns = plan.catalogue.columns(sae)
    rows = [columns.row(index) for index in plan.chosen[sae]]
    pieces = plan.catalogue.pieces(t for row in rows for t in row.top_tokens + row.peak_tokens)
    data = as_json({"rows": rows, "pieces": pieces}).replace("<", "\\u003c")
    return f'<script type="application/json" id="rows">{data}</script>\n'


async def _get(app: ASGIApp, path: str) -> str:
    """Ask the app for a page, without a socket."""
    status, body = 0, b""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, body
        status = message.get("status", status)
        body += message.get("body", b"")

    scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "method": "GET", "path": path}
    scope |= {"query_string": b"", "headers": [], "root_path": "", "scheme": "http"}
    await app({**scope, "server": ("localhost", 80), "client": None}, receive, send)
    if status != 200:
        raise PanscopeError(path, f"answered {status}", "open it with panscope serve to see why")
    return body.decode()
