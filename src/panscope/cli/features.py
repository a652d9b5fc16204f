"""The commands that use a run's features on text: steer, contrast."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from rich.live import Live
from rich.table import Table

from panscope import edits
from panscope.cli.terminal import FOLDER, OUT
from panscope.events import Bars, fan_out, to_jsonl

if TYPE_CHECKING:
    from panscope.atlas.features import Atlas

T = TypeVar("T")


@click.command()
@click.argument("run", type=FOLDER)
@click.argument("prompt")
@click.option("--feature", "features", multiple=True, help="SAE:INDEX*4, SAE:INDEX+2, SAE:INDEX=0.")
@click.option("--edits", "file", type=click.Path(path_type=Path), help="A TOML file of [[edits]].")
@click.option("--saved", multiple=True, help="A name under which edits were saved.")
@click.option("--tokens", type=click.IntRange(min=1), default=48, show_default=True)
@click.option("--temperature", type=click.FloatRange(0), default=0.7, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each token.")
def steer(
    run: Path,
    prompt: str,
    features: tuple[str, ...],
    file: Path | None,
    saved: tuple[str, ...],
    tokens: int,
    temperature: float,
    seed: int,
    as_json: bool,
) -> None:
    """Write a text twice: as the model is, and with features changed.

    Both by the same seed. A feature is named as its page is: *4 adds four times its maximum, +2
    adds in the model's units, =0 ablates. A temperature of 0 takes the likeliest token.

    \b
    panscope steer runs/demo "The old woman" --feature 'resid_post.2/w2048_l0_20_s0:123*4'
    panscope steer runs/demo "Once" --edits edits.toml --temperature 0 --json
    panscope steer runs/demo "Once" --saved "more rain"
    """
    typed = (*map(edits.parse, features), *(edits.read(file) if file else ()))
    asked = (*typed, *_saved(run, saved))
    _refuse_wrong(run, asked)  # before torch and the model are loaded, which takes 10 s

    from panscope import splice
    from panscope.model.generate import Sampling
    from panscope.splice import shown

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
    if asked:
        OUT.print(shown.strengths(asked, written))


@click.command()
@click.argument("run", type=FOLDER)
@click.argument("overrides", nargs=-1)
@click.option("--a", "file_a", type=click.Path(path_type=Path), required=True, help="Prompts.")
@click.option("--b", "file_b", type=click.Path(path_type=Path), required=True, help="Others.")
@click.option("--output", type=FOLDER, help="Of the result.  [default: RUN/contrast/A-B]")
def contrast(
    run: Path, overrides: tuple[str, ...], file_a: Path, file_b: Path, output: Path | None
) -> None:
    """Find the features that tell two sets of prompts apart.

    And say what ablating them changes. A and B are text files with a prompt a line, or JSON lists.
    OVERRIDES are key=value.

    \b
    panscope contrast runs/demo --a french.txt --b english.txt
    panscope contrast runs/demo --a true.txt --b false.txt pool=last answers='[" True", " False"]'
    """
    known = _atlas(run)  # before torch is imported: 4 s
    from panscope import splice
    from panscope.cli.report import Report  # Markdown takes 30 ms that others need not wait
    from panscope.config import override
    from panscope.stages import contrast

    config = contrast.Config.parse(override({}, overrides), "contrast")
    a, b = contrast.read_prompts(file_a), contrast.read_prompts(file_b)
    for path, prompts in ((file_a, a), (file_b, b)):
        contrast.refuse_few(str(path), prompts)
    for sae in config.saes:
        known.sae(sae)
    out = output or run / "contrast" / f"{file_a.stem}-{file_b.stem}"
    at_work = splice.opened(run)
    with Bars(OUT) as bars:
        is_inside = out.resolve().is_relative_to(run.resolve())
        emit = fan_out(bars, to_jsonl(run / "events.jsonl")) if is_inside else bars
        contrast.run(config, at_work.model, at_work.suite, a, b, out, emit)
    OUT.print(Report((out / "report.md").read_text(encoding="utf-8")))


def _refuse_wrong(run: Path, asked: tuple[edits.Edit, ...]) -> None:
    """Raise NotFound for no atlas or no such feature, ConfigError for multiples of no maximum."""
    atlas = _atlas(run)
    edits.refuse_unknown(asked, {name: record.width for name, record in atlas.saes.items()})
    edits.in_raw_units(asked, lambda sae, index: atlas.feature(sae, index).max)


def _atlas(run: Path) -> "Atlas":
    """Open the atlas of a run; NotFound says what makes one."""
    from panscope.atlas.features import Atlas

    return Atlas(run / "atlas")


def _saved(run: Path, names: tuple[str, ...]) -> Iterator[edits.Edit]:
    """Read the edits that were last saved under some names."""
    from panscope.atlas.notes import Notes

    with closing(Notes.reading(run / "notes.sqlite")) as notes:
        for name in names:
            yield from edits.parse_all(json.loads(notes.saved.edits(name).edits))


def _drawn(writing: Iterable[T], draw: Callable[[list[T]], Table]) -> Iterator[T]:
    """Pass on what is written, and draw it anew each time on a terminal, at its end elsewhere."""
    so_far: list[T] = []
    with Live(console=OUT, auto_refresh=False) as display:
        for one in writing:
            so_far.append(one)
            display.update(draw(so_far), refresh=OUT.is_terminal)
            yield one
    if not OUT.is_terminal:
        OUT.line()  # only on a terminal it ends its own last line
