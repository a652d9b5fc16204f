"""What all commands share: the terminal, panscope's errors in one line, and who runs a recipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.text import Text

from panscope.allocator import keep_freed_memory
from panscope.config import recipe_tree
from panscope.errors import Interrupted, PanscopeError, nearest
from panscope.events import Bars

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)
OBEYED = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
FOLDER = click.Path(path_type=Path, file_okay=False)


class Verbs(click.Group):
    """A group that turns panscope's errors into one line and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what ctrl-c ends is whole on the disk, or not there."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            do = "run the same command again"
            _end(Interrupted(str(ctx.invoked_subcommand), "was stopped", do, SIGINT))
        except PanscopeError as error:
            _end(error)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; a wrong name is answered with the nearest right ones, or all."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            do = nearest(args[0], self.commands)
            raise click.UsageError(f"no command {args[0]!r}; {do}", ctx) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order in which they are used."""
        return list(self.commands)


def plain(text: str) -> Text:
    r"""Lay out what people, models and files say; a terminal would obey characters of control.

    >>> plain("a\x1b[31m label").plain
    'a�[31m label'
    """
    return Text(text.translate(OBEYED))


def _end(error: PanscopeError) -> NoReturn:
    ERR.print("error:", style="bold red", end=" ")
    ERR.print(plain(str(error)), soft_wrap=True)
    sys.exit(error.exit_code)


@contextmanager
def crew_of(
    recipe: str,
    overrides: tuple[str, ...],
    output: Path,
    on_ray: bool = False,
    workers: int | None = None,
    ray_address: str | None = None,
) -> Iterator[Any]:
    """Read a recipe and yield those who run it, with bars on the terminal and events in the run."""
    recipe_tree(recipe, overrides)  # refuses before the stages, and torch, are imported: 4 s
    from panscope import cluster, jobs
    from panscope.launch import record
    from panscope.recipe import read_recipe

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
