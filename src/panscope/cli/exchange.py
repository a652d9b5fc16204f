"""The commands for what comes from other libraries and from the Hub, and goes there."""

from pathlib import Path

import click

from panscope import files
from panscope.cli.terminal import FOLDER, OUT, Verbs
from panscope.events import Bars


@click.group(cls=Verbs)
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


@click.command()
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


@click.command()
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
