"""Addresses inside a page: templates write them from the root, and pages may stand elsewhere."""

import re
from collections.abc import Callable

_ADDRESS = re.compile(r'\b(href|src|action)="(/[^"]*)"')
_HTML = "<html "


def moved(html: str, to: Callable[[str], str | None], root: str, more: str = "") -> str:
    """Rewrite every address of a page; one that `to` knows no place for leads nowhere.

    Scripts read `root`, what they are to put before the addresses they make, off the page's first
    tag; `more` attributes join it there.

    >>> moved('<html lang="en"><a href="/a">', lambda path: "/x" + path, "/x")
    '<html data-root="/x" lang="en"><a href="/x/a">'
    >>> moved('<a href="/b">', lambda path: None, "")
    '<a data-needs-server>'
    """

    def one(found: re.Match[str]) -> str:
        target = to(found[2])
        return "data-needs-server" if target is None else f'{found[1]}="{target}"'

    html = _ADDRESS.sub(one, html)
    return html.replace(_HTML, f'{_HTML}data-root="{root}"{more} ', 1)
