"""What people and machines say of a feature, as Neuronpedia lays it out.

There are no users here: who wrote a comment stands where the id of a user does.
"""

from dataclasses import dataclass
from typing import TypedDict

from panscope.atlas.comments import Comment
from panscope.atlas.labels import Label
from panscope.atlas.lists import Listed
from panscope.web.sources import source_of


class Keys(TypedDict):
    """The keys under which a feature stands in every record."""

    modelId: str
    layer: str
    index: str


@dataclass(frozen=True, slots=True)
class Named:
    """A feature as others know it: model, source, index."""

    model: str
    sae: str
    index: int

    def keys(self) -> Keys:
        """As records name it."""
        return {"modelId": self.model, "layer": source_of(self.sae), "index": str(self.index)}


@dataclass(frozen=True, slots=True)
class NeuronScore:
    """How well an explanation does by one scorer."""

    value: float | None
    explanationScoreTypeName: str
    explanationScoreModelName: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What someone or something says that a feature means."""

    id: str
    modelId: str
    layer: str
    index: str
    description: str
    authorId: str
    typeName: str
    explanationModelName: str
    createdAt: str
    scores: list[NeuronScore]


@dataclass(frozen=True, slots=True)
class ListName:
    """A list of features; here its name is its id."""

    id: str
    name: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class InList:
    """That a feature is in a list; `description` is what is remarked on it there."""

    modelId: str
    layer: str
    index: str
    listId: str
    description: str
    addedAt: str
    list: ListName
    userId: str = ""


@dataclass(frozen=True, slots=True)
class User:
    """The name of who wrote something."""

    name: str


@dataclass(frozen=True, slots=True)
class Said:
    """A comment on a feature."""

    id: str
    modelId: str
    layer: str
    index: str
    text: str
    userId: str
    user: User
    createdAt: str


def explanation(label: Label, named: Named) -> Explanation:
    """Lay a label out."""
    scores = [NeuronScore(score.value, score.scorer, score.author) for score in label.scores]
    return Explanation(
        **named.keys(),
        id=str(label.id),
        description=label.text,
        authorId=label.author,
        typeName=label.method,
        explanationModelName=label.author,
        createdAt=label.created,
        scores=scores,
    )


def in_list(listed: Listed, named: Named) -> InList:
    """Lay out that a feature is in a list."""
    name = listed.list
    return InList(
        **named.keys(),
        listId=name,
        description=listed.remark,
        addedAt=listed.created,
        list=ListName(name, name),
    )


def said(comment: Comment, named: Named) -> Said:
    """Lay a comment out."""
    return Said(
        **named.keys(),
        id=str(comment.id),
        text=comment.text,
        userId=comment.author,
        user=User(comment.author),
        createdAt=comment.created,
    )
