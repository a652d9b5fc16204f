"""A page of a frozen copy: its scripts in one file, its data inside, its links to files."""

import re
from collections.abc import Mapping
from typing import Any

from panscope.atlas.labels import Label
from panscope.web.addresses import moved
from panscope.web.bundle import bundle
from panscope.web.freeze_plan import Plan
from panscope.web.pages import HERE, as_json
from panscope.web.run import RunFolder

_MODULE = re.compile(r'<script type="module" src="/static/([\w.]+)\.js"></script>\n?')
_MAIN = re.compile(r"<main [^>]*>\n")
LIVE = {
    "/microscope": "The microscope runs the model on a text of yours.",
    "/steer": "Steering writes with the model.",
    "/tour": "Looking at a text of yours and steering run the model; guessing does not.",
    "/docs": "The list of routes is whole, but nothing here answers them.",
    "/search?by=text": "This search runs the model on a text of yours.",
    "/search?by=direction": "This search reads the Saes’ weights.",
    "/search?by=meaning": "This search asks a model of embeddings.",
}


def standing_alone(html: str, path: str, plan: Plan, data: Mapping[str, Any]) -> tuple[str, str]:
    """Turn a page into one that stands alone; also name the script that it needs.

    `data` stands in the page as JSON, each value under its name, for `frozen.js` to answer from.
    """
    name = plan.name_of(path)
    assert name is not None
    root = "/".join([".."] * name.count("/")) or "."
    script = _MODULE.findall(html)[-1]
    head = (
        '<link rel="stylesheet" href="/static/frozen.css">\n'
        f'<script defer src="/static/{script}.bundle.js"></script>\n'
    )
    html = _MODULE.sub("", html).replace("</head>", f"{head}</head>")
    html = _MAIN.sub(lambda main: main[0] + _missing(path), html, count=1)
    html = html.replace("</main>", f"{_notice(plan)}</main>")
    html = html.replace("</body>", f"{''.join(map(_inside, data.items()))}</body>")

    def to(address: str) -> str | None:
        target = plan.file_of(address)
        return None if target is None else f"{root}/{target}"

    return moved(html, to, root, " data-frozen"), script


def scripts_of(script: str) -> str:
    """Join a page's scripts, with answers from the page itself in place of a server's."""
    return bundle(HERE / "static", ["page.js", f"{script}.js"], {"ask.js": "frozen.js"})


def rows(run: RunFolder, plan: Plan, saes: list[str], labelled_only: bool = False) -> Any:
    """The features of some Saes that are copied, as lists and searches show them."""
    found = []
    for sae in saes:
        labels = run.notes.shown(sae)
        kept = [i for i in plan.chosen[sae] if not labelled_only or i in labels]
        found += [_row(run, sae, index, labels.get(index)) for index in kept]
    tokens = {t for one in found for t in one["row"].top_tokens + one["row"].peak_tokens}
    return {"hits": found, "pieces": run.catalogue.pieces(tokens)}


def _row(run: RunFolder, sae: str, index: int, label: Label | None) -> dict[str, Any]:
    catalogue = run.catalogue
    known = [s for s in label.scores if s.value is not None] if label else []
    return {
        "sae": sae,
        "row": catalogue.row(sae, index),
        "label": label.text if label else "",
        "scores": {score.scorer: score.value for score in known},
        "place": catalogue.place(sae)[index].tolist() if catalogue.has_place(sae) else None,
        "value": None,
        "positions": [],
        "values": [],
    }


def _missing(path: str) -> str:
    """Say on a page that needs a server what it lacks."""
    if path not in LIVE:
        return ""
    more = "A frozen copy has neither model nor server: <code>panscope serve RUN</code> has."
    return f'<p class="notice" role="status">{LIVE[path]} {more}</p>\n'


def _notice(plan: Plan) -> str:
    return (
        '<p class="notice copy">A frozen copy, with up to '
        f"{plan.n_features} features of each Sae and those of the tour. "
        "<code>panscope serve</code> shows all, tests them on your text, and steers.</p>\n"
    )


def _inside(item: tuple[str, Any]) -> str:
    name, value = item
    text = (value if isinstance(value, str) else as_json(value)).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'
