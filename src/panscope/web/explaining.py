"""Explaining and scoring over REST: a feature while somebody waits, by whom and how they choose.

Who is asked comes from the run's recipe and the server's environment alone: a request chooses among
what is there, and names no address, no model and no key.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from panscope.atlas.features import Atlas
from panscope.atlas.labels import HUMAN, LARGEST, Label
from panscope.errors import ConfigError
from panscope.stages import explain
from panscope.web.api import Run
from panscope.web.labels import label_by_id
from panscope.web.problem import FAILURES
from panscope.web.run import RunFolder
from panscope.web.writing import may_write

ANSWER_SECONDS = 30.0  # of a language model, for one question

router = APIRouter(prefix="/api", tags=["labels"], responses=FAILURES)


class ExplainRequest(BaseModel):
    """Who finds the label, and by which scorers it is scored; as the recipe says where unsaid."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    by: explain.By | None = None
    scorers: Annotated[tuple[explain.Scorer, ...], Field(max_length=3)] | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """What may be chosen here: who explains and judges, and by which scorers.

    `usual` is the recipe's own choice. `by` has `endpoint` where the recipe names one that can be
    asked; `model` is its name, `missing` says otherwise what it lacks.
    """

    by: tuple[explain.By, ...]
    scorers: tuple[explain.Scorer, ...]
    usual: ExplainRequest
    model: str
    missing: str


class RescoreRequest(BaseModel):
    """Which label is scored (a person's that is shown where unsaid), by which judge and scorers."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    label: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    by: explain.By | None = None
    scorers: Annotated[tuple[explain.Scorer, ...], Field(min_length=1, max_length=3)] | None = None


EXPLAIN_AS_USUAL, RESCORE_AS_USUAL = ExplainRequest(), RescoreRequest()


@router.get("/explainers", dependencies=[Depends(may_write)])
def explainers(run: Run) -> Offer:
    """Say who can explain features and judge labels here, and by which scorers.

    To those who may write alone: what is missing may name an address within a house.
    """
    config = explain.config_of(run.folder)
    missing = _missing(config)
    return Offer(
        by=("rules",) if missing else ("rules", "endpoint"),
        scorers=explain.SCORERS,
        usual=ExplainRequest(by=config.by, scorers=config.scorers),
        model="" if missing else config.endpoint.model,
        missing=missing,
    )


@router.post("/sae/{sae:path}/feature/{index}/explain", dependencies=[Depends(may_write)])
def explain_feature(
    run: Run, sae: str, index: int, request: ExplainRequest = EXPLAIN_AS_USUAL
) -> Label:
    """Explain a feature as the run's recipe says, or as is chosen; a label found before is kept.

    It gets the scores that it lacks. An endpoint is asked less patiently than on the command line.
    """
    run.catalogue.check(sae, index)
    with _desk(run, request) as desk:
        return explain.explain_one(desk, sae, index)


@router.post("/sae/{sae:path}/feature/{index}/rescore", dependencies=[Depends(may_write)])
def rescore(run: Run, sae: str, index: int, request: RescoreRequest = RESCORE_AS_USUAL) -> Label:
    """Score a label as `panscope explain --rescore` does: a person's that is shown, or any by id.

    Scores that are there stay in its history.
    """
    if request.label is None:
        label = _persons(run, sae, index)
    else:
        label = label_by_id(run, sae, index, request.label)
    with _desk(run, request) as desk:
        return explain.score_one(desk, label)


def _persons(run: RunFolder, sae: str, index: int) -> Label:
    """Return the label that is shown, if a person wrote it."""
    run.catalogue.check(sae, index)
    shown = run.notes.label_of(sae, index)
    if shown is None or shown.method != HUMAN:
        raise ConfigError(f"feature {index}", "has no label by a person", "write one first")
    return shown


@contextmanager
def _desk(run: RunFolder, request: ExplainRequest | RescoreRequest) -> Iterator[explain.Desk]:
    """Take the turn at the explainer: one feature at a time."""
    config = _config(run, request.by)
    scorers = _in_order(request.scorers, config)
    atlas, answers = Atlas(run.folder / "atlas"), run.folder / "answers"
    with run.explaining.take() as ending, run.open_notes() as notes:
        yield explain.Desk(config, scorers, atlas, notes, answers, ending)


def _config(run: RunFolder, by: explain.By | None) -> explain.Config:
    """Narrow the recipe's patience to that of who waits, and put what they chose into it."""
    config = explain.config_of(run.folder)
    endpoint = config.endpoint
    seconds = min(endpoint.timeout_seconds, ANSWER_SECONDS)
    quick = endpoint.model_copy(update={"tries": 2, "timeout_seconds": seconds})
    return config.model_copy(update={"endpoint": quick, "by": by or config.by})


def _in_order(
    scorers: tuple[explain.Scorer, ...] | None, config: explain.Config
) -> tuple[explain.Scorer, ...]:
    """Take those that are chosen, each once; the recipe's if none are named."""
    if scorers is None:
        return config.scorers
    return tuple(scorer for scorer in explain.SCORERS if scorer in scorers)


def _missing(config: explain.Config) -> str:
    """Say what the recipe's endpoint lacks to be asked; empty if nothing."""
    try:
        explain.key_for(config.endpoint)
    except ConfigError as error:
        return str(error)
    return ""
