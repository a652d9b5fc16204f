"""Edits: interventions as plain data, the same in TOML, over REST, on disk and in `splice`.

An edit moves one coordinate f of the value h at a site along its direction d:

    h' = h + (f' - f) d

The coordinate is a feature's activation, its direction the decoder's row; or the projection onto a
direction at a site of your choice, scaled to length 1: numbers of your own, the decoder's row of a
feature, or what tells two texts apart. What the Sae did not reconstruct is in h and stays there.

| action | f' is                                                              |
|--------|--------------------------------------------------------------------|
| add    | f + value                                                          |
| set    | value                                                              |
| scale  | value times f                                                      |
| zero   | 0: a feature ablated, a direction projected out                    |
| clamp  | f, but not below low nor above high                                |
| patch  | f at the same position of `source`, another text; behind its end f |
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from panscope.config import Config, read_tree
from panscope.errors import ConfigError, NotFound, nearest
from panscope.sites import Site

LARGEST = 1e30  # in any unit; the length of such a vector is still a float32
Number = Annotated[float, Field(allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
Text = Annotated[str, Field(min_length=1)]
Action = Literal["add", "set", "scale", "zero", "clamp", "patch"]
Part = Literal["all", "prompt", "generated"]
TAKES: Mapping[str, tuple[str, ...]] = {
    "add": ("value",),
    "set": ("value",),
    "scale": ("value",),
    "zero": (),
    "clamp": ("low", "high"),
    "patch": ("source",),
}
TARGETS = (
    {"sae", "index"},
    {"site", "direction"},
    {"site", "along"},
    {"site", "toward", "away"},
)
IN_UNITS = ("value", "low", "high")
SIGNS: Mapping[str, tuple[Action, Literal["raw", "max"]]] = {
    "*": ("add", "max"),
    "+": ("add", "raw"),
    "=": ("set", "raw"),
}


class Edit(Config):
    """One change of one coordinate at some tokens."""

    action: Action = "add"
    sae: Text | None = None
    index: Annotated[int, Field(ge=0)] | None = None
    site: str | None = None
    """Of a direction; a feature is edited where its Sae writes."""
    direction: Annotated[tuple[Number, ...], Field(min_length=1)] | None = None
    along: Annotated[str, Field(pattern=r"^.+:\d{1,18}$")] | None = None
    """A feature, as SAE:INDEX, whose decoder's row is the direction."""
    toward: Text | None = None
    away: Text | None = None
    """Texts: the direction is the mean value over the tokens of one less that of the other."""
    value: Number | None = None
    low: Number | None = None
    high: Number | None = None
    source: Text | None = None
    unit: Literal["raw", "max"] = "raw"
    """Of value, low and high: the model's own, or multiples of the feature's maximum."""
    at: Part | tuple[int, ...] = "all"
    """Which tokens, or their positions: from 0, the BOS; -1 is the prompt's last token."""
    specials: bool = False
    """Whether special tokens are edited too: no Sae was trained on them."""

    @model_validator(mode="after")
    def _is_one_change(self) -> Self:
        for problem in _problems(self):
            raise ValueError(problem)
        if self.site is not None:
            Site.parse(self.site)
        return self

    @property
    def features(self) -> tuple[tuple[str, int], ...]:
        """The features that it names: the one it edits, the one along which it edits."""
        named = [(self.sae, self.index)] if self.sae and self.index is not None else []
        if self.along:
            sae, _, index = self.along.rpartition(":")
            named.append((sae, int(index)))
        return tuple(named)

    def __str__(self) -> str:
        """Say what is edited, for messages."""
        return (
            f"{self.action} {self.sae}/{self.index}" if self.sae else f"{self.action} {self.site}"
        )


class Edits(Config):
    """A file of edits: a `[[edits]]` section each."""

    edits: tuple[Edit, ...]


def read(path: Path) -> tuple[Edit, ...]:
    """Read edits from a file."""
    return Edits.parse(read_tree(path), str(path)).edits


def parse(text: str) -> Edit:
    """Read an edit of one feature as typed: `*` adds multiples of its maximum, `+` adds, `=` sets.

    >>> edit = parse("resid_post.2/w2048:123*-4")
    >>> edit.action, edit.sae, edit.index, edit.value, edit.unit
    ('add', 'resid_post.2/w2048', 123, -4.0, 'max')
    >>> parse("resid_post.2/w2048:123=0").action
    'set'
    """
    sae, _, rest = text.rpartition(":")
    sign = next((sign for sign in SIGNS if sign in rest), "")
    index, _, value = rest.partition(sign) if sign else ("", "", "")
    try:
        action, unit = SIGNS[sign]
        return Edit(action=action, sae=sae, index=int(index), value=float(value), unit=unit)
    except (KeyError, ValueError) as error:
        do = "write SAE:INDEX*4 (times its maximum), SAE:INDEX+2.5 (added) or SAE:INDEX=0 (set)"
        raise ConfigError(f"feature {text}", "is not an edit", do) from error


