"""Read and edit activations at sites during a forward pass, by hooks that leave no trace.

Hooks are registered for one call and removed whatever happens. They sit on the model's own modules,
so two threads must not run the same model at once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from panscope.axes import TokenIds
from panscope.errors import ConfigError, NotFound
from panscope.model.families import Place
from panscope.model.load import Model
from panscope.sites import Site

Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Run:
    """What a forward pass gave: values at the sites that were read, logits if asked for."""

    values: dict[Site, Float[Tensor, "batch position d"]]
    logits: Float[Tensor, "batch position vocab"] | None


class _Enough(Exception):
    """Raised after the last site that is read, to spare the rest of the forward pass."""


def run(
    model: Model,
    ids: TokenIds,
    read: Iterable[Site] = (),
    edits: Mapping[Site, Edit] | None = None,
    with_logits: bool = False,
) -> Run:
    """Run a forward pass; replace the values at some sites, then read the values at others.

    An edit maps a site's whole value (batch, position, d) to one of the same shape and dtype; where
    a site is both edited and read, the edited value is read. Without logits the LM head is not run
    and the pass stops after the last site that is read. No gradients, no KV cache.
    """
    sites, changes = tuple(dict.fromkeys(read)), dict(edits or {})
    for site in (*sites, *changes):
        _check(model, site)
    for site in changes:
        model.family.refuse_edit(site)
    whole = with_logits or Site("logits") in sites
    last = None if whole or not sites else max(sites, key=lambda site: site.order)
    values: dict[Site, Tensor] = {}
    pending = sorted({*sites, *changes}, key=lambda site: site.order)
    hooks = ((site, _hook(site, sites, changes, values, last)) for site in pending)
    logits = None
    with torch.no_grad(), _installed(model, hooks):
        try:
            output = (model.lm if whole else model.lm.model)(ids.to(model.device), use_cache=False)
            logits = output.logits if with_logits else None
        except _Enough:
            pass
    for site in sites:
        assert site in values, f"{site} never fired in {model.family.name}"
    return Run(values, logits)


def _check(model: Model, site: Site) -> None:
    """Refuse a site that this model does not have."""
    if site.layer is not None and site.layer >= model.n_layers:
        do = f"use {site.kind}.0 to {site.kind}.{model.n_layers - 1}"
        raise NotFound(f"site {site}", f"{model.name} has {model.n_layers} layers", do)


def _hook(
    site: Site,
    sites: Iterable[Site],
    changes: Mapping[Site, Edit],
    values: dict[Site, Tensor],
    last: Site | None,
) -> Edit:
    """Make what happens when a site's value appears: edit, then read, then perhaps stop."""

    def at_site(value: Tensor) -> Tensor:
        if site in changes:
            value = _edited(site, value, changes[site])
        if site in sites:
            values[site] = value.detach()
        if site == last:
            raise _Enough
        return value

    return at_site


def _edited(site: Site, value: Tensor, edit: Edit) -> Tensor:
    changed = edit(value)
    if changed.shape != value.shape or changed.dtype != value.dtype:
        found = f"the edit returned {_described(changed)} for {_described(value)}"
        raise ConfigError(f"site {site}", found, "return the same shape and dtype")
    return changed


def _described(value: Tensor) -> str:
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


@contextmanager
def _installed(model: Model, hooks: Iterable[tuple[Site, Edit]]) -> Iterator[None]:
    """Install hooks for the length of a with block."""
    handles = []
    try:
        for site, at_site in hooks:
            place = model.family.place(site)
            handles.append(_register(model.lm.get_submodule(place.path), place, at_site))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _register(module: Any, place: Place, at_site: Edit) -> Any:
    if place.end == "input":
        return module.register_forward_pre_hook(lambda _, args: (at_site(args[0]), *args[1:]))
    return module.register_forward_hook(lambda _, __, output: _through(output, at_site))


def _through(output: Any, at_site: Edit) -> Any:
    """Apply a hook to a module's output: a tensor, a tuple that begins with one, or logits.

    transformers 5 layers return a tensor; older ones a tuple, whose first element is not the first
    row of a batch.
    """
    if isinstance(output, Tensor):
        return at_site(output)
    if isinstance(output, tuple):
        return (at_site(output[0]), *output[1:])
    output.logits = at_site(output.logits)
    return output
