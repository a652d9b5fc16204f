"""All that people keep in the notes of a run: what an export holds, and whose it may be."""

from collections.abc import Iterable
from typing import Any

from panscope.atlas.notes import Notes
from panscope.errors import NotFound, nearest

Kept = dict[str, list[dict[str, Any]]]


def exported(notes: Notes, sae: str = "") -> Kept:
    """Return bookmarks, lists and comments, of one Sae or of all, and saved edits, for JSON."""
    lists, comments = notes.lists.exported(sae), notes.comments.exported(sae)
    return {**notes.saved.exported(sae), "lists": lists, "comments": comments}


def refuse_unknown(notes: Notes, sae: str, known: Iterable[str]) -> None:
    """Raise NotFound for a Sae that is neither known nor has notes, which outlive theirs."""
    if not sae or sae in (names := set(known)):
        return
    names |= {*notes.saved.counts(), *notes.lists.saes(), *notes.comments.counts()}
    if sae not in names:
        raise NotFound("notes", f"no Sae {sae!r}", nearest(sae, names))
