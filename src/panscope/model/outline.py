"""A model's outline: its modules without weights, enough to find sites and to measure them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Module

from panscope.model import aliases, ends
from panscope.model.families import Family
from panscope.model.shape import Shape, no_vector
from panscope.sites import Site


@dataclass(frozen=True, slots=True)
class Outline:
    """A model of transformers on the meta device."""

    lm: Any
    family: Family
    shape: Shape

    def sites(self, patterns: Iterable[str]) -> tuple[Site, ...]:
        """Expand names, globs and other libraries' names, as the model does."""
        return aliases.sites(self.lm, self.family, self.shape.n_layers, patterns)

    def d_at(self, site: Site) -> int:
        """Return the size of the vector that each token has at a site.

        Raises Unsupported for a site that has none.
        """
        if not site.is_path:
            return self.shape.d_at(site)
        place = self.family.place(site)
        assert place.end != "inside"
        return size_at(self.lm, self.lm.get_submodule(place.path), place.end, site)


@torch.no_grad()
def size_at(lm: Any, module: Module, end: ends.End, site: Site) -> int:
    """Read the size at a module's end off a pass over two rows of three tokens.

    On the meta device a mask is given, since making one looks at values, which are not there.
    """
    shapes: list[tuple[int, ...]] = []

    def measure(value: Any) -> Any:
        shapes.append(tuple(getattr(value, "shape", ())))
        return value

    ids = torch.zeros((2, 3), dtype=torch.int64, device=lm.device)
    mask = torch.zeros((2, 1, 3, 3), dtype=lm.dtype, device=lm.device) if ids.is_meta else None
    with ends.register(module, end, measure):
        lm(ids, attention_mask=mask, use_cache=False)
    if not shapes or len(shapes[0]) != 3 or shapes[0][:2] != (2, 3):
        raise no_vector(site, "name the end of another module")
    return shapes[0][2]
