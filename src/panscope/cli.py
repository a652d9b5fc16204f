"""The command line: a command for each verb, and demo, serve, show, verify.

    panscope demo
    panscope train my-suite.toml train.seeds='[0, 1]' --output runs/mine

A verb's stage is imported inside its command, so that `show`, `verify` and `serve` start at once.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from panscope import __version__, files
from panscope.allocator import keep_freed_memory
from panscope.errors import ConfigError, Incomplete, PanscopeError
from panscope.events import Bars, Emit, fan_out, silent
from panscope.place import Place

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)

FOLDER = click.Path(path_type=Path, file_okay=False)


class Verbs(click.Group):
    """A group that turns panscope's errors into one line and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except PanscopeError as error:
            ERR.print("error:", style="bold red", end=" ")
            ERR.print(str(error), markup=False, soft_wrap=True)
            sys.exit(error.exit_code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order in which they are used."""
        return list(self.commands)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """A microscope for language models.

    \b
    panscope demo                        train, measure, describe and explore a pocket model
    panscope plan recipe.toml            say what that will cost
    panscope train recipe.toml           train the suite that a recipe describes
    panscope serve runs/demo             open the pages of a run
    panscope show runs/demo/suite        print what an artefact is and what it was made from
    """


@main.command()
@click.option("--output", type=FOLDER, default=Path("runs/demo"), show_default=True)
@click.option("--model", help="A folder or Hub id of a Gemma 2 model.  [default: pocket]")
@click.option("--text", help="Text to read: .txt .jsonl .jsonl.gz .parquet or hf://name.")
@click.option("--no-serve", is_flag=True, help="Stop when all is made.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True)
@click.argument("overrides", nargs=-1)
def demo(
    output: Path,
    model: str | None,
    text: str | None,
    no_serve: bool,
    host: str,
    port: int,
    overrides: tuple[str, ...],
) -> None:
    """Train, measure and describe Saes on every layer and sub-layer, then open the pages.

    What is done already is kept: run it again and it resumes. OVERRIDES change the demo's recipe.

    \b
    panscope demo
    panscope demo --no-serve --output runs/small train.tokens=204800
    panscope demo --model ./my-gemma-2 --text my-corpus.jsonl.gz --output runs/mine
    """
    chosen = {"model.name": model, "text.path": text}
    named = tuple(f"{key}={json.dumps(value)}" for key, value in chosen.items() if value)
    if not no_serve:
        _import_web().check_address(host, port)
    with _launch("demo", (*named, *overrides), output) as launch:
        launch.train()
        suite = launch.evaluate()
        launch.describe()
    OUT.print(_metrics_table(suite.facts.values()))
    if not no_serve:
        _serve(output, host, port)


def _verb(name: str, does: str) -> Callable[[Any], click.Command]:
    """Make a command that runs one verb of a recipe."""
    text = f"""{does}

    RECIPE is a TOML file or the name of a packaged recipe; OVERRIDES are section.key=value.

    \b
    panscope {name} demo --output runs/demo
    panscope {name} recipe.toml text.path=corpus.jsonl.gz --output runs/mine
    """

    def wrap(run: Callable[[Any], None]) -> click.Command:
        @main.command(name, help=text)
        @click.argument("recipe")
        @click.argument("overrides", nargs=-1)
        @click.option("--output", type=FOLDER, required=True, help="The run folder.")
        def command(recipe: str, overrides: tuple[str, ...], output: Path) -> None:
            with _launch(recipe, overrides, output) as launch:
                run(launch)

        return command

    return wrap


@_verb("harvest", "Write a model's activations at many sites into a store.")
def _harvest(launch: Any) -> None:
    OUT.print(_errors_table(launch.harvest().facts))


@_verb("train", "Train a suite of Saes, all over one stream of activations.")
def _train(launch: Any) -> None:
    launch.train()


@_verb("evaluate", "Measure every Sae of a suite on held-out text.")
def _evaluate(launch: Any) -> None:
    OUT.print(_metrics_table(launch.evaluate().facts.values()))


@_verb("describe", "Find what every feature responds to, in one pass over text.")
def _describe(launch: Any) -> None:
    launch.describe()


@main.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
def plan(recipe: str, overrides: tuple[str, ...]) -> None:
    """Say what training a recipe's suite takes: memory, passes, products, disk, hours.

    \b
    panscope plan demo
    panscope plan gemma_scope_1 model.name=google/gemma-2-2b train.memory_gb=60
    """
    from panscope.launch import Launch, read_recipe
    from panscope.plan import plan

    planned = plan(Launch(read_recipe(recipe, overrides), Path(), silent))
    OUT.print(_banks_table(planned.banks))
    OUT.print(
        f"{planned.tokens:,} tokens; {planned.train_flops:.3g} operations in encoder products and "
        f"{planned.model_flops:.3g} in the model, at least {planned.hours:.2g} hours at "
        f"{planned.flops_per_second / 1e9:,.0f} GFLOP/s; "
        f"suite of {planned.suite_bytes / 1e9:.2f} GB"
    )


@main.command()
@click.argument("run", type=FOLDER)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True)
def serve(run: Path, host: str, port: int) -> None:
    """Open the pages of a run folder in a browser.

    \b
    panscope serve runs/demo --port 8001
    """
    _serve(run, host, port)


@main.command()
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest as JSON.")
def show(path: str, as_json: bool) -> None:
    """Print what an artefact is, and what it was made from.

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
        OUT.print(_manifest_table(folder, manifest))
        if any("metrics" in fact for fact in manifest.facts.get("saes", ())):
            OUT.print(_metrics_table(manifest.facts["saes"]))


@main.command()
@click.argument("path")
def verify(path: str) -> None:
    """Check every byte of an artefact, or of all artefacts of a run, against its checksum.

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


@contextmanager
def _launch(recipe: str, overrides: tuple[str, ...], output: Path) -> Iterator[Any]:
    """Read a recipe and yield its launch, with bars on the terminal and events in the run."""
    from panscope.launch import Launch, read_recipe, sinks

    keep_freed_memory()
    read = read_recipe(recipe, overrides)
    with Bars(OUT) as bars:
        emit: Emit = fan_out(bars, *sinks(read, output))
        launch = Launch(read, output, emit)
        yield launch
        launch.record_recipe()


def _artefacts(path: str) -> list[Place]:
    """List the artefacts at or below a path or URL."""
    place = Place.of(path)
    below = [] if (place / files.MANIFEST).is_file() else files.artefacts_in(place)
    return below or [place]


def _import_web() -> Any:
    """Import the web floor, which is an extra."""
    try:
        from panscope.web import app
    except ModuleNotFoundError as error:
        found = f"{error.name} is not installed"
        raise ConfigError("serve", found, "run pip install 'panscope[web]'") from error
    return app


def _serve(run: Path, host: str, port: int) -> None:
    web = _import_web()
    web.serve(run, host, port, lambda url: OUT.print(f"[bold]{run}[/] at {url}  (ctrl-c to stop)"))


def _metrics_table(facts: Any) -> Table:
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


def _banks_table(banks: Any) -> Table:
    """Lay out what is trained together: a row a bank."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("bank", "Saes", "memory"):
        table.add_column(name, justify="right")
    table.add_column("from, to")
    for number, bank in enumerate(banks, 1):
        ends = f"{bank.saes[0]}, {bank.saes[-1]}"
        table.add_row(str(number), str(len(bank.saes)), f"{bank.memory_bytes / 1e9:.2f} GB", ends)
    return table


def _errors_table(facts: Any) -> Table:
    """Lay out what a store's type has cost: a row a site."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("site")
    table.add_column("d", justify="right")
    table.add_column(f"error as {facts['dtype']}", justify="right")
    for site, error in facts["error"].items():
        table.add_row(site, str(facts["sites"][site]), f"{error:.3%}")
    return table


def _manifest_table(folder: Place, manifest: files.Manifest) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, title=str(folder))
    table.title_justify, table.title_style = "left", "bold"
    n_bytes = sum(record.size_bytes for record in manifest.files.values())
    table.add_row("kind", f"{manifest.kind}, format {manifest.format_version}")
    table.add_row("digest", manifest.digest)
    table.add_row("files", f"{len(manifest.files)}, {n_bytes / 1e6:.1f} MB")
    for name, digest in manifest.inputs.items():
        table.add_row(f"from {name}", digest)
    table.add_row("config", json.dumps(manifest.config))
    return table
