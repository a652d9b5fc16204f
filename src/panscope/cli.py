"""The command line: a command for each verb, and demo, serve, show, verify.

    panscope demo
    panscope train my-suite.toml train.seeds='[0, 1]' --output runs/mine

A verb's stage is imported inside its command, so that `show`, `verify` and `serve` start at once.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from panscope import __version__, files
from panscope.allocator import keep_freed_memory
from panscope.errors import ConfigError, Incomplete, PanscopeError
from panscope.events import Bars
from panscope.place import Place
from panscope.sites import Site

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)

T = TypeVar("T")

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
    panscope explain recipe.toml         say what its features mean
    panscope serve runs/demo             open the pages of a run
    panscope steer runs/demo "Once"      write a text with features changed, beside the normal one
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
    with _crew("demo", (*named, *overrides), output) as crew:
        for verb in ("train", "evaluate", "describe"):
            crew.run(verb)
    if crew.leads:
        _print_metrics(output)
        if not no_serve:
            _serve(output, host, port)


def _verb(name: str, does: str, then: Callable[[Path], None] = lambda run: None) -> None:
    """Make a command that runs one verb of a recipe, and `then` speaks of the run."""
    text = f"""{does}

    RECIPE is a TOML file or the name of a packaged recipe; OVERRIDES are section.key=value.

    \b
    panscope {name} demo --output runs/demo
    panscope {name} recipe.toml text.path=corpus.jsonl.gz --output runs/mine
    panscope {name} recipe.toml --output runs/mine --on ray --workers 4
    torchrun --nproc-per-node 4 -m panscope {name} recipe.toml --output runs/mine
    """

    @main.command(name, help=text)
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
        with _crew(recipe, overrides, output, on == "ray", workers, ray_address) as crew:
            crew.run(name)
        if crew.leads:
            then(output)


def _print_metrics(run: Path) -> None:
    OUT.print(_metrics_table(files.read_manifest(run / "suite").facts["saes"]))


def _print_errors(run: Path) -> None:
    folder = json.loads((run / "recipe.json").read_text())["store"]["folder"]
    OUT.print(_errors_table(files.read_manifest(folder or run / "store").facts))


_verb("harvest", "Write a model's activations at many sites into a store.", _print_errors)
_verb("train", "Train a suite of Saes, all over one stream of activations.")
_verb("evaluate", "Measure every Sae of a suite on held-out text.", _print_metrics)
_verb("describe", "Find what every feature responds to, in one pass over text.")


@main.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option("--output", type=FOLDER, required=True, help="The run folder, with an atlas.")
@click.option("--sae", "saes", multiple=True, help="Ids, with * for any part.  [default: all]")
@click.option("--features", default="", help="Such as 3,7,100-199.  [default: all alive]")
def explain(
    recipe: str, overrides: tuple[str, ...], output: Path, saes: tuple[str, ...], features: str
) -> None:
    """Say what features mean, and how well that tells where they fire.

    By rules that are found in their examples, or by a language model at any endpoint that speaks
    OpenAI's protocol. What is labelled already is left as it is.

    \b
    panscope explain demo --output runs/demo
    panscope explain demo --output runs/demo --sae 'resid_post.2/*' --features 3,7,100-199
    panscope explain demo --output runs/demo explain.by=endpoint explain.at_most=20 \\
        explain.endpoint.base_url=http://localhost:8000/v1 explain.endpoint.model=qwen3-32b
    """
    chosen = {"explain.saes": list(saes), "explain.features": _indices(features)}
    named = tuple(f"{key}={json.dumps(value)}" for key, value in chosen.items() if value)
    with _crew(recipe, (*overrides, *named), output) as crew:
        crew.run("explain")
    if crew.leads:
        _print_labels(output)


@main.command()
@click.argument("run", type=FOLDER)
@click.argument("text")
@click.option("--sae", default="", help="The id of one.  [default: all]")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--by", type=click.Choice(["words", "meaning"]), default="words", show_default=True)
def search(run: Path, text: str, sae: str, limit: int, by: str) -> None:
    """Find features by their labels.

    By words: all must occur, the last may be unfinished, "words in quotes" follow each other. By
    meaning: nearest by the embedding model of the recipe's [explain.meaning].

    \b
    panscope search runs/demo 'months of the ye'
    panscope search runs/demo 'when things happen' --by meaning --limit 5
    """
    from panscope.atlas.features import Atlas
    from panscope.atlas.notes import Notes

    if sae:
        Atlas(run / "atlas").sae(sae)
    with closing(Notes.reading(run / "notes.sqlite")) as notes:
        by_words = partial(notes.search, text, limit, sae=sae)
        found = by_words() if by == "words" else _by_meaning(run, notes, text, limit, sae)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("Sae", no_wrap=True)
    table.add_column("feature", justify="right")
    table.add_column("label")
    for hit in found:
        table.add_row(hit.label.sae, str(hit.label.index), Text(hit.label.text))
    OUT.print(table)


def _by_meaning(run: Path, notes: Any, text: str, limit: int, sae: str) -> list[Any]:
    from panscope.stages import explain

    recipe = run / "recipe.json"
    tree = json.loads(recipe.read_text()).get("explain", {}) if recipe.is_file() else {}
    endpoint = explain.Config.parse(tree, str(recipe)).meaning
    if endpoint is None:
        do = "name an embedding model in [explain.meaning] and run panscope explain"
        raise ConfigError(str(run), "has no labels by meaning", do)
    return explain.search(endpoint, notes, text, limit, sae)


@main.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option(
    "--output",
    type=FOLDER,
    default=Path("runs"),
    show_default=True,
    help="Where the run would be written: the disk whose speed is measured.",
)
@click.option("--no-calibration", is_flag=True, help="Leave this machine's hours out.")
@click.option("--price", type=click.FloatRange(0), help="Dollars for an hour of a machine.")
@click.option(
    "--disk-price",
    type=click.FloatRange(0),
    default=20.0,
    show_default=True,
    help="Dollars for a TiB of disk for a month.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all numbers as JSON.")
def plan(
    recipe: str,
    overrides: tuple[str, ...],
    output: Path,
    no_calibration: bool,
    price: float | None,
    disk_price: float,
    as_json: bool,
) -> None:
    """Say what a recipe takes before anything runs: tokens, disk, memory, operations, hours.

    Measures this machine for about 20 seconds. Of the model only its configuration is needed, or a
    [model.shape] in the recipe.

    \b
    panscope plan demo
    panscope plan gemma-2-9b --no-calibration --price 2.50
    panscope plan gemma_scope_1 model.name=google/gemma-2-2b train.memory_gb=60 --json
    """
    from panscope.launch import read_recipe
    from panscope.model.load import read_shape
    from panscope.plan import calibrate, plan, report
    from panscope.plan.cost import Prices
    from panscope.plan.machines import ACCELERATORS
    from panscope.plan.work import Wanted

    read = read_recipe(recipe, overrides)
    shape, prices = read_shape(read.model), Prices(price, disk_price)
    with Bars(ERR) as bars:
        wanted = Wanted(read, shape)
        here = [] if no_calibration else [calibrate.here(wanted, output, bars)]
    planned = plan(wanted, (*here, *ACCELERATORS), prices)
    if as_json:
        click.echo(json.dumps(planned.tree(), indent=1))
        return
    for piece in report.report(planned, prices):
        OUT.print(piece)
        OUT.print()


@main.group(cls=Verbs)
def exchange() -> None:
    """Read and write the Saes of other libraries.

    \b
    panscope exchange read ./sae-lens-checkpoint --output runs/theirs/suite
    panscope exchange write runs/demo/suite --as saelens --output theirs
    """


@exchange.command("read")
@click.argument("source")
@click.option("--output", type=FOLDER, required=True, help="The suite to make: RUN/suite.")
@click.option("--only", multiple=True, help="A glob of files or folders below SOURCE.")
@click.option("--reads", help="The site, or the kind of it, where the files do not say.")
@click.option("--writes", help="The same of what transcoders write.")
@click.option("--revision", help="Of a repository: a branch, a tag or a commit.")
def read_foreign(
    source: str,
    output: Path,
    only: tuple[str, ...],
    reads: str | None,
    writes: str | None,
    revision: str | None,
) -> None:
    """Make a suite of a folder, or hf://owner/name, of another library's files.

    The format is found by what is in the files. The suite is evaluated, described, served and
    trained further as our own.

    \b
    panscope exchange read hf://google/gemma-scope-2b-pt-res \\
        --only 'layer_20/width_16k/canonical' --output runs/gs/suite
    panscope exchange read ./sparsify-run --reads mlp_in --writes mlp_out --output runs/t/suite
    """
    from panscope.stages import exchange as stage

    with Bars(OUT) as bars:
        suite = stage.read(source, output, only, stage.Ends(reads, writes), bars, revision)
    for sae, fact in suite.facts.items():
        OUT.print(f"{sae}  width {fact['width']}  {fact['format']}", soft_wrap=True)


@exchange.command("write")
@click.argument("artefact", type=FOLDER)
@click.option(
    "--as", "form", required=True, help="saelens ... for a suite, neuronpedia ... for an atlas."
)
@click.option("--output", type=FOLDER, required=True, help="A folder that is not there yet.")
@click.option("--only", multiple=True, help="A glob of Saes.")
@click.option("--model", help="What the files call the model.  [default: as the run's recipe]")
def write_foreign(
    artefact: Path, form: str, output: Path, only: tuple[str, ...], model: str | None
) -> None:
    """Write the Saes of a suite, or the features of an atlas, as files of another library.

    \b
    panscope exchange write runs/demo/atlas --as neuronpedia --output theirs
    panscope exchange write runs/demo/suite --as gemma_scope --only 'resid_post.*' --output theirs
    """
    from panscope.stages import exchange as stage

    for path in stage.write(artefact, form, output, only, model):
        OUT.print(str(path), soft_wrap=True)


@main.command()
@click.argument("artefact", type=FOLDER)
@click.argument("repository")
@click.option("--licence", required=True, help="As the Hub calls it: cc-by-4.0, apache-2.0 ...")
@click.option("--private", is_flag=True, help="Make the repository private, if it is made now.")
def push(artefact: Path, repository: str, licence: str, private: bool) -> None:
    """Send a suite or an atlas to the Hugging Face Hub, with a card made of its manifest.

    In one commit; run it again after a break, and what has gone up is not sent again. A suite
    becomes a model repository, an atlas a data set. HF_TOKEN says who you are.

    \b
    panscope push runs/demo/suite me/my-suite --licence cc-by-sa-4.0
    """
    from panscope.stages import exchange as stage

    manifest = files.read_manifest(artefact)
    page = stage.card(manifest, stage.model_of(artefact), licence)
    OUT.print(stage.push(artefact, repository, page, private), soft_wrap=True)


@main.command()
@click.argument("source")
@click.argument("output", type=FOLDER)
@click.option("--revision", help="A branch, a tag or a commit.")
def pull(source: str, output: Path, revision: str | None) -> None:
    """Fetch a suite or an atlas from the Hugging Face Hub; every byte is checked.

    Run it again after a break, and what has come is not fetched again.

    \b
    panscope pull hf://me/my-suite runs/theirs/suite
    panscope pull hf://datasets/me/my-atlas runs/theirs/atlas
    """
    from panscope.stages import exchange as stage

    manifest = stage.pull(source, output, revision)
    OUT.print(f"{output}: {manifest.kind} {manifest.digest}", soft_wrap=True)


@main.command()
@click.argument("run", type=FOLDER)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True)
@click.option("--writable", is_flag=True, help="Let who has the printed token write labels.")
@click.option("--freeze", type=FOLDER, help="Write the pages into this folder instead.")
@click.option(
    "--features",
    type=click.IntRange(min=1),
    default=1_000,
    show_default=True,
    help="How many features of each Sae are frozen at most.",
)
def serve(
    run: Path, host: str, port: int, writable: bool, freeze: Path | None, features: int
) -> None:
    """Open the pages of a run folder in a browser.

    With --writable the token is that of PANSCOPE_TOKEN, or a new one each time. A frozen copy opens
    from the disk or from any server of files; stopped, the same command goes on.

    \b
    panscope serve runs/demo --port 8001
    panscope serve runs/demo --freeze site --features 200
    """
    if freeze is None:
        _serve(run, host, port, writable)
        return
    with Bars(OUT) as bars:
        n_pages = _import_web().freeze_run(run, freeze, features, bars)
    OUT.print(f"{n_pages:,} pages in {freeze}: open {freeze}/index.html", soft_wrap=True)


@main.command()
@click.argument("run", type=FOLDER)
@click.argument("prompt")
@click.option("--feature", "features", multiple=True, help="SAE:INDEX*4, SAE:INDEX+2, SAE:INDEX=0.")
@click.option("--edits", "file", type=click.Path(path_type=Path), help="A TOML file of [[edits]].")
@click.option("--tokens", type=click.IntRange(min=1), default=48, show_default=True)
@click.option("--temperature", type=click.FloatRange(0), default=0.7, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each token.")
def steer(
    run: Path,
    prompt: str,
    features: tuple[str, ...],
    file: Path | None,
    tokens: int,
    temperature: float,
    seed: int,
    as_json: bool,
) -> None:
    """Write a text twice, as the model is and with features changed, by the same seed.

    A feature is named as its page is: *4 adds four times its maximum, +2 adds in the model's units,
    =0 ablates. A temperature of 0 takes the likeliest token.

    \b
    panscope steer runs/demo "The old woman" --feature resid_post.2/w2048_l0_20_s0:123*4
    panscope steer runs/demo "Once" --edits edits.toml --temperature 0 --json
    """
    from panscope import edits, splice
    from panscope.model.generate import Sampling
    from panscope.splice import shown

    asked = (*map(edits.parse, features), *(edits.read(file) if file else ()))
    at_work = splice.opened(run)
    sampling = Sampling(temperature, seed) if temperature else None
    model = at_work.model
    ready, ids = at_work.steering(asked), model.encode(prompt)
    writing = splice.beside(ready, ids, tokens, sampling, ends=model.special_ids)
    if as_json:
        for one in writing:
            click.echo(json.dumps(asdict(one)))
        return
    written = list(_drawn(writing, lambda so_far: shown.texts(model, so_far)))
    OUT.print(shown.strengths(asked, written))


@main.command()
@click.argument("run", type=FOLDER)
@click.argument("overrides", nargs=-1)
@click.option("--a", "file_a", type=click.Path(path_type=Path), required=True, help="Prompts.")
@click.option("--b", "file_b", type=click.Path(path_type=Path), required=True, help="Others.")
@click.option("--output", type=FOLDER, help="Of the result.  [default: RUN/contrast/A-B]")
def contrast(
    run: Path, overrides: tuple[str, ...], file_a: Path, file_b: Path, output: Path | None
) -> None:
    """Find the features that tell two sets of prompts apart, and what ablating them changes.

    A and B are text files with a prompt a line, or JSON lists. OVERRIDES are key=value.

    \b
    panscope contrast runs/demo --a french.txt --b english.txt
    panscope contrast runs/demo --a true.txt --b false.txt pool=last answers='[" True", " False"]'
    """
    from panscope import splice
    from panscope.config import override
    from panscope.stages import contrast

    config = contrast.Config.parse(override({}, overrides), "contrast")
    a, b = contrast.read_prompts(file_a), contrast.read_prompts(file_b)
    out = output or run / "contrast" / f"{file_a.stem}-{file_b.stem}"
    at_work = splice.opened(run)
    with Bars(OUT) as bars:
        contrast.run(config, at_work.model, at_work.suite, a, b, out, bars)
    OUT.print(Markdown((out / "report.md").read_text(encoding="utf-8")))


def _drawn(writing: Iterable[T], draw: Callable[[list[T]], Table]) -> Iterator[T]:
    """Pass on what is written, and draw it anew each time on a terminal, at its end elsewhere."""
    so_far: list[T] = []
    with Live(console=OUT, auto_refresh=False) as display:
        for one in writing:
            so_far.append(one)
            display.update(draw(so_far), refresh=OUT.is_terminal)
            yield one


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
def _crew(
    recipe: str,
    overrides: tuple[str, ...],
    output: Path,
    on_ray: bool = False,
    workers: int | None = None,
    ray_address: str | None = None,
) -> Iterator[Any]:
    """Read a recipe and yield those who run it, with bars on the terminal and events in the run."""
    from panscope import cluster, jobs
    from panscope.launch import read_recipe, record

    keep_freed_memory()
    read = read_recipe(recipe, overrides)
    with Bars(OUT) as bars:
        at_work = (
            cluster.on_ray(read, output, bars, workers, ray_address)
            if on_ray
            else jobs.here(read, output, bars)
        )
        with at_work as crew:
            yield crew
            if crew.leads:
                record(read, output)


def _artefacts(path: str) -> list[Place]:
    """List the artefacts at or below a path or URL."""
    place = Place.of(path)
    below = [] if (place / files.MANIFEST).is_file() else files.artefacts_in(place)
    return below or [place]


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


def _import_web() -> Any:
    """Import the web floor, which is an extra."""
    try:
        from panscope.web import app
    except ModuleNotFoundError as error:
        found = f"{error.name} is not installed"
        raise ConfigError("serve", found, "run pip install 'panscope[web]'") from error
    return app


def _serve(run: Path, host: str, port: int, writable: bool = False) -> None:
    web = _import_web()
    token = web.writing.token_from_environment() if writable else None

    def announce(url: str) -> None:
        OUT.print(f"[bold]{run}[/] at {url}  (ctrl-c to stop)", soft_wrap=True)

    web.serve(run, host, port, announce, token)


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


def _print_labels(run: Path) -> None:
    """Print how good labels are, beside those of other features: a row a Sae and method."""
    from panscope.atlas.features import Atlas
    from panscope.atlas.notes import Notes

    with closing(Notes.reading(run / "notes.sqlite")) as notes:
        averages = [(sae, one) for sae in Atlas(run / "atlas").saes for one in notes.averages(sae)]
    scorers = sorted({one.scorer for _, one in averages})
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for sae, one in averages:
        row = cells.setdefault((sae, one.method, str(one.n_labels)), {})
        row[one.scorer] = f"{_two_digits(one.value)}/{_two_digits(one.baseline)}"
    caption = "score/that of another feature's label"
    table = Table(box=None, header_style="bold", pad_edge=False, caption=caption)
    table.add_column("Sae", no_wrap=True)
    table.add_column("by")
    for name in ("labels", *scorers):
        table.add_column(name, justify="right")
    for names, row in cells.items():
        table.add_row(*names, *(row.get(scorer, "") for scorer in scorers))
    OUT.print(table)


def _two_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _errors_table(facts: Any) -> Table:
    """Lay out what a store's type has cost: a row a site, in the order of a forward pass."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("site")
    table.add_column("d", justify="right")
    table.add_column(f"error as {facts['dtype']}", justify="right")
    for site in sorted(facts["error"], key=lambda name: Site.parse(name).order):
        table.add_row(site, str(facts["sites"][site]), f"{facts['error'][site]:.3%}")
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
