"""Gradients of a loss with respect to the values at sites.

The model's parameters take no part: nothing is added to their `.grad`, and where none of them wants
a gradient, as in a Model that was loaded, no graph is kept before the first site.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from panscope.axes import TokenIds
from panscope.errors import ConfigError, Unsupported
from panscope.model import tap
from panscope.model.load import Model
from panscope.sites import Site

Values = dict[Site, Float[Tensor, "batch ..."]]


@dataclass(frozen=True, slots=True)
class Gradients:
    """The loss of a pass, the values at the sites, and how the loss changes with each number."""

    loss: Float[Tensor, ""]
    values: Values
    by_site: Values


def gradients(
    model: Model,
    ids: TokenIds,
    sites: Iterable[Site],
    loss: Callable[[tap.Run], Tensor],
    edits: Mapping[Site, tap.Edit] | None = None,
    with_logits: bool = True,
) -> Gradients:
    """Run a pass and differentiate `loss` of what it gave with respect to the values at `sites`.

    `loss` maps the values at the sites and the logits to one number. A gradient is the total one:
    of all that follows from a value, what it does to values at later sites included; at an edited
    site, of the value after the edit. Raises as `tap.run` does; ConfigError for a loss that is not
    one number or depends on no site; Unsupported for `mlp_in_unit`, which nothing reads.
    """
    sites, edits = frozenset(sites), dict(edits or {})
    _refuse_unread(model, sites)
    for site in edits:
        model.family.refuse_edit(site)
    values: Values = {}

    def reach(site: Site, value: Tensor) -> Tensor:
        if site in edits:
            value = _own(tap.edited(site, value, edits[site]))
        if site in sites:
            # in place: where a value can only be read, the pass goes on with this very tensor
            values[site] = value if value.requires_grad else value.requires_grad_()
        return value

    with torch.inference_mode(False), torch.enable_grad():
        logits = tap.visit(model, ids.clone(), sites | edits.keys(), reach, with_logits)
        lost = loss(tap.Run(values, logits if with_logits else None))
        _refuse_loss(lost)
        found = torch.autograd.grad(lost, tuple(values.values()), materialize_grads=True)
    by_site = dict(zip(values, found, strict=True))
    return Gradients(lost.detach(), {site: v.detach() for site, v in values.items()}, by_site)


def _own(value: Tensor) -> Tensor:
    """Return what an edit returned, but not the tensor that it may hold."""
    return value if value.requires_grad else value.detach()


def _refuse_unread(model: Model, sites: Iterable[Site]) -> None:
    """Raise Unsupported for a site whose value is computed aside and read by nothing."""
    for site in sites:
        if model.family.place(site).end == "unit":
            do = f"take that of mlp_in.{site.layer} times the norm's gain"
            raise Unsupported(f"site {site}", "has no gradient: no module reads it", do)


def _refuse_loss(loss: Tensor) -> None:
    """Raise ConfigError for a loss that cannot be differentiated."""
    if loss.shape:
        raise ConfigError("loss", f"has shape {tuple(loss.shape)}", "return one number")
    if not loss.requires_grad:
        raise ConfigError("loss", "depends on none of the sites", "use the values or logits given")
