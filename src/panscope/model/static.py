"""Sites declared before torch.compile: affine edits and readings that live in buffers.

    with static.declared(model, [Site("resid_post", 3)], edits=[...], shape=(16, 128)) as taps:
        compiled = torch.compile(model.lm, fullgraph=True)
        taps.edit(site, scale=1.0, bias=direction)
        compiled(ids, use_cache=False)
        taps.values[Site("resid_post", 3)]

Compiled code does not see hooks that come after it, so these are there before and stay. At each
site the value becomes value * scale + bias where a mask says so, and is copied into a buffer.
Whatever changes afterwards changes in the buffers: the code is compiled once, and its addresses are
fixed. Where the mask says nowhere the value keeps its bits.

A pass is over whole rows, without a KV cache; the values read are those of the last pass.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import Module, Sequential

from panscope.errors import ConfigError, NotFound, Unsupported, nearest
from panscope.model import tap
from panscope.model.load import Model
from panscope.sites import Site

Number = float | Float[Tensor, " d"]


@contextmanager
def declared(
    model: Model, read: Iterable[Site], edits: Iterable[Site], shape: tuple[int, int]
) -> Iterator["Taps"]:
    """Put taps at sites for the length of a with block, in which the model is to be compiled.

    `shape` is the batch and the context that passes have at most. Behind the block, code that was
    compiled inside runs the model as it is. Raises as `tap.run` does for sites that are not there
    or cannot be edited, and for a model that is compiled already; Unsupported for values inside
    functions.
    """
    edits = frozenset(edits)
    for site in edits:
        model.family.refuse_edit(site)
    read = frozenset(read)
    for site in edits | read:
        _refuse_inside(model, site)
    taps = Taps(
        {site: _Affine(model, site, shape) for site in edits},
        {site: _Kept(model, site, shape) for site in read},
    )
    with tap.hooks(model, taps.reaches):
        try:
            yield taps
        finally:
            for site in edits:
                taps.clear(site)


@dataclass(frozen=True, slots=True)
class Taps:
    """The taps of a model: what changes after they were declared, changes in their buffers."""

    edits: Mapping[Site, "_Affine"]
    kept: Mapping[Site, "_Kept"]

    @property
    def reaches(self) -> dict[Site, tap.Edit]:
        """What is done at each site: the edit, then the reading."""
        both = (self.edits, self.kept)
        return {
            site: Sequential(*(parts[site] for parts in both if site in parts))
            for site in {*self.edits, *self.kept}
        }

    @property
    def values(self) -> dict[Site, Float[Tensor, "batch position _"]]:
        """The buffers of the sites that are read: NaN before a pass, then the values of the last.

        The next pass overwrites them; one smaller than was declared, only its own part.
        """
        return {site: kept.values for site, kept in self.kept.items()}

    def edit(
        self,
        site: Site,
        scale: Number = 1.0,
        bias: Number = 0.0,
        positions: Sequence[int] | None = None,
    ) -> None:
        """From now on make the value at a site value * scale + bias, at some positions or all.

        Positions are columns: pad on the right. Raises NotFound for a site that is not declared for
        edits, ConfigError for positions and sizes that do not fit.
        """
        if site not in self.edits:
            known = sorted(map(str, self.edits))
            raise NotFound(f"site {site}", "is not declared for edits", nearest(str(site), known))
        self.edits[site].write(site, scale, bias, positions)

    def clear(self, site: Site) -> None:
        """From now on leave the value at a site as it is."""
        self.edit(site, positions=())


class _Affine(Module):
    """An edit: value * scale + bias where the mask says so, and elsewhere the same bits."""

    scale: Float[Tensor, " d"]
    bias: Float[Tensor, " d"]
    where: Bool[Tensor, "batch context 1"]

    def __init__(self, model: Model, site: Site, shape: tuple[int, int]) -> None:
        super().__init__()
        as_stored = {"dtype": model.lm.dtype, "device": model.device}
        self.register_buffer("scale", torch.ones(model.d_at(site), **as_stored))
        self.register_buffer("bias", torch.zeros(model.d_at(site), **as_stored))
        self.register_buffer("where", torch.zeros(*shape, 1, dtype=torch.bool, device=model.device))

    def forward(self, value: Tensor) -> Tensor:
        """Edit a value."""
        rows, positions = _within(value, self.where)
        where = self.where[:rows, :positions]
        return torch.where(where, value * self.scale + self.bias, value)

    @torch.no_grad()
    def write(
        self, site: Site, scale: Number, bias: Number, positions: Sequence[int] | None
    ) -> None:
        """Change the edit; all is checked before anything changes."""
        context = self.where.shape[1]
        chosen = range(context) if positions is None else positions
        if outside := [position for position in chosen if not 0 <= position < context]:
            found = f"position {outside[0]} is outside the {context} declared"
            raise ConfigError(f"site {site}", found, f"use 0 to {context - 1}")
        new = [torch.as_tensor(number).to(self.scale) for number in (scale, bias)]
        for number in new:
            if number.shape not in ((), self.scale.shape):
                found = f"has {len(self.scale)} dimensions, the edit is of {tuple(number.shape)}"
                raise ConfigError(f"site {site}", found, "give a number, or one a dimension")
        self.scale.copy_(new[0])
        self.bias.copy_(new[1])
        self.where.zero_()
        self.where[:, list(chosen)] = True


class _Kept(Module):
    """A reading: the value is copied into a buffer and goes on."""

    values: Float[Tensor, "batch context d"]

    def __init__(self, model: Model, site: Site, shape: tuple[int, int]) -> None:
        super().__init__()
        size = (*shape, model.d_at(site))
        empty = torch.full(size, torch.nan, dtype=model.lm.dtype, device=model.device)
        self.register_buffer("values", empty)

    def forward(self, value: Tensor) -> Tensor:
        """Copy a value."""
        rows, positions = _within(value, self.values)
        self.values[:rows, :positions].copy_(value.detach())
        return value


def _refuse_inside(model: Model, site: Site) -> None:
    """Raise Unsupported for the stream that only a patch reaches; `d_at` refuses the others."""
    if model.family.named(site).kind == "resid_mid":
        found = "is reached by a patch, which torch.compile cannot trace"
        do = f"name resid_pre.{site.order[0]} and attn_out.{site.order[0]}, whose sum it is"
        raise Unsupported(f"site {site}", found, do)


def _within(value: Tensor, buffer: Tensor) -> tuple[int, int]:
    """Return the rows and positions of a value; raise ConfigError if the buffer has fewer."""
    if value.shape[0] > buffer.shape[0] or value.shape[1] > buffer.shape[1]:
        found = f"a pass of {tuple(value.shape[:2])}, taps are for {tuple(buffer.shape[:2])}"
        raise ConfigError("static taps", found, "declare the largest shape")
    return value.shape[0], value.shape[1]
