"""Site: the name of one place in a model, `kind.layer`, the same from recipe to page.

| kind               | the value there                                                       |
|--------------------|-----------------------------------------------------------------------|
| embed              | what enters layer 0, scaling included                                 |
| resid_pre          | the residual stream entering a layer                                  |
| q k v              | queries, keys, values of each head, before any rotation               |
| q_rot k_rot        | queries and keys rotated by their positions                           |
| attn_scores        | queries times keys, scaled; before soft-cap and mask                  |
| attn_scores_capped | the scores behind Gemma 2's soft-cap, before the mask                 |
| attn_pattern       | the share of each key in what a query takes: after the softmax        |
| attn_z             | all heads concatenated, before the output projection (`att`)          |
| attn_out           | what attention adds to the residual stream, after Gemma's post-norm   |
| resid_mid          | the residual stream between attention and MLP                         |
| mlp_in_unit        | `resid_mid` after the MLP's pre-norm, before the norm's gain and bias |
| mlp_in             | what the MLP reads: after its pre-norm, with the norm's gain          |
| mlp_out            | what the MLP adds to the residual stream, after the post-norm (`mlp`) |
| resid_post         | the residual stream leaving a layer (`res`)                           |
| final_norm_in      | the residual stream that the final norm reads                         |
| logits             | the model's output, soft-cap included                                 |

In brackets: Gemma Scope's short names (Lieberum et al. 2024, arXiv:2408.05147, section 3.1).
Values are (batch, position, d); those of heads (batch, heads, position, d_head); scores and
patterns (batch, heads, query, key).

Any other place is named by the path of a module and one of its ends: `model.layers.3.mlp.output`.
"""

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from panscope.errors import ConfigError, NotFound, nearest

HEAD_KINDS = ("q", "k", "v", "q_rot", "k_rot")
SCORE_KINDS = ("attn_scores", "attn_scores_capped", "attn_pattern")
LAYER_KINDS = (
    "resid_pre",
    *HEAD_KINDS,
    *SCORE_KINDS,
    "attn_z",
    "attn_out",
    "resid_mid",
    "mlp_in_unit",
    "mlp_in",
    "mlp_out",
    "resid_post",
)
WHOLE_KINDS = ("embed", "final_norm_in", "logits")
KINDS = ("embed", *LAYER_KINDS, "final_norm_in", "logits")  # in the order of a forward pass
VECTOR_KINDS = tuple(kind for kind in KINDS if kind not in (*HEAD_KINDS, *SCORE_KINDS))
"""Those with one vector for each token."""
ENDS = (".input", ".output")


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a model; `layer` is None for the kinds that exist once, and for paths."""

    kind: str
    layer: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `resid_post.12`, `embed`, or a module's end.

        >>> Site.parse("mlp_out.3")
        Site(kind='mlp_out', layer=3)
        >>> Site.parse("model.layers.3.mlp.output").is_path
        True
        """
        if text.endswith(ENDS):
            return cls(text)
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
    def is_path(self) -> bool:
        """Whether the site is named by a module's path and end."""
        return self.kind.endswith(ENDS)

    @property
    def order(self) -> tuple[int, int, str]:
        """Sort key: the order in which a forward pass reaches the sites.

        A path's is known as far as its first number, the layer; one without comes before all.
        """
        if self.is_path:
            numbers = (int(part) for part in self.kind.split(".") if part.isdecimal())
            return (next(numbers, -1), len(KINDS), self.kind)
        if self.layer is None:
            return (-1 if self.kind == "embed" else 1 << 30, KINDS.index(self.kind), "")
        return (self.layer, KINDS.index(self.kind), "")


def all_sites(n_layers: int, kinds: Iterable[str] = VECTOR_KINDS) -> tuple[Site, ...]:
    """List every site of some kinds in a model, in forward order."""
    sites = [
        Site(kind, layer)
        for kind in kinds
        for layer in ((None,) if kind in WHOLE_KINDS else range(n_layers))
    ]
    return tuple(sorted(sites, key=lambda site: site.order))


def match_sites(patterns: Iterable[str], n_layers: int) -> tuple[Site, ...]:
    """Expand names and globs such as `resid_post.*` to the sites of a model, in forward order.

    A glob means kinds with a vector for each token; others only where it spells the kind out
    (`attn_pattern.*`). Paths are taken as they are.
    Raises NotFound for a pattern that names no site of a model with `n_layers` layers.
    """
    sites = all_sites(n_layers, KINDS)
    chosen: set[Site] = set()
    for pattern in patterns:
        is_path = pattern.endswith(ENDS) and not _is_glob(pattern)
        hits = {Site(pattern)} if is_path else {s for s in sites if _matches(s, pattern)}
        if not hits:
            raise _no_such_site(pattern, n_layers)
        chosen |= hits
    return tuple(sorted(chosen, key=lambda site: site.order))


def _matches(site: Site, pattern: str) -> bool:
    is_meant = site.kind in VECTOR_KINDS or site.kind == pattern.partition(".")[0]
    return is_meant and fnmatch.fnmatchcase(str(site), pattern)


def _no_such_site(pattern: str, n_layers: int) -> NotFound:
    site = None if _is_glob(pattern) else Site.parse(pattern)
    if site is not None and site.layer is not None:
        found = f"the model has {n_layers} layers"
        return NotFound(
            f"site {pattern}", found, f"use {site.kind}.0 to {site.kind}.{n_layers - 1}"
        )
    kind = pattern.partition(".")[0]
    return NotFound(f"site {pattern}", "matches no site", nearest(kind, KINDS))


def _is_glob(pattern: str) -> bool:
    return bool(set(pattern) & set("*?["))
