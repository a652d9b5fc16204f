"""What commands print of a run at their end."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from panscope import files
from panscope.cli.terminal import OUT
from panscope.errors import Incomplete
from panscope.place import Place
from panscope.sites import Site


def print_metrics(run: Path) -> None:
    """Print how faithful the Saes of a run are."""
    OUT.print(metrics_table(files.read_manifest(run / "suite").facts["saes"]))


def print_errors(run: Path) -> None:
    """Print what the type of a run's store has cost at each site."""
    folder = json.loads((run / "recipe.json").read_text())["store"]["folder"]
    OUT.print(_errors_table(files.read_manifest(folder or run / "store").facts))


def print_labels(run: Path) -> None:
    """Print how good labels are, beside those of other features: a row a Sae and method."""
    from panscope.atlas.features import Atlas
    from panscope.atlas.notes import Notes

    with closing(Notes.reading(run / "notes.sqlite")) as notes:
        averages = [(sae, one) for sae in Atlas(run / "atlas").saes for one in notes.averages(sae)]
    scorers = sorted({one.scorer for _, one in averages})
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for sae, one in averages:
        row = cells.setdefault((sae, one.method, str(one.n_labels)), {})
        row[one.scorer] = f"{two_digits(one.value)}/{two_digits(one.baseline)}"
    caption = "score/that of another feature's label"
    table = Table(box=None, header_style="bold", pad_edge=False, caption=caption)
    table.add_column("Sae", no_wrap=True)
    table.add_column("by")
    for name in ("labels", *scorers):
        table.add_column(name, justify="right")
    for names, row in cells.items():
        table.add_row(*names, *(row.get(scorer, "") for scorer in scorers))
    OUT.print(table)


def two_digits(value: float | None) -> str:
    """Write a score; a dash for one that is not known."""
    return "-" if value is None else f"{value:.2f}"


def metrics_table(facts: Any) -> Table:
    """Lay out the closing table: a row a Sae."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("site")
    for name in ("width", "L0", "FVU", "delta loss", "dead"):
        table.add_column(name, justify="right")
    for fact in facts:
        if "metrics" not in fact:
            raise Incomplete(fact["sae"], "has no metrics", "run `panscope evaluate`")
        m = fact["metrics"]
        delta = f"{m['delta_loss']:.3f} ±{m['delta_loss_se']:.3f}"
        row = (f"{m['l0']:.1f}", f"{m['fvu']:.3f}", delta, f"{m['dead_share']:.1%}")
        table.add_row(fact["site"], str(fact["width"]), *row)
    return table


def opened_table(facts: Any) -> Table:
    """Lay out what foreign files hold and say: a row a Sae; above, what is the same for all."""
    kinds, models = (
        ", ".join(sorted({str(fact.get(key, "a model not named")) for fact in facts}))
        for key in ("format", "model")
    )
    table = Table(box=None, header_style="bold", pad_edge=False, title=f"{kinds}: Saes of {models}")
    table.title_justify, table.title_style = "left", "bold"
    table.add_column("Sae", overflow="fold")
    for name in ("reads", "architecture"):
        table.add_column(name)
    for name in ("width", "L0"):
        table.add_column(name, justify="right")
    for fact in facts:
        l0, reads = fact.get("l0") or fact.get("target_l0"), ", ".join(fact["reads"])
        said = (str(fact["width"]), f"{l0:g}" if l0 else "-")
        table.add_row(fact["sae"], reads, fact["architecture"], *said)
    return table


def _errors_table(facts: Any) -> Table:
    """Lay out what a store's type has cost: a row a site, in the order of a forward pass."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("site")
    table.add_column("d", justify="right")
    table.add_column(f"error as {facts['dtype']}", justify="right")
    for site in sorted(facts["error"], key=lambda name: Site.parse(name).order):
        table.add_row(site, str(facts["sites"][site]), f"{facts['error'][site]:.3%}")
    return table


def manifest_table(folder: Place, manifest: files.Manifest) -> Table:
    """Lay out what an artefact is and what it was made from."""
    table = Table(box=None, show_header=False, pad_edge=False, title=str(folder))
    table.title_justify, table.title_style = "left", "bold"
    n_bytes = sum(record.size_bytes for record in manifest.files.values())
    table.add_row("kind", f"{manifest.kind}, format {manifest.format_version}")
    table.add_row("digest", manifest.digest)
    table.add_row("files", f"{len(manifest.files)}, {decimal(n_bytes)}")
    for name, digest in manifest.inputs.items():
        table.add_row(f"from {name}", digest)
    return table
