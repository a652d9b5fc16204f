"""The command line: a command for each verb, and demo, serve, show, verify.

    panscope demo
    panscope train my-suite.toml train.seeds='[0, 1]' --output runs/mine

A verb's stage is imported inside its command, so that `show`, `verify` and `serve` start at once.
"""

import click

from panscope import __version__
from panscope.cli.artefacts import search, show, verify
from panscope.cli.exchange import export, open_, pull, push
from panscope.cli.features import contrast, steer
from panscope.cli.labels import labels
from panscope.cli.notes import notes
from panscope.cli.pages import serve
from panscope.cli.planning import plan
from panscope.cli.terminal import Verbs
from panscope.cli.verbs import demo, describe, evaluate, explain, harvest, train

__all__ = ["main"]


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
    panscope open hf://google/gemma-scope-2b-pt-res/layer_20/width_16k/canonical
    panscope show runs/demo/suite        print what an artefact is and what it was made from
    """


for command in (
    *(demo, plan, harvest, train, evaluate, describe, explain, open_, export, push, pull),
    *(serve, search, labels, notes, steer, contrast, show, verify),
):
    main.add_command(command)
