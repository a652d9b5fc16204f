"""Walk through a forward pass: a for loop over the values at its sites, which may change them.

    with walk(model, ids, [Site("resid_post", 3), Site("resid_post", 4)]) as steps:
        for site, value in steps:
            steps.send(2 * value)
    steps.logits

The pass runs in a greenlet of its own and stands still while the loop's body runs, so the body may
do what it likes: print, plot, break, raise, or decide by one value what to send at the next.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Self

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor

from panscope.axes import TokenIds
from panscope.errors import ConfigError
from panscope.model import tap
from panscope.model.load import Model
from panscope.sites import Site

Step = tuple[Site, Tensor]


@contextmanager
def walk(
    model: Model, ids: TokenIds, sites: Iterable[Site], with_logits: bool = True
) -> Iterator["Walk"]:
    """Begin a pass; leaving the block ends it wherever it is, and takes its hooks away.

    Without logits the pass ends at the last site. Raises what `tap.run` does, in the loop's head.
    """
    steps = Walk(model, ids, sites, with_logits)
    try:
        yield steps
    finally:
        steps.end()


class Walk:
    """The steps of a pass: (site, value) pairs in the order in which it reaches them."""

    logits: Tensor | None = None
    """Of a pass that came to its end."""

    def __init__(
        self, model: Model, ids: TokenIds, sites: Iterable[Site], with_logits: bool
    ) -> None:
        self._model, self._ids, self._sites = model, ids, tuple(sites)
        self._with_logits = with_logits
        self._pass, self._loop = greenlet(self._run), getcurrent()
        self._at: Step | None = None
        self._sent: Tensor | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Step:
        """Let the pass go on to its next site; the value is a copy (batch, position, d)."""
        if self._pass.dead:
            raise StopIteration
        self._pass.parent = self._loop = getcurrent()  # where its exceptions go
        sent, self._sent, self._at = self._sent, None, None
        with torch.set_grad_enabled(torch.is_grad_enabled()):  # the pass has none: not the loop's
            self._at = self._pass.switch(sent)
        if self._at is None:
            raise StopIteration
        return self._at

    def send(self, value: Tensor) -> None:
        """Let the pass go on with another value at the present site; the last one sent counts.

        Raises ConfigError for a value of another shape, dtype or device, or outside the loop;
        Unsupported at a site that can only be read.
        """
        if self._at is None:
            raise ConfigError("walk", "is at no site", "send inside the loop")
        site, old = self._at
        self._model.family.refuse_edit(site)
        tap.refuse_unlike(site, old, value)
        self._sent = value

    def end(self) -> None:
        """End the pass where it is."""
        self._at = None
        if not self._pass.dead:
            self._pass.parent = getcurrent()
            self._pass.throw(GreenletExit)

    def _run(self, _: None) -> None:
        with torch.no_grad():
            logits = tap.visit(self._model, self._ids, self._sites, self._reach, self._with_logits)
        self.logits = logits if self._with_logits else None

    def _reach(self, site: Site, value: Tensor) -> Tensor:
        """Hand a step to the loop, and wait."""
        has_gradients = torch.is_grad_enabled()
        sent: Tensor | None = self._loop.switch((site, value.clone()))
        torch.set_grad_enabled(has_gradients)
        return value if sent is None else sent
