"""What a search over REST may be asked, and what it answers."""

from dataclasses import dataclass
from typing import Annotated, Literal

import fastapi
from pydantic import BaseModel, ConfigDict, Field

from panscope.atlas.records import FeatureRow
from panscope.web.api import Name, Text

Sites = Annotated[str, fastapi.Query(max_length=200)]
Share = Annotated[float, fastapi.Query(ge=-1, le=1)]
Layer = Annotated[int | None, fastapi.Query(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Words = Annotated[str, fastapi.Query(max_length=2_000)]


@dataclass(frozen=True, slots=True)
class Hit:
    """A feature that a search found; `value` is what it was ranked by, if not a column of `row`.

    By a text: `positions` are the places of its tokens at which the feature fires, `values` how.
    """

    sae: str
    row: FeatureRow
    label: str
    value: float | None
    positions: tuple[int, ...] = ()
    values: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Hits:
    """A window on what a search found, and the text of the tokens in it.

    `total` counts all that was found; of labels, no more than one beyond the window. `tokens` are
    those of the text that was asked about, `note` says what of it was cut.
    """

    total: int
    offset: int
    hits: tuple[Hit, ...]
    pieces: dict[int, str]
    tokens: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class ScoreQuery:
    """Between which bounds a label's score must lie: that of one scorer, or its best."""

    scorer: Literal["", "detection", "fuzzing", "simulation"] = ""
    min_score: Share = -1.0
    max_score: Share = 1.0

    @property
    def asks(self) -> bool:
        """Whether any label could fail to fit."""
        return (self.scorer, self.min_score, self.max_score) != ("", -1.0, 1.0)


class PromptRequest(BaseModel):
    """A text whose strongest features are asked for.

    `tokens` are places in the text without its BOS, none for all; `sites` is a name or glob. What
    ranks is the share of the feature's own maximum, the value, or the sum over the tokens; values
    of different sites are in different units.
    """

    model_config = ConfigDict(extra="forbid")
    text: Text
    sites: str = Field(default="", max_length=200)
    layer: int | None = Field(default=None, ge=0)
    tokens: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list, max_length=4_096)
    by: Literal["share", "value", "sum"] = "share"
    max_density: float = Field(default=1.0, gt=0, le=1)
    limit: int = Field(default=50, ge=1, le=500)


class MeaningRequest(BaseModel):
    """Words whose meaning is looked for among the labels of one Sae, or of all."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1, max_length=2_000)
    sae: Name = ""
    limit: int = Field(default=50, ge=1, le=500)


class DirectionRequest(BaseModel):
    """A direction whose nearest features are asked for.

    A feature's (`sae`, `index`), a `vector` of as many numbers as `site` has, or how that site
    differs between two texts on average over their tokens (`text` less `without`).
    """

    model_config = ConfigDict(extra="forbid")
    sae: Name = ""
    index: int = 0
    text: Text = ""
    without: Text = ""
    vector: list[Number] = Field(default_factory=list, max_length=16_384)
    site: Name = ""
    sites: str = Field(default="", max_length=200)
    limit: int = Field(default=50, ge=1, le=500)


@dataclass(frozen=True, slots=True)
class Direction:
    """The direction that a feature writes at full length, in the units of its site."""

    sae: str
    index: int
    direction: tuple[float, ...]
