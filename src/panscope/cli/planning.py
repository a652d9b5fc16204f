"""The command that says what a recipe takes."""

import json
from pathlib import Path

import click

from panscope.cli.terminal import ERR, FOLDER, OUT
from panscope.config import recipe_tree
from panscope.events import Bars


@click.command()
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
    """Say what a recipe takes: tokens, disk, memory, hours, dollars.

    Measures this machine for about 20 seconds. Of the model only its configuration is needed, or a
    [model.shape] in the recipe.

    \b
    panscope plan demo
    panscope plan gemma-2-9b --no-calibration --price 2.50
    panscope plan gemma_scope_1 model.name=google/gemma-2-2b train.memory_gb=60 --json
    """
    recipe_tree(recipe, overrides)  # refuses before the stages, and torch, are imported: 4 s
    from panscope.model.load import read_outline
    from panscope.plan import calibrate, plan, report
    from panscope.plan.cost import Prices
    from panscope.plan.machines import ACCELERATORS
    from panscope.plan.work import Wanted
    from panscope.recipe import read_recipe

    read = read_recipe(recipe, overrides)
    prices = Prices(price, disk_price)
    with Bars(ERR) as bars:
        wanted = Wanted(read, read.model.shape or read_outline(read.model))
        here = [] if no_calibration else [calibrate.here(wanted, output, bars)]
    planned = plan(wanted, (*here, *ACCELERATORS), prices)
    if as_json:
        click.echo(json.dumps(planned.tree(), indent=1))
        return
    for piece in report.report(planned, prices):
        OUT.print(piece)
        OUT.print()
