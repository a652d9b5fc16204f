"""The command that lists the labels of one feature, their scores, and what these were judged on."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from panscope.cli.tables import two_digits
from panscope.cli.terminal import FOLDER, OUT, plain
from panscope.errors import ConfigError

DIGITS = 20  # of the largest index that notes can hold, and one more
STRONGEST = 3  # foretold tokens of a window that are named


@click.command()
@click.argument("run", type=FOLDER)
@click.argument("feature")
@click.option("--windows", is_flag=True, help="Also what the scores of the shown one rest on.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def labels(run: Path, feature: str, windows: bool, as_json: bool) -> None:
    """List the labels that a FEATURE ever had, newest first, with their scores.

    Windows stand with what was said of them, wrong answers first; << >> marks the tokens on which
    the feature fires, or, of fuzzing, those that were asked about.

    \b
    panscope labels runs/demo resid_post.2/w2048_l0_20_s0:123
    panscope labels runs/demo resid_post.2/w2048_l0_20_s0:123 --windows
    """
    from panscope.atlas.features import Atlas
    from panscope.atlas.notes import Notes

    atlas, (sae, index) = Atlas(run / "atlas"), _named(feature)
    atlas.check(sae, index)
    with closing(Notes.reading(run / "notes.sqlite")) as notes:
        found, shown = notes.labels(sae, index), notes.label_of(sae, index)
    if as_json:
        click.echo(json.dumps([asdict(label) for label in found], indent=1, ensure_ascii=False))
    elif shown is None:
        OUT.print(
            f"No label yet: panscope explain {run / 'recipe.json'} --output {run}"
            f" --sae {sae} --features {index} makes one.",
            markup=False,
            soft_wrap=True,
        )
    else:
        OUT.print(_labels_table(found))
        if windows and not shown.scores:
            OUT.print(
                "The label that is shown has no scores; panscope explain --rescore makes them."
            )
        elif windows:
            _print_windows(atlas, shown)


def _named(feature: str) -> tuple[str, int]:
    sae, _, index = feature.rpartition(":")
    if not (sae and index.isdecimal() and len(index) < DIGITS):
        raise ConfigError(f"feature {feature}", "is no feature's name", "write SAE:INDEX")
    return sae, int(index)


def _labels_table(found: Sequence[Any]) -> Table:
    """List labels, a row each, with each score and that of another feature's label."""
    scorers = sorted({score.scorer for label in found for score in label.scores})
    caption = "score/that of another feature's label"
    table = Table(box=None, header_style="bold", pad_edge=False, caption=caption if scorers else "")
    for name in ("written", "by", "label"):
        table.add_column(name, no_wrap=name == "written", min_width=10)
    for name in scorers:
        table.add_column(name, justify="right", min_width=10)
    for label in found:
        by = plain(f"{label.author}, {label.method}")
        scores = (_scores(label, scorer) for scorer in scorers)
        table.add_row(label.created[:10], by, plain(label.text), *scores)
    return table


def _scores(label: Any, scorer: str) -> Text:
    """Write a label's scores by a scorer below each other; who judged, if it was another."""
    lines = []
    for one in (score for score in label.scores if score.scorer == scorer):
        by = [] if one.author in ("", label.author) else [f"by {one.author}"]
        lines += [f"{two_digits(one.value)}/{two_digits(one.baseline)}", *by]
    return plain("\n".join(lines))


def _print_windows(atlas: Any, label: Any) -> None:
    """Print what each score of a label was judged on, a table each."""
    from panscope.atlas.contexts import Contexts
    from panscope.atlas.judgements import judged

    feature = atlas.feature(label.sae, label.index)
    for score in judged(label, feature, Contexts(atlas)):
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.title_justify, by = "left", f" by {score.author}" if score.author else ""
        table.title = plain(f"{score.scorer}{by}: {label.text}")
        for name in ("", "said", "is", "window"):
            table.add_column(name)
        for one in score.judgements:
            told = _told(one, atlas.pieces)
            is_true = "yes" if one.true else "no"
            table.add_row(_sign(one), plain(told), is_true, plain(_window(one, atlas.pieces)))
        OUT.print(table)
        if not score.judgements:
            lost = "are of an atlas made before this one" if score.n_lost else "were not kept"
            OUT.print(f"Its windows {lost}.")


def _sign(one: Any) -> str:
    return "" if one.told is None else "✓" if one.told is one.true else "✗"


def _told(one: Any, pieces: Sequence[str]) -> str:
    """Say what was foretold: yes or no, or where most."""
    if one.told is not None:
        return "yes" if one.told else "no"
    if one.foretold is None:
        return "no answer"
    ranked = sorted(zip(one.foretold, one.tokens, strict=True), key=lambda pair: -pair[0])
    most = [f"{pieces[token].strip()} {value:g}" for value, token in ranked if value]
    return ", ".join(most[:STRONGEST]) or "nothing"


def _window(one: Any, pieces: Sequence[str]) -> str:
    """Write a window with the tokens marked that it is about, neighbours together."""
    about = one.marked or [place for place, value in enumerate(one.values) if value]
    parts = [
        _marked(pieces[token]) if place in about else pieces[token]
        for place, token in enumerate(one.tokens)
    ]
    joined = "".join(parts).replace(">><<", "").replace(">> <<", " ")
    return joined.replace("\n", "↵").strip()


def _marked(piece: str) -> str:
    """Mark a token, behind its blank.

    >>> _marked(" old"), _marked("er")
    (' <<old>>', '<<er>>')
    """
    blank = " " if piece.startswith(" ") else ""
    return f"{blank}<<{piece.removeprefix(blank)}>>"
