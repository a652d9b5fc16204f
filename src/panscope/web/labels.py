"""Labels over REST: a feature's with their history, a person's own."""

from dataclasses import dataclass

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from panscope.atlas.judgements import JudgedScore, judged
from panscope.atlas.labels import AUTHOR_CHARACTERS, HUMAN, LABEL_CHARACTERS, Label
from panscope.errors import NotFound, nearest
from panscope.web.api import Run
from panscope.web.problem import FAILURES
from panscope.web.run import RunFolder
from panscope.web.writing import may_write

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
    author: str = Field(max_length=AUTHOR_CHARACTERS)


@router.get("/sae/{sae:path}/feature/{index}/labels")
def labels(run: Run, sae: str, index: int) -> list[Label]:
    """List all labels a feature ever had, newest first, with their scores."""
    run.catalogue.check(sae, index)
    return list(run.notes.labels(sae, index))


@router.get("/sae/{sae:path}/feature/{index}/labels/{label}")
def judged_label(run: Run, sae: str, index: int, label: int) -> JudgedLabel:
    """Give a label with the windows that each of its scores was judged on."""
    found = label_by_id(run, sae, index, label)
    scores = judged(found, run.catalogue.record(sae, index), run.catalogue.contexts)
    tokens = {token for score in scores for one in score.judgements for token in one.tokens}
    return JudgedLabel(found.text, found.author, found.method, scores, run.catalogue.pieces(tokens))


@router.post("/sae/{sae:path}/feature/{index}/labels", dependencies=[Depends(may_write)])
def add_label(run: Run, sae: str, index: int, request: LabelRequest) -> Label:
    """Write a label by hand; older ones stay in the feature's history."""
    run.catalogue.check(sae, index)
    label = Label(sae, index, request.text, request.author, HUMAN)
    with run.open_notes() as notes:
        return notes.add(label)


def label_by_id(run: RunFolder, sae: str, index: int, number: int) -> Label:
    """Find a label of a feature, shown or not; NotFound names the nearest."""
    run.catalogue.check(sae, index)
    known = {str(one.id): one for one in run.notes.labels(sae, index)}
    if (found := known.get(str(number))) is None:
        raise NotFound(f"feature {index}", f"has no label {number}", nearest(str(number), known))
    return found
