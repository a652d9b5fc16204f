"""What activations take on disk, site by site, and what it takes to make them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from panscope.errors import ConfigError
from panscope.plan.work import Wanted
from panscope.sites import Site, match_sites

TYPES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
"""Bytes a number; int8 needs its scales besides."""
COLUMN_BYTES = 12
"""A token's id, document and position, once for all sites."""


@dataclass(frozen=True, slots=True)
class Held:
    """The activations of one site in a store."""

    site: str
    d: int
    tokens: int

    def size(self, dtype: str) -> int:
        """Return their bytes."""
        return self.tokens * self.d * TYPES[dtype]


def held(wanted: Wanted) -> tuple[Held, ...]:
    """List what a store of the recipe holds, or would hold if training does not read one.

    A store that training reads holds what `[harvest]` says; otherwise it is, at each site, what the
    longest of its Saes is trained on. Raises ConfigError for a trained site that it would lack.
    """
    recipe, shape = wanted.recipe, wanted.shape
    if recipe.source == "store":
        sites = match_sites(recipe.harvest.sites, shape.n_layers)
        if lacking := next((site for site in wanted.d_at if site not in sites), None):
            raise ConfigError("harvest.sites", f"lacks {lacking}, which is trained", "add it")
        return tuple(Held(str(s), shape.d_at(s), recipe.harvest.tokens) for s in sites)
    longest = dict.fromkeys(wanted.d_at, 0)
    for spec in wanted.specs:
        for site in (*spec.reads, *spec.writes):
            longest[site] = max(longest[site], wanted.tokens_of(spec))
    return tuple(Held(str(site), wanted.d_at[site], n) for site, n in longest.items())


def columns(store: Sequence[Held]) -> int:
    """Return the bytes of what a store says of its tokens."""
    return COLUMN_BYTES * max(site.tokens for site in store)


def harvest(wanted: Wanted, store: Sequence[Held]) -> float:
    """Return the operations of the one pass that fills a store, shorter where sites want less."""
    lengths = sorted({0, *(site.tokens for site in store)})
    return sum(
        (end - begin) * wanted.forward(Site.parse(s.site) for s in store if s.tokens >= end)
        for begin, end in itertools.pairwise(lengths)
    )
