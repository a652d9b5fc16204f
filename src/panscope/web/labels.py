"""Labels over REST: those of a feature with their history, and a person's own."""

from contextlib import closing

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from panscope.atlas.labels import HUMAN, LABEL_CHARACTERS, Label
from panscope.atlas.notes import Notes
from panscope.web.api import Run
from panscope.web.problem import FAILURES
from panscope.web.writing import may_write

router = APIRouter(prefix="/api", tags=["labels"], responses=FAILURES)


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


@router.post("/sae/{sae:path}/feature/{index}/labels", dependencies=[Depends(may_write)])
def add_label(run: Run, sae: str, index: int, request: LabelRequest) -> Label:
    """Write a label by hand; older ones stay in the feature's history."""
    run.catalogue.check(sae, index)
    label = Label(sae, index, request.text, request.author, HUMAN)
    with closing(Notes.open(run.notes.path)) as notes:
        return notes.add(label)
