"""The model card's tables and samples, written into it by the scripts that made them.

A block stands between `<!-- name -->` and `<!-- /name -->`; whatever was there is replaced.
"""

from pathlib import Path

from panscope.errors import NotFound
from panscope.files import write_bytes


def insert(path: Path, name: str, block: str) -> None:
    """Replace what stands in the card between the two comments of `name`."""
    if not path.is_file():
        raise NotFound(str(path), "no such file", "give the model card, pocket/README.md")
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, opened, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise NotFound(str(path), f"has no block {begin} ... {end}", "put the two comments back")
    write_bytes(path, f"{before}{begin}\n{block.strip()}\n{end}{after}".encode())


def table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Set a Markdown table; the first column reads left, the others right."""
    rule = ("---", *("---:" for _ in head[1:]))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))
