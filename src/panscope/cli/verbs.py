"""The commands that run a recipe's verbs, and the demo, which runs several."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from panscope.atlas.labels import HUMAN
from panscope.cli.pages import import_web, serve_pages
from panscope.cli.tables import print_errors, print_labels, print_metrics
from panscope.cli.terminal import FOLDER, crew_of
from panscope.errors import ConfigError

TEXT = """A .txt .jsonl .jsonl.gz .jsonl.xz or .parquet file, a folder of .txt files, or hf://name.
 [default: pocket]"""


@click.command()
@click.option("--output", type=FOLDER, default=Path("runs/demo"), show_default=True)
@click.option("--model", help="A model's folder or Hub id.  [default: pocket]")
@click.option("--text", help=TEXT)
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
    """Train, measure, describe and explore Saes of every layer.

    And of every sub-layer; then the pages are opened. What is done already is kept: run it again
    and it resumes. OVERRIDES change the demo's recipe.

    \b
    panscope demo
    panscope demo --no-serve --output runs/small train.tokens=204800
    panscope demo --model ./my-gemma-2 --text my-corpus.jsonl.gz --output runs/mine
    """
    chosen = {"model.name": model, "text.path": text}
    named = tuple(f"{key}={json.dumps(value)}" for key, value in chosen.items() if value)
    if not no_serve:
        import_web().check_address(host, port)
    with crew_of("demo", (*named, *overrides), output) as crew:
        for verb in ("train", "evaluate", "describe"):
            crew.run(verb)
    if crew.leads:
        print_metrics(output)
        if not no_serve:
            serve_pages(output, host, port)


def _verb(name: str, does: str, then: Callable[[Path], None] = lambda run: None) -> click.Command:
    """Make a command that runs one verb of a recipe, and `then` speaks of the run."""
    text = f"""{does}

    RECIPE is a TOML file or the name of a packaged recipe; OVERRIDES are section.key=value.

    \b
    panscope {name} demo --output runs/demo
    panscope {name} recipe.toml text.path=corpus.jsonl.gz --output runs/mine
    panscope {name} recipe.toml --output runs/mine --on ray --workers 4
    torchrun --nproc-per-node 4 -m panscope {name} recipe.toml --output runs/mine
    """

    @click.command(name, help=text)
    @click.argument("recipe")
    @click.argument("overrides", nargs=-1)
    @click.option("--output", type=FOLDER, required=True, help="The run folder.")
    @click.option("--on", type=click.Choice(["here", "ray"]), default="here", show_default=True)
    @click.option("--workers", type=click.IntRange(min=1), help="Of Ray.  [default: one a GPU]")
    @click.option("--ray-address", help="Of a cluster that is running.  [default: RAY_ADDRESS]")
    def command(
        recipe: str,
        overrides: tuple[str, ...],
        output: Path,
        on: str,
        workers: int | None,
        ray_address: str | None,
    ) -> None:
        if on != "ray" and (workers or ray_address):
            do = "add --on ray, or start the command with torchrun --nproc-per-node"
            raise ConfigError("--workers, --ray-address", "are for Ray", do)
        with crew_of(recipe, overrides, output, on == "ray", workers, ray_address) as crew:
            crew.run(name)
        if crew.leads:
            then(output)

    return command


harvest = _verb("harvest", "Write a model's activations at many sites into a store.", print_errors)
train = _verb("train", "Train a suite of Saes, all over one stream of activations.")
evaluate = _verb("evaluate", "Measure every Sae of a suite on held-out text.", print_metrics)
describe = _verb("describe", "Find what every feature responds to, in one pass over text.")


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option("--output", type=FOLDER, required=True, help="The run folder, with an atlas.")
@click.option("--sae", "saes", multiple=True, help="Ids, with * for any part.  [default: all]")
@click.option("--features", default="", help="Such as 3,7,100-199.  [default: all alive]")
@click.option("--rescore", is_flag=True, help="Score the labels that people wrote instead.")
@click.option("--rescore-of", type=click.Choice(["rules", "model"]), help="Or those found so.")
def explain(
    recipe: str,
    overrides: tuple[str, ...],
    output: Path,
    saes: tuple[str, ...],
    features: str,
    rescore: bool,
    rescore_of: str | None,
) -> None:
    """Say what features mean, and how well that tells where they fire.

    By rules that are found in their examples, or by a language model at any endpoint that speaks
    OpenAI's protocol. What is labelled already is left as it is.

    \b
    panscope explain demo --output runs/demo
    panscope explain demo --output runs/demo --sae 'resid_post.2/*' --features 3,7,100-199
    panscope explain demo --output runs/demo --rescore
    panscope explain demo --output runs/demo --rescore-of rules explain.by=endpoint
    panscope explain demo --output runs/demo explain.by=endpoint explain.at_most=20 \\
        explain.endpoint.base_url=http://localhost:8000/v1 explain.endpoint.model=qwen3-32b
    """
    given = {"saes": list(saes), "features": _indices(features)}
    chosen = {key: value for key, value in given.items() if value}
    named = tuple(f"explain.{key}={json.dumps(value)}" for key, value in chosen.items())
    _refuse_unknown(output, chosen)  # before a recipe's stages, and torch, are imported: 4 s
    with crew_of(recipe, (*overrides, *named), output) as crew:
        if not (rescore or rescore_of):
            crew.run("explain")
        elif crew.leads:
            crew.launch.rescore(rescore_of or HUMAN)
    if crew.leads:
        print_labels(output)


def _refuse_unknown(run: Path, chosen: dict[str, Any]) -> None:
    """Raise NotFound for no atlas, and for Saes and features that it does not have."""
    from panscope.atlas.features import Atlas
    from panscope.stages import explain

    explain.refuse_unknown(explain.Config.parse(chosen, "explain"), Atlas(run / "atlas"))


def _indices(text: str) -> list[int]:
    """Read numbers and ranges of them; both ends of a range belong to it."""
    indices: list[int] = []
    for part in filter(None, text.replace(" ", "").split(",")):
        low, dash, high = part.partition("-")
        high = high if dash else low
        if not (low.isdecimal() and high.isdecimal() and int(low) <= int(high)):
            raise ConfigError("--features", f"{part!r} is no index", "write such as 3,7,100-199")
        indices += range(int(low), int(high) + 1)
    return indices
