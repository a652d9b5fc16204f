"""The command that opens the pages of a run, or freezes them."""

from pathlib import Path
from typing import Any

import click

from panscope.allocator import nothing_collected, share_freed_memory
from panscope.cli.terminal import FOLDER, OUT
from panscope.errors import ConfigError
from panscope.events import Bars


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True)
@click.option(
    "--writable",
    is_flag=True,
    help="Let who has the printed token label, steer, explain, contrast.",
)
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
        serve_pages(run, host, port, writable)
        return
    with Bars(OUT) as bars:
        n_pages = import_web().freeze_run(run, freeze, features, bars)
    OUT.print(f"{n_pages:,} pages in {freeze}: open {freeze}/index.html", soft_wrap=True)


def import_web() -> Any:
    """Import the web floor, which is an extra."""
    try:
        from panscope.web import app
    except ModuleNotFoundError as error:
        found = f"{error.name} is not installed"
        raise ConfigError("serve", found, "run pip install 'panscope[web]'") from error
    return app


def serve_pages(run: Path, host: str, port: int, writable: bool = False) -> None:
    """Serve a run's pages until interrupted, and say where."""
    share_freed_memory()
    with nothing_collected():
        web = import_web()
    token = web.writing.token_from_environment() if writable else None

    def announce(url: str) -> None:
        OUT.print(f"[bold]{run}[/] at {url}  (ctrl-c to stop)", soft_wrap=True)

    web.serve(run, host, port, announce, token)
