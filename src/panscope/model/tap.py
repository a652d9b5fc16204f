"""Read and edit activations at sites during a forward pass, by hooks that leave no trace.

1. Hooks go onto the modules where the sites are, or patches into their functions (`inside`), for
   this call alone.
2. At each site: the edit, then the reading, then, at the last site of all, the end of the pass.
3. Hooks and patches are removed, whatever happened.

The hooks sit on the model's own modules and heed their own pass alone: one that an edit runs inside
another, of the same model or not, is its own affair. Two threads must still not run one model at
the same time, since one would put hooks on while the other goes through them; different models are
independent.

A value that was read is the tensor that the pass goes on with, not a copy: Gemma 2 (transformers 5)
changes no tensor in place (a test compares), and an edit is given a copy.

A pass can begin at a layer, from a stream that is known: what lies below does not run, and what
lies above gives the same bits as in a whole pass.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from panscope.axes import TokenIds
from panscope.errors import ConfigError, NotFound, Unsupported
from panscope.model import ends, inside, load
from panscope.model.compiled import refuse_compiled
from panscope.model.load import Model
from panscope.sites import Site

Edit = Callable[[Tensor], Tensor]
Reach = Callable[[Site, Tensor], Tensor]
NO_CACHE: Mapping[str, Any] = MappingProxyType({"use_cache": False})


@dataclass(frozen=True, slots=True)
class Run:
    """What a forward pass gave: values at the sites that were read, logits if asked for."""

    values: dict[Site, Float[Tensor, "batch ..."]]
    logits: Float[Tensor, "batch _ vocab"] | None


@dataclass(frozen=True, slots=True)
class Begin:
    """Where a pass begins: the layer and the residual stream that enters it.

    With `layer` the number of layers, only the final norm and the LM head are left to run.
    """

    layer: int
    stream: Float[Tensor, "batch position d_model"]


class _Enough(Exception):
    """Raised behind the last site that matters, to spare the rest of the forward pass."""


_under_way: ContextVar["_Taps | None"] = ContextVar("pass under way", default=None)
"""The innermost pass of this thread or greenlet: what runs the modules at this moment."""


def run(
    model: Model,
    ids: TokenIds,
    read: Iterable[Site] = (),
    edits: Mapping[Site, Edit] | None = None,
    with_logits: bool = False,
    begin: Begin | None = None,
    inputs: Mapping[str, Any] = NO_CACHE,
) -> Run:
    """Run a forward pass, or the end of one; replace values at some sites, read them at others.

    An edit maps a site's whole value, (batch, position, d) or as `sites` says, to one of the same
    shape, dtype and device; where a site is both edited and read, the edited value is read. Without
    logits the LM head is not run and the pass ends at the last site. No gradients. `inputs` is what
    the model is given beside the ids: by default nothing but that it keeps no KV cache.
    Raises NotFound for a site that the model lacks, Unsupported for one that cannot be edited or
    that the pass never reaches and for a compiled model, ConfigError for what an edit may not
    return and for a site before the layer where the pass begins.
    """
    read, edits = frozenset(read), dict(edits or {})
    values: dict[Site, Tensor] = {}
    for site in edits:
        model.family.refuse_edit(site)

    def reach(site: Site, value: Tensor) -> Tensor:
        if site in edits:
            value = edited(site, value, edits[site])
        if site in read:
            values[site] = value.detach()
        return value

    with torch.no_grad():
        logits = visit(model, ids, read | edits.keys(), reach, with_logits, begin, inputs)
    return Run(values, logits if with_logits else None)


def visit(
    model: Model,
    ids: TokenIds,
    sites: Iterable[Site],
    reach: Reach,
    with_logits: bool = False,
    begin: Begin | None = None,
    inputs: Mapping[str, Any] = NO_CACHE,
) -> Tensor | None:
    """Run a forward pass that calls `reach(site, value)` at each site, in the order it has them.

    The pass goes on with what `reach` returns: at a site that can only be read, the value itself.
    Returns the logits, if the pass got so far. The gradient mode is the caller's. Raises as `run`
    does.
    """
    taps = _Taps(model, sites, reach, whole=with_logits)
    taps.refuse_before(begin)
    passed_over = _passed_over(model, begin, taps) if begin else nullcontext()
    with hooks(model, taps.reaches), passed_over:
        logits = taps.forward(ids.to(model.device), inputs)
    taps.refuse_unreached()
    return logits


class _Taps:
    """The hooks of one call, and the sites that are still to come."""

    def __init__(self, model: Model, sites: Iterable[Site], reach: Reach, whole: bool) -> None:
        self._model, self._pending, self._reach = model, frozenset(sites), reach
        self._whole = whole or any(needs_head(model, site) for site in self._pending)

    def refuse_before(self, begin: Begin | None) -> None:
        """Raise ConfigError for a site below the layer at which the pass begins."""
        first = min(self._pending, key=lambda site: site.order, default=None)
        if begin and first and first.order < (begin.layer, 0):
            found = f"lies before layer {begin.layer}, where the pass begins"
            raise ConfigError(f"site {first}", found, "begin at its layer, or run a whole pass")

    @property
    def reaches(self) -> dict[Site, Edit]:
        """What is called with the value at each site."""
        return {site: partial(self._at, site) for site in self._pending}

    def forward(self, ids: TokenIds, inputs: Mapping[str, Any]) -> Tensor | None:
        """Run the whole model, or its layers as far as the last site; return logits if any."""
        before = _under_way.set(self)
        try:
            if self._whole:
                logits: Tensor = self._model.lm(ids, **inputs).logits
                return logits
            with suppress(_Enough):
                self._model.lm.base_model(ids, **inputs)
            return None
        finally:
            _under_way.reset(before)

    @property
    def under_way(self) -> bool:
        """Whether it is this pass that runs, and not one inside it or beside it."""
        return _under_way.get() is self

    def refuse_unreached(self) -> None:
        """Raise Unsupported if a declared site never had a value."""
        if self._pending:
            site = min(self._pending, key=lambda site: site.order)
            found = f"was not reached in a forward pass of {self._model.name}"
            raise Unsupported(f"site {site}", found, load.TRANSFORMERS_MAY_BE_WHY)

    def _at(self, site: Site, value: Any) -> Any:
        """Hand the value over; end the pass if the site was the last."""
        if not self.under_way:
            return value
        if not isinstance(value, Tensor):
            found = f"holds a {type(value).__name__}, not a tensor"
            raise Unsupported(f"site {site}", found, "name another module's end")
        value = self._reach(site, value)
        self._pending -= {site}
        if not self._pending and not self._whole:
            raise _Enough
        return value


@contextmanager
def hooks(model: Model, reaches: Mapping[Site, Edit]) -> Iterator[None]:
    """Have each pass call a function with the value at its site, for the length of a with block.

    Raises NotFound, and Unsupported for a compiled model.
    """
    refuse_compiled(model.lm, model.name)
    for site in reaches:
        _refuse_absent(model, site)
    with ExitStack() as stack:
        for site in sorted(reaches, key=lambda site: site.order):
            stack.enter_context(_register(model, site, reaches[site]))
        yield


@contextmanager
def _passed_over(model: Model, begin: Begin, taps: _Taps) -> Iterator[None]:
    """Let what lies below the beginning return the stream at once, for the length of a with block.

    Each module below has its `forward` hidden by one of its own (an instance's attribute comes
    before its class's), so that the model's loop over layers, masks and positions stays as it is.
    """
    sites = [Site("embed"), *(Site("resid_post", layer) for layer in range(begin.layer))]
    below = [model.module_at(site) for site in sites]
    hidden = [vars(module).get("forward") for module in below]
    try:
        for module in below:
            module.forward = partial(_begun, begin, taps, module.forward)
        yield
    finally:
        for module, forward in zip(below, hidden, strict=True):
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward


def _begun(
    begin: Begin, taps: _Taps, forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Return the stream in the pass that begins with it; run the module in others."""
    return begin.stream if taps.under_way else forward(*args, **kwargs)


def _refuse_absent(model: Model, site: Site) -> None:
    """Raise NotFound for a layer that the model does not have."""
    if site.layer is not None and not 0 <= site.layer < model.n_layers:
        do = f"use {site.kind}.0 to {site.kind}.{model.n_layers - 1}"
        raise NotFound(f"site {site}", f"{model.name} has {model.n_layers} layers", do)


def needs_head(model: Model, site: Site) -> bool:
    """Tell whether a site lies outside of what runs without the LM head."""
    if site.is_path:
        return not site.kind.startswith(f"{model.lm.base_model_prefix}.")
    return site.kind == "logits"


def edited(site: Site, value: Tensor, edit: Edit) -> Tensor:
    """Apply an edit to a copy: one that works in place must not reach what was read before."""
    changed = edit(value.clone())
    refuse_unlike(site, value, changed)
    return changed


def refuse_unlike(site: Site, value: Tensor, changed: object) -> None:
    """Raise ConfigError if an edit's value is not of the shape, dtype and device of what it got."""
    if described(changed) != described(value):
        found = f"the edit returned {described(changed)} for {described(value)}"
        raise ConfigError(f"site {site}", found, "return the same shape, dtype and device")


def described(value: object) -> str:
    """Say what an edit gets or returns: shape, dtype and device."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')} on {value.device}"


def _register(model: Model, site: Site, reach: ends.Visit) -> AbstractContextManager[object]:
    """Call `reach` with the value at a site while a with block lasts."""
    module, end = model.module_at(site), model.family.place(site).end
    site = model.family.named(site)
    if end == "inside":
        return inside.reaching(model, site, reach)
    if site.kind == "resid_mid":
        if inside.is_known(model, site):
            return inside.reaching(model, site, reach)
        reach = partial(_read_only, model, site, reach)
    return ends.register(module, end, reach)


def _read_only(model: Model, site: Site, reach: ends.Visit, value: Tensor) -> Tensor:
    """Reach a stream that is kept aside already: an edit would be seen by the MLP alone."""
    if reach(value) is not value:
        inside.refuse_unknown(model, site)
    return value
