"""Site: the name of one place in a model, `kind.layer`, the same from recipe to page.

| kind        | the value there                                                        |
|-------------|------------------------------------------------------------------------|
| embed       | what enters layer 0, scaling included                                  |
| resid_pre   | the residual stream entering a layer                                   |
| attn_z      | all heads concatenated, before the output projection (`att`)           |
| attn_out    | what attention adds to the residual stream, after Gemma's post-norm    |
| resid_mid   | the residual stream between attention and MLP                          |
| mlp_in_unit | `resid_mid` after the MLP's pre-norm, before the norm's gain and bias  |
| mlp_in      | what the MLP reads: after its pre-norm, with the norm's gain           |
| mlp_out     | what the MLP adds to the residual stream, after the post-norm (`mlp`)  |
| resid_post  | the residual stream leaving a layer (`res`)                            |
| logits      | the model's output, soft-cap included                                  |

In brackets: Gemma Scope's short names (Lieberum et al. 2024, arXiv:2408.05147, section 3.1).
"""

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from panscope.errors import ConfigError, NotFound, nearest

LAYER_KINDS = (
    "resid_pre",
    "attn_z",
    "attn_out",
    "resid_mid",
    "mlp_in_unit",
    "mlp_in",
    "mlp_out",
    "resid_post",
)
WHOLE_KINDS = ("embed", "logits")
KINDS = ("embed", *LAYER_KINDS, "logits")  # in the order of a forward pass


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a model; `layer` is None for the kinds that exist once."""

    kind: str
    layer: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `resid_post.12` or `embed`.

        >>> Site.parse("mlp_out.3")
        Site(kind='mlp_out', layer=3)
        """
        kind, dot, layer = text.partition(".")
        if kind not in KINDS:
            raise NotFound(f"site {text}", f"no site kind {kind!r}", nearest(kind, KINDS))
        if kind in WHOLE_KINDS:
            if dot:
                raise ConfigError(f"site {text}", f"{kind} has no layers", f"write {kind}")
            return cls(kind)
        if not layer.isdecimal():
            raise ConfigError(f"site {text}", "has no layer number", f"write {kind}.0")
        return cls(kind, int(layer))

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"{self.kind}.{self.layer}"

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: the order in which a forward pass reaches the sites."""
        if self.layer is None:
            return (-1, 0) if self.kind == "embed" else (1 << 30, 0)
        return (self.layer, KINDS.index(self.kind))


def all_sites(n_layers: int) -> tuple[Site, ...]:
    """List every site of a model in forward order."""
    layered = [Site(kind, layer) for layer in range(n_layers) for kind in LAYER_KINDS]
    return (Site("embed"), *layered, Site("logits"))


def match_sites(patterns: Iterable[str], n_layers: int) -> tuple[Site, ...]:
    """Expand names and globs such as `resid_post.*` to the sites of a model, in forward order.

    Raises NotFound for a pattern that names no site of a model with `n_layers` layers.
    """
    sites = all_sites(n_layers)
    chosen: set[Site] = set()
    for pattern in patterns:
        hits = {site for site in sites if fnmatch.fnmatchcase(str(site), pattern)}
        if not hits:
            raise _no_such_site(pattern, n_layers)
        chosen |= hits
    return tuple(sorted(chosen, key=lambda site: site.order))


def _no_such_site(pattern: str, n_layers: int) -> NotFound:
    site = Site.parse(pattern) if not set(pattern) & set("*?[") else None
    if site is not None and site.layer is not None:
        found = f"the model has {n_layers} layers"
        return NotFound(
            f"site {pattern}", found, f"use {site.kind}.0 to {site.kind}.{n_layers - 1}"
        )
    kind = pattern.partition(".")[0]
    return NotFound(f"site {pattern}", "matches no site", nearest(kind, KINDS))
