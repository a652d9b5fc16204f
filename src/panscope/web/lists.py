"""Lists of features over REST: a feature's, all, one with what is in it.

A list may have any name, also one of dots and slashes, so names stand in queries, not in paths.
"""

from dataclasses import dataclass
from typing import Annotated

import fastapi
from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from panscope.atlas.lists import NAME_CHARACTERS, REMARK_CHARACTERS, FeatureList, Listed
from panscope.web.api import Limit, Offset, Run
from panscope.web.problem import FAILURES
from panscope.web.writing import may_write

ListName = Annotated[str, fastapi.Query(max_length=NAME_CHARACTERS)]

router = APIRouter(prefix="/api", tags=["lists"], responses=FAILURES)


@dataclass(frozen=True, slots=True)
class ListPage:
    """A window on the features of a list, what was put there last first."""

    name: str
    total: int
    offset: int
    features: list[Listed]


class PutRequest(BaseModel):
    """The list that a feature is put in, and why."""

    model_config = ConfigDict(extra="forbid")
    list: str = Field(max_length=NAME_CHARACTERS)
    remark: str = Field(default="", max_length=REMARK_CHARACTERS)


@router.get("/lists")
def lists(run: Run, offset: Offset = 0, limit: Limit = 100) -> list[FeatureList]:
    """Name the lists with how many features are in each, the one last put into first."""
    return run.notes.lists.names(limit, offset)


@router.get("/list")
def one_list(run: Run, name: ListName, offset: Offset = 0, limit: Limit = 100) -> ListPage:
    """Give the features of a list with what is remarked on them, and their labels."""
    total = run.notes.lists.count(name)
    features = run.notes.lists.features(name, limit, offset)
    return ListPage(name, total, offset, features)


@router.delete("/list", dependencies=[Depends(may_write)])
def remove(run: Run, name: ListName) -> list[FeatureList]:
    """Take all features out of a list, with which it is gone; name those that are left."""
    with run.open_notes() as notes:
        notes.lists.remove(name)
        return notes.lists.names()


@router.get("/sae/{sae:path}/feature/{index}/lists")
def of_feature(run: Run, sae: str, index: int) -> list[Listed]:
    """Give the lists that a feature is in."""
    run.catalogue.check(sae, index)
    return run.notes.lists.of(sae, index)


@router.put("/sae/{sae:path}/feature/{index}/lists", dependencies=[Depends(may_write)])
def put(run: Run, sae: str, index: int, request: PutRequest) -> list[Listed]:
    """Put a feature in a list, which is there from then on; a remark replaces the one before."""
    run.catalogue.check(sae, index)
    with run.open_notes() as notes:
        notes.lists.put(request.list, sae, index, request.remark)
        return notes.lists.of(sae, index)


@router.delete("/sae/{sae:path}/feature/{index}/lists", dependencies=[Depends(may_write)])
def take(run: Run, sae: str, index: int, name: ListName) -> list[Listed]:
    """Take a feature out of a list, if it is there; with the last one the list is gone."""
    with run.open_notes() as notes:
        notes.lists.take(name, sae, index)
        return notes.lists.of(sae, index)
