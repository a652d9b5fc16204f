"""Labels as vectors of an embedding model at an endpoint, and the search among them."""

import contextlib
from pathlib import Path
from threading import Event

from panscope.atlas.labels import Found
from panscope.atlas.notes import Notes
from panscope.errors import PanscopeError
from panscope.stages.explain.client import Client, connect
from panscope.stages.explain.endpoint import Endpoint

TOGETHER = 64  # texts in a question


def learn(endpoint: Endpoint, notes: Notes) -> None:
    """Write the vectors of all labels that have none of this model yet."""
    with contextlib.closing(_connected(endpoint)) as client:
        while missing := notes.meanings.without(endpoint.model, TOGETHER):
            vectors = _embedded(client, list(missing.values()))
            notes.meanings.add(endpoint.model, dict(zip(missing, vectors, strict=True)))


def search(
    endpoint: Endpoint,
    notes: Notes,
    text: str,
    limit: int,
    sae: str = "",
    closing: Event | None = None,
) -> list[Found]:
    """Find the labels whose meaning is nearest to that of a text; in one Sae or in all.

    Raises Interrupted once `closing` is set.
    """
    with contextlib.closing(_connected(endpoint, closing)) as client:
        (vector,) = _embedded(client, [text])
    return notes.meanings.nearest(endpoint.model, vector, limit, sae)


def _connected(endpoint: Endpoint, closing: Event | None = None) -> Client:
    return connect(endpoint, Path(), closing)  # vectors are kept in the notes, not in a folder


def _embedded(client: Client, texts: list[str]) -> list[list[float]]:
    vectors = client.embed(texts)
    if vectors is None:
        do = "see to the server, then run the same command again"
        raise PanscopeError(client.endpoint.base_url, "gave no vectors", do)
    return vectors
