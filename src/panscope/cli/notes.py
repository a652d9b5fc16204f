"""The command that lists what people keep of a run: bookmarks, lists, comments, saved edits."""

import json
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from panscope.cli.terminal import FOLDER, OUT, plain
from panscope.edits import described, parse_all

Rows = Sequence[dict[str, Any]]


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--sae", default="", help="The id of one, for what was kept of it.  [default: all]")
@click.option("--list", "name", metavar="NAME", help="Only the features of one list.")
@click.option("--remove", metavar="NAME", help="Remove the edits saved under a name, first.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def notes(run: Path, sae: str, name: str | None, remove: str | None, as_json: bool) -> None:
    """List what was kept of a run: bookmarks, lists, comments and saved edits.

    \b
    panscope notes runs/demo
    panscope notes runs/demo --list "months of the year"
    panscope notes runs/demo --remove "more rain"
    panscope notes runs/demo --json > notes.json
    """
    from panscope.atlas import export
    from panscope.atlas.features import Atlas
    from panscope.atlas.lists import name_of
    from panscope.atlas.notes import Notes

    atlas, path = Atlas(run / "atlas"), run / "notes.sqlite"  # without one there are no notes
    with closing(Notes.reading(path) if remove is None else Notes.open(path)) as kept:
        export.refuse_unknown(kept, sae, atlas.saes)
        if remove is not None:
            kept.saved.remove(remove)
        if name is not None:
            kept.lists.count(name)
        found = export.exported(kept, sae)
    if name is not None:
        found = {"lists": [one for one in found["lists"] if one["name"] == name_of(name)]}
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
    elif name is not None:
        OUT.print(_features_table([row for one in found["lists"] for row in one["features"]]))
    else:
        _print_all(run, found)


def _print_all(run: Path, found: dict[str, list[dict[str, Any]]]) -> None:
    for kind, table in TABLES.items():
        if found[kind]:
            OUT.print(table(found[kind]))
    if not any(found.values()):
        do = f"Bookmark features, list them, save edits: panscope serve {run} --writable."
        OUT.print("Nothing is kept yet.", do, markup=False, soft_wrap=True)


def _bookmarks_table(bookmarks: Rows) -> Table:
    rows = ((_day(one), _feature(one), one["label"]) for one in bookmarks)
    return _table(("bookmarked", "feature", "label"), rows)


def _lists_table(lists: Rows) -> Table:
    rows = ((one["name"], str(len(one["features"]))) for one in lists)
    return _table(("list", "features"), rows)


def _features_table(features: Rows) -> Table:
    rows = ((_day(one), _feature(one), one["label"], one["remark"]) for one in features)
    return _table(("put in", "feature", "label", "remark"), rows)


def _comments_table(comments: Rows) -> Table:
    rows = ((_day(one), _feature(one), one["text"], one["author"]) for one in comments)
    return _table(("written", "feature", "comment", "by"), rows)


def _edits_table(saved: Rows) -> Table:
    rows = ((_day(one), one["name"], _lines(one["edits"])) for one in saved)
    return _table(("saved", "name", "edits"), rows)


def _lines(edits: Any) -> str:
    return "\n".join(map(described, parse_all(edits)))


def _day(one: dict[str, Any]) -> str:
    return str(one["created"][:10])


def _feature(one: dict[str, Any]) -> str:
    return f"{one['sae']}:{one['index']}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column == "feature", overflow="fold")  # never cut
    for row in rows:
        table.add_row(*map(plain, row))  # square brackets are text
    return table


TABLES = {
    "bookmarks": _bookmarks_table,
    "lists": _lists_table,
    "comments": _comments_table,
    "edits": _edits_table,
}