def parse_all(trees: Iterable[dict[str, Any]]) -> tuple[Edit, ...]:
    """Read edits from plain values; a refusal says the place of its edit, from 0."""
    return tuple(Edit.parse(tree, f"edit {place}") for place, tree in enumerate(trees))


def dumped(edits: Iterable[Edit]) -> str:
    """Write edits as JSON, without what has its usual value."""
    trees = [edit.model_dump(mode="json", exclude_defaults=True) for edit in edits]
    return json.dumps(trees, ensure_ascii=False)


def described(edit: Edit) -> str:
    """Say all that an edit does, in a line.

    >>> described(parse("resid_post.2/w2048:123*4"))
    'add 4 x max: resid_post.2/w2048:123'
    >>> described(Edit(action="zero", site="embed", toward="oui", away="yes", at="prompt"))
    "zero: embed from 'yes' toward 'oui', at prompt"
    """
    numbers = {name: getattr(edit, name) for name in IN_UNITS if getattr(edit, name) is not None}
    said = [
        f"{value:g}" if name == "value" else f"{name} {value:g}" for name, value in numbers.items()
    ]
    unit = ["x max"] if edit.unit == "max" else []
    source = [] if edit.source is None else [repr(edit.source)]
    at = "" if edit.at == "all" else f", at {edit.at}"
    return f"{' '.join([edit.action, *said, *unit, *source])}: {_target(edit)}{at}"


def _target(edit: Edit) -> str:
    if edit.sae is not None:
        return f"{edit.sae}:{edit.index}"
    if edit.toward is not None:
        return f"{edit.site} from {edit.away!r} toward {edit.toward!r}"
    return f"{edit.site} along {edit.along or f'{len(edit.direction or ())} numbers'}"


def refuse_unknown(edits: Iterable[Edit], widths: Mapping[str, int]) -> None:
    """Raise NotFound for an edit of a feature that none of these Saes has."""
    for edit in edits:
        for sae, index in edit.features:
            if sae not in widths:
                raise NotFound(f"edit {edit}", f"no Sae {sae!r}", nearest(sae, widths))
            if index >= widths[sae]:
                do = f"give an index from 0 to {widths[sae] - 1}"
                raise NotFound(f"edit {edit}", f"no feature {index}", do)


def in_raw_units(edits: Iterable[Edit], max_of: Callable[[str, int], float]) -> tuple[Edit, ...]:
    """Turn multiples of a feature's maximum into the model's own units."""
    return tuple(_in_raw_units(edit, max_of) for edit in edits)


def _in_raw_units(edit: Edit, max_of: Callable[[str, int], float]) -> Edit:
    if edit.unit == "raw":
        return edit
    assert edit.sae is not None and edit.index is not None
    largest = max_of(edit.sae, edit.index)
    if not largest > 0:
        found = f"feature {edit.index} never fired, so it has no maximum"
        raise ConfigError(f"edit {edit}", found, 'give the value in unit = "raw"')
    given = {name: getattr(edit, name) for name in IN_UNITS}
    raw = {name: value * largest for name, value in given.items() if value is not None}
    if any(abs(value) > LARGEST for value in raw.values()):
        raise ConfigError(
            f"edit {edit}", f"is over {LARGEST:g} in the model's units", "give a smaller multiple"
        )
    return edit.model_copy(update={**raw, "unit": "raw"})


def _problems(edit: Edit) -> list[str]:
    """List, in one sentence each, what makes this no edit."""
    named = {name for name in set().union(*TARGETS) if getattr(edit, name) is not None}
    takes, found = TAKES[edit.action], []
    given = [name for name in (*IN_UNITS, "source") if getattr(edit, name) is not None]
    if named not in TARGETS:
        found.append("give sae and index, or site with direction, along, or toward and away")
    found += [f"{edit.action} takes no {name}" for name in given if name not in takes]
    if takes and not given:
        found.append(f"{edit.action} needs {' or '.join(takes)}")
    if edit.low is not None and edit.high is not None and edit.low > edit.high:
        found.append(f"low {edit.low:g} is above high {edit.high:g}")
    if edit.direction is not None and not any(edit.direction):
        found.append("the direction has no length")
    if edit.at == ():
        found.append("at names no position")
    if edit.unit == "max" and (edit.sae is None or edit.action not in ("add", "set", "clamp")):
        found.append("multiples of the maximum are for a feature's add, set and clamp")
    return found
