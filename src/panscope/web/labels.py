"""Labels over REST: a feature's with their history, a person's own, one found or scored here."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from panscope.atlas.features import Atlas
from panscope.atlas.judgements import JudgedScore, judged
from panscope.atlas.labels import HUMAN, LABEL_CHARACTERS, Label
from panscope.atlas.notes import Notes
from panscope.errors import ConfigError, NotFound, nearest
from panscope.events import Emit, silent
from panscope.stages import explain
from panscope.web.api import Run
from panscope.web.problem import FAILURES
from panscope.web.run import RunFolder
from panscope.web.writing import may_write

ANSWER_SECONDS = 30.0  # of a language model, for one question
Stage = Callable[[explain.Config, Atlas, Notes, Path, Emit, Event], Mapping[str, int]]

router = APIRouter(prefix="/api", tags=["labels"], responses=FAILURES)


@dataclass(frozen=True, slots=True)
class JudgedLabel:
    """A label, the windows its scores were judged on, and the text of their tokens."""

    text: str
    author: str
    method: str
    scores: tuple[JudgedScore, ...]
    pieces: dict[int, str]


class LabelRequest(BaseModel):
    """What a person says that a feature means."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(max_length=LABEL_CHARACTERS)
    author: str = Field(max_length=200)


@router.get("/sae/{sae:path}/feature/{index}/labels")
def labels(run: Run, sae: str, index: int) -> list[Label]:
    """List all labels a feature ever had, newest first, with their scores."""
    run.catalogue.check(sae, index)
    return list(run.notes.labels(sae, index))


@router.get("/sae/{sae:path}/feature/{index}/labels/{label}")
def judged_label(run: Run, sae: str, index: int, label: int) -> JudgedLabel:
    """Give a label with the windows that each of its scores was judged on."""
    run.catalogue.check(sae, index)
    known = {str(one.id): one for one in run.notes.labels(sae, index)}
    if (found := known.get(str(label))) is None:
        raise NotFound(f"feature {index}", f"has no label {label}", nearest(str(label), known))
    scores = judged(found, run.catalogue.record(sae, index), run.catalogue.contexts)
    tokens = {token for score in scores for one in score.judgements for token in one.tokens}
    return JudgedLabel(found.text, found.author, found.method, scores, run.catalogue.pieces(tokens))


@router.post("/sae/{sae:path}/feature/{index}/labels", dependencies=[Depends(may_write)])
def add_label(run: Run, sae: str, index: int, request: LabelRequest) -> Label:
    """Write a label by hand; older ones stay in the feature's history."""
    run.catalogue.check(sae, index)
    label = Label(sae, index, request.text, request.author, HUMAN)
    with closing(Notes.open(run.notes.path)) as notes:
        return notes.add(label)


@router.post("/sae/{sae:path}/feature/{index}/explain", dependencies=[Depends(may_write)])
def explain_feature(run: Run, sae: str, index: int) -> Label:
    """Explain a feature as the run's recipe says, or by rules; a label found before is kept.

    An endpoint is asked less patiently than on the command line.
    """
    counts = _done(run, sae, index, explain.run)
    if counts["without windows"]:
        raise _too_few(index)
    found = [one for one in run.notes.labels(sae, index) if one.method != HUMAN]
    if not found:
        do = "try again, or see to the server that explain.endpoint names"
        raise ConfigError(f"feature {index}", "got no usable answer", do)
    return found[0]


@router.post("/sae/{sae:path}/feature/{index}/rescore", dependencies=[Depends(may_write)])
def rescore(run: Run, sae: str, index: int) -> Label:
    """Score the label that a person wrote, as `panscope explain --rescore` does."""
    counts = _done(run, sae, index, explain.rescore)
    shown = run.notes.label_of(sae, index)
    if shown is None or shown.method != HUMAN:
        raise ConfigError(f"feature {index}", "has no label by a person", "write one first")
    if counts["without windows"]:
        raise _too_few(index)
    return shown


def _done(run: RunFolder, sae: str, index: int, stage: Stage) -> Mapping[str, int]:
    """Run a stage of explaining on one feature; one at a time."""
    run.catalogue.check(sae, index)
    config = _hurried(explain.config_of(run.folder), sae, index)
    atlas, answers = Atlas(run.folder / "atlas"), run.folder / "answers"
    with run.explaining.take() as ending, closing(Notes.open(run.notes.path)) as notes:
        return stage(config, atlas, notes, answers, silent, ending)


def _hurried(config: explain.Config, sae: str, index: int) -> explain.Config:
    """Narrow a configuration to one feature, and its patience to that of who waits."""
    endpoint = config.endpoint
    seconds = min(endpoint.timeout_seconds, ANSWER_SECONDS)
    quick = endpoint.model_copy(update={"tries": 2, "timeout_seconds": seconds})
    one = {"saes": (sae,), "features": (index,), "at_most": None, "meaning": None}
    return config.model_copy(update={**one, "endpoint": quick})


def _too_few(index: int) -> ConfigError:
    found = "has too few examples in different documents"
    return ConfigError(f"feature {index}", found, "describe more text, or pick another feature")
