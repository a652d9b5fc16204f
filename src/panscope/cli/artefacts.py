"""The commands that look at what is made: search in labels, show, verify."""

import json
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from panscope import files
from panscope.cli.tables import manifest_table, metrics_table
from panscope.cli.terminal import ERR, FOLDER, OUT, plain
from panscope.place import Place


@click.command()
@click.argument("run", type=FOLDER)
@click.argument("text")
@click.option("--sae", default="", help="The id of one.  [default: all]")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--by", type=click.Choice(["words", "meaning"]), default="words", show_default=True)
def search(run: Path, text: str, sae: str, limit: int, by: str) -> None:
    """Find features by their labels, which panscope explain makes.

    By words: all must occur, the last may be unfinished, "words in quotes" follow each other. By
    meaning: nearest by the embedding model of the recipe's [explain.meaning].

    \b
    panscope search runs/demo 'months of the ye'
    panscope search runs/demo 'when things happen' --by meaning --limit 5
    """
    from panscope.atlas.features import Atlas
    from panscope.atlas.notes import Notes

    atlas = Atlas(run / "atlas")  # a folder without one has no labels either, and is told so
    if sae:
        atlas.sae(sae)
    with closing(Notes.reading(run / "notes.sqlite")) as notes:
        by_words = partial(notes.search, text, limit, sae=sae)
        found = by_words() if by == "words" else _by_meaning(run, notes, text, limit, sae)
        has_labels = found or any(map(notes.methods, [sae] if sae else atlas.saes))
    if not found:
        first = f"panscope explain {run / 'recipe.json'} --output {run} makes labels."
        do = (
            "All words of the search must be in it."
            if has_labels
            else f"None is there yet: {first}"
        )
        OUT.print("No label was found.", do, markup=False, soft_wrap=True)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("Sae", no_wrap=True)
    table.add_column("feature", justify="right")
    table.add_column("label")
    for hit in found:
        table.add_row(hit.label.sae, str(hit.label.index), plain(hit.label.text))
    OUT.print(table)


def _by_meaning(run: Path, notes: Any, text: str, limit: int, sae: str) -> list[Any]:
    from panscope.stages import explain

    return explain.search(explain.embedding_of(run), notes, text, limit, sae)


@click.command()
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest as JSON.")
def show(path: str, as_json: bool) -> None:
    """Print what an artefact is, and what it was made from.

    With --json its configuration, too.

    \b
    panscope show runs/demo/suite
    panscope show runs/demo/atlas --json
    """
    manifests = {folder: files.read_manifest(folder) for folder in _artefacts(path)}
    if as_json:
        trees = [manifest.model_dump(mode="json") for manifest in manifests.values()]
        click.echo(json.dumps(trees[0] if len(trees) == 1 else trees, indent=1))
        return
    for folder, manifest in manifests.items():
        OUT.print(manifest_table(folder, manifest))
        if any("metrics" in fact for fact in manifest.facts.get("saes", ())):
            OUT.print(metrics_table(manifest.facts["saes"]))


@click.command()
@click.argument("path")
def verify(path: str) -> None:
    """Check every byte of an artefact or a run against its checksum.

    Exits with 1 and names each file that is not what was written.

    \b
    panscope verify runs/demo
    panscope verify s3://bucket/store
    """
    problems = files.verify(path)
    for problem in problems:
        ERR.print(str(problem), markup=False, soft_wrap=True)
    if problems:
        sys.exit(1)
    n_files = sum(len(files.read_manifest(folder).files) for folder in _artefacts(path))
    OUT.print(f"{path}: {n_files} files, every byte as it was written", soft_wrap=True)


def _artefacts(path: str) -> list[Place]:
    """List the artefacts at or below a path or URL."""
    place = Place.of(path)
    below = [] if (place / files.MANIFEST).is_file() else files.artefacts_in(place)
    return below or [place]
