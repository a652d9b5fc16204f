"""Comments on features over REST."""

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from panscope.atlas.comments import COMMENT_CHARACTERS, Comment
from panscope.atlas.labels import AUTHOR_CHARACTERS
from panscope.web.api import Limit, Offset, Run
from panscope.web.problem import FAILURES
from panscope.web.writing import may_write

router = APIRouter(prefix="/api", tags=["comments"], responses=FAILURES)


class CommentRequest(BaseModel):
    """What someone has to say about a feature."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(max_length=COMMENT_CHARACTERS)
    author: str = Field(max_length=AUTHOR_CHARACTERS)


@router.get("/sae/{sae:path}/feature/{index}/comments")
def comments(
    run: Run, sae: str, index: int, offset: Offset = 0, limit: Limit = 100
) -> list[Comment]:
    """List the comments on a feature, newest first."""
    run.catalogue.check(sae, index)
    return run.notes.comments.of(sae, index, limit, offset)


@router.post("/sae/{sae:path}/feature/{index}/comments", dependencies=[Depends(may_write)])
def comment(run: Run, sae: str, index: int, request: CommentRequest) -> Comment:
    """Write a comment on a feature."""
    run.catalogue.check(sae, index)
    with run.open_notes() as notes:
        return notes.comments.add(sae, index, request.text, request.author)


@router.delete("/comments/{number}", dependencies=[Depends(may_write)])
def remove(run: Run, number: int) -> dict[str, int]:
    """Remove a comment by its id."""
    with run.open_notes() as notes:
        notes.comments.remove(number)
    return {"removed": number}
