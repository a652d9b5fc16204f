"""What activations take on disk, site by site, and what it takes to make them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from panscope.errors import ConfigError
from panscope.plan.work import Wanted
from panscope.sites import Site
from panscope.stages.train.objective import TargetL0

TYPES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
"""Bytes a number; int8 needs its scales besides."""
COLUMN_BYTES = 12
"""A token's id, document and position, once for all sites."""
FIRING_BYTES = 8
"""A latent and its value, in the log of the firings that `describe` makes features from."""
COUNT_BYTES = 4
"""How many of a Sae's latents fire at a token."""
ROW_BYTES = 9
"""A token's id, document and mask there."""
PRICED_L0 = 100
"""Firings a token of a Sae whose L0 follows from a price: about that of Gemma Scope's."""


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
    recipe, model = wanted.recipe, wanted.model
    if recipe.source == "store":
        sites = model.sites(recipe.harvest.sites)
        if lacking := next((site for site in wanted.d_at if site not in sites), None):
            raise ConfigError("harvest.sites", f"lacks {lacking}, which is trained", "add it")
        return tuple(Held(str(s), model.d_at(s), recipe.harvest.tokens) for s in sites)
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


def log(wanted: Wanted) -> float:
    """Return the bytes of the log that `describe` writes, and removes when it is done.

    Of each token its firings, how many they are of each Sae, its id, document and mask.
    """
    specs = wanted.specs
    l0s = [s.penalty.target_l0 if isinstance(s.penalty, TargetL0) else PRICED_L0 for s in specs]
    a_token = FIRING_BYTES * sum(l0s) + COUNT_BYTES * len(specs) + ROW_BYTES
    return wanted.recipe.describe.tokens * a_token
