"""Edits gathered by Sae: of each the few latents that move, ready for a model.

A direction is a Sae too: its only latent is the projection onto it, active whatever it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from panscope.axes import Activations, Latents
from panscope.edits import Edit, refuse_unknown
from panscope.errors import ConfigError, Unsupported
from panscope.kernels import reference
from panscope.model import tap
from panscope.model.load import Model
from panscope.sae.sae import Sae
from panscope.sites import Site
from panscope.splice.direction import encoded, pointed


@dataclass(frozen=True, slots=True)
class Change:
    """One edit: its number in the list, its latent's column, what it patches in by position."""

    number: int
    edit: Edit
    column: int
    patch: Float[Tensor, " positions"] | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """A Sae, those of its latents that edits move, and these edits in their order."""

    sae: Sae
    columns: tuple[int, ...]
    changes: tuple[Change, ...]
    directions: Mapping[Site, Float[Tensor, "columns d_site"]]
    """The decoder's rows of these latents, by site that is written."""

    @property
    def reads(self) -> tuple[Site, ...]:
        """The sites that must be read: none where edits only add, whatever was there."""
        only_adds = all(change.edit.action == "add" for change in self.changes)
        return () if only_adds else self.sae.reads

    def latents(self, x: Activations) -> Latents:
        """Return these latents' activations; TopK needs all others for that."""
        columns, sae = list(self.columns), self.sae
        if sae.k is not None or sae.size is not None:
            return sae.encode(x)[:, columns]
        few = sae.w_enc[:, columns], sae.b_enc[columns], sae.threshold[columns]
        return reference.encode(x, *few)


def gathered(model: Model, saes: Mapping[str, Sae], edits: Sequence[Edit]) -> tuple[Moved, ...]:
    """Gather edits by the Sae or the direction that they are of; run the texts they patch from.

    Raises as `splice.steering` does.
    """
    refuse_unknown(edits, {name: sae.width for name, sae in saes.items()})
    for edit in edits:
        if edit.unit != "raw":
            do = "turn it into the model's units with edits.in_raw_units"
            raise ConfigError(f"edit {edit}", "is in multiples of a maximum", do)
    numbers = [pointed(model, saes, edit) for edit in edits]
    numbered = sorted(enumerate(numbers), key=lambda pair: _target(pair[1]))
    groups = groupby(numbered, key=lambda pair: _target(pair[1]))
    return tuple(_moved(model, saes, list(group)) for _, group in groups)


def _target(edit: Edit) -> tuple[str, tuple[float, ...]]:
    return edit.sae or edit.site or "", edit.direction or ()


def _moved(model: Model, saes: Mapping[str, Sae], numbered: Sequence[tuple[int, Edit]]) -> Moved:
    first = numbered[0][1]
    sae = along(model, first) if first.sae is None else saes[first.sae].to(model.device)
    columns = sorted({edit.index or 0 for _, edit in numbered})
    changes = [Change(number, edit, columns.index(edit.index or 0)) for number, edit in numbered]
    sizes = [model.d_at(site) for site in sae.writes]
    directions = dict(zip(sae.writes, torch.split(sae.w_dec[columns], sizes, 1), strict=True))
    moved = Moved(sae, tuple(columns), tuple(changes), directions)
    _refuse_sites(model, moved)
    return replace(moved, changes=tuple(_patched(model, moved, change) for change in changes))


def along(model: Model, edit: Edit) -> Sae:
    """Make the Sae of one latent that a direction is: encoded and decoded by the unit vector."""
    assert edit.site is not None and edit.direction is not None
    (site,) = model.sites((edit.site,))
    if len(edit.direction) != model.d_at(site):
        found = f"its direction has {len(edit.direction)} numbers"
        raise ConfigError(f"edit {edit}", found, f"give {model.d_at(site)} at {site}")
    unit = torch.nn.functional.normalize(torch.tensor([edit.direction]), dim=1).to(model.device)
    zero = unit.new_zeros(1)
    always = torch.full_like(zero, -torch.inf)
    return Sae(unit.T, zero, unit, torch.zeros_like(unit[0]), always, (site,), (site,))


def _refuse_sites(model: Model, moved: Moved) -> None:
    """Raise Unsupported where an edit cannot be written, or is not known when it must be."""
    begin = min(moved.sae.writes, key=lambda site: site.order)
    for site in moved.sae.writes:
        model.family.refuse_edit(site)
    for site in moved.reads:
        if site.order > begin.order:
            found = f"its Sae reads {site}, behind {begin}, where it first writes"
            do = "such a feature can only be added to"
            raise Unsupported(f"edit {moved.changes[0].edit}", found, do)


def _patched(model: Model, moved: Moved, change: Change) -> Change:
    """Read what an edit patches in off an unedited pass over its source."""
    if change.edit.source is None:
        return change
    ids = encoded(model, change.edit, "source")
    read = tap.run(model, torch.tensor([ids]), read=moved.reads).values
    x = torch.cat([read[site][0] for site in moved.reads], -1).float()
    return replace(change, patch=moved.latents(x)[:, change.column])
