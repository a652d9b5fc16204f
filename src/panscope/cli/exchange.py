"""The commands for what comes from other libraries and from the Hub, and goes there."""

from pathlib import Path

import click

from panscope import files
from panscope.cli.tables import opened_table
from panscope.cli.terminal import FOLDER, OUT
from panscope.events import Bars


@click.command("open")
@click.argument("name")
@click.option("--output", type=FOLDER, help="The run folder.  [default: in runs, by the name]")
@click.option("--only", multiple=True, help="A glob of files or folders below NAME.")
@click.option("--site", help="What is read, as a site or its kind, where the files do not say.")
@click.option("--writes", help="The same of what transcoders write.")
@click.option("--model", help="A folder or Hub id.  [default: as the files say]")
@click.option("--text", default="pocket", show_default=True, help="To measure and describe on.")
@click.option("--revision", help="Of a repository: a branch, a tag or a commit.")
def open_(
    name: str,
    output: Path | None,
    only: tuple[str, ...],
    site: str | None,
    writes: str | None,
    model: str | None,
    text: str,
    revision: str | None,
) -> None:
    """Open another library's Saes as a suite in a run folder.

    NAME is hf://owner/name with a folder or a glob behind it, or a path here; `canonical` is Gemma
    Scope's pick. The format is found by what is in the files, and no more of them is fetched than
    is named. With the suite comes a recipe for evaluate, describe and train.

    \b
    panscope open hf://google/gemma-scope-2b-pt-res/layer_20/width_16k/canonical \\
        --text corpus.jsonl.gz --output runs/gs
    panscope open hf://google/gemma-scope-2-1b-pt/transcoder_all/layer_17_width_16k_l0_small_affine
    panscope open ./sparsify-run --site mlp_in --writes mlp_out --model EleutherAI/pythia-160m
    """
    from panscope.stages import exchange as stage

    wanted = stage.named(name, only)
    run, ends = output or wanted.run, stage.Ends(site, writes)
    with Bars(OUT) as bars:
        suite = stage.read(wanted.source, run / "suite", wanted.only, ends, bars, revision)
    OUT.print(opened_table(suite.facts.values()))
    recipe = stage.write_recipe(run, suite, model, text)
    if recipe is None:
        OUT.print("No one model is named by the files: run this again with --model.")
        return
    for command in (f"evaluate {recipe} --output", f"describe {recipe} --output", "serve"):
        OUT.print(f"panscope {command} {run}", markup=False, soft_wrap=True)


@click.command()
@click.argument("artefact", type=FOLDER)
@click.option(
    "--as", "form", required=True, help="saelens ... for a suite, neuronpedia ... for an atlas."
)
@click.option("--output", type=FOLDER, required=True, help="A folder that is not there yet.")
@click.option("--only", multiple=True, help="A glob of Saes.")
@click.option("--model", help="What the files call the model.  [default: as the run's recipe]")
def export(
    artefact: Path, form: str, output: Path, only: tuple[str, ...], model: str | None
) -> None:
    """Write a suite, or an atlas, as files of another library.

    \b
    panscope export runs/demo/suite --as saelens --output theirs
    panscope export runs/demo/atlas --as neuronpedia --output theirs
    panscope export runs/demo/suite --as gemma_scope --only 'resid_post.*' --output theirs
    """
    from panscope.stages import exchange as stage

    for path in stage.write(artefact, form, output, only, model):
        OUT.print(str(path), soft_wrap=True)


@click.command()
@click.argument("artefact", type=FOLDER)
@click.argument("repository")
@click.option("--licence", required=True, help="As the Hub calls it: cc-by-4.0, apache-2.0 ...")
@click.option("--private", is_flag=True, help="Make the repository private, if it is made now.")
def push(artefact: Path, repository: str, licence: str, private: bool) -> None:
    """Send a suite or an atlas to the Hugging Face Hub, with a card.

    In one commit, the card made of the manifest; run it again after a break, and what has gone up
    is not sent again. A suite becomes a model repository, an atlas a data set. HF_TOKEN says who
    you are.

    \b
    panscope push runs/demo/suite me/my-suite --licence cc-by-sa-4.0
    """
    from panscope.stages import exchange as stage

    manifest = files.read_manifest(artefact)
    page = stage.card(manifest, stage.model_of(artefact), licence)
    OUT.print(stage.push(artefact, repository, page, private), soft_wrap=True)


@click.command()
@click.argument("source")
@click.argument("output", type=FOLDER)
@click.option("--revision", help="A branch, a tag or a commit.")
def pull(source: str, output: Path, revision: str | None) -> None:
    """Fetch a suite or an atlas from the Hub; every byte is checked.

    Run it again after a break, and what has come is not fetched again.

    \b
    panscope pull hf://me/my-suite runs/theirs/suite
    panscope pull hf://datasets/me/my-atlas runs/theirs/atlas
    """
    from panscope.stages import exchange as stage

    manifest = stage.pull(source, output, revision)
    OUT.print(f"{output}: {manifest.kind} {manifest.digest}", soft_wrap=True)
