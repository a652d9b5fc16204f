"""What other libraries call the sites: paths of modules, and the names of TransformerLens.

A name is taken only where the value is the same to the bit; one that means something else, or one
thing or another by a library's options, is refused with the sentence that tells them apart.
"""

import re
from collections.abc import Iterable
from typing import Any

from panscope.errors import NotFound, Unsupported, nearest
from panscope.model.families import Family
from panscope.sites import ENDS, Site, match_sites

TRANSFORMER_LENS = {
    "hook_embed": "embed",
    "blocks.L.hook_resid_pre": "resid_pre.L",
    "blocks.L.attn.hook_pattern": "attn_pattern.L",
    "blocks.L.attn.hook_z": "attn_z.L",  # there (batch, position, head, d_head): the same numbers
    "blocks.L.hook_attn_out": "attn_out.L",
    "blocks.L.hook_resid_mid": "resid_mid.L",
    "blocks.L.ln2.hook_normalized": "mlp_in_unit.L",
    "blocks.L.hook_mlp_out": "mlp_out.L",
    "blocks.L.hook_resid_post": "resid_post.L",
}
"""Of models without processed weights (folded norms, centred writing)."""

REFUSED = {
    "blocks.L.hook_mlp_in": (
        "stands before the norm in TransformerLens, behind it in SAELens' Gemma Scope 2",
        "name resid_mid.L or mlp_in.L",
    ),
    "blocks.L.attn.hook_attn_scores": (
        "has the soft-cap and the mask in it",
        "name attn_scores.L, before both, or attn_scores_capped.L, before the mask",
    ),
    **{
        f"blocks.L.attn.hook_{theirs}": (
            "is laid out (batch, position, head, d_head)",
            f"name {ours}.L, (batch, heads, position, d_head)",
        )
        for theirs, ours in (
            *zip("qkv", "qkv", strict=True),
            ("rot_q", "q_rot"),
            ("rot_k", "k_rot"),
        )
    },
}
LAYER_NORM = (
    "is before the norm's gain where norms were folded, behind it where not",
    "name mlp_in_unit.L or mlp_in.L",
)
REFUSED_IN = {
    "gpt2": {
        "hook_embed": (
            "is without positions in TransformerLens, and embed has them",
            "name embed or transformer.wte.output",
        ),
        "blocks.L.ln2.hook_normalized": LAYER_NORM,
    },
    "gpt_neox": {"blocks.L.ln2.hook_normalized": LAYER_NORM},
    "gpt_neox (parallel)": {"blocks.L.ln2.hook_normalized": LAYER_NORM},
}


def sites(lm: Any, family: Family, n_layers: int, patterns: Iterable[str]) -> tuple[Site, ...]:
    """Expand names, globs, paths and names of TransformerLens to the sites of a model.

    A path that leads to a site with a name gives that site. They come in forward order.
    Raises NotFound for what names nothing in the model, Unsupported for what names two things.
    """
    names: list[str] = []
    for pattern in patterns:
        name = _ours(family, pattern)
        names += _ends(lm, family, name) if name.endswith(ENDS) else [name]
    return match_sites(names, n_layers)


def _ours(family: Family, name: str) -> str:
    """Translate a name of TransformerLens; return any other as it is."""
    in_layer = re.fullmatch(r"blocks\.([^.]+)(\..+)", name)
    layer, theirs = (in_layer[1], f"blocks.L{in_layer[2]}") if in_layer else ("", name)
    refused = REFUSED | REFUSED_IN.get(family.name, {})
    if theirs in refused:
        why, do = (text.replace(".L", f".{layer}") for text in refused[theirs])
        raise Unsupported(f"site {name}", why, do)
    if not in_layer:
        return TRANSFORMER_LENS.get(name, name)
    if theirs not in TRANSFORMER_LENS:
        do = nearest(theirs, TRANSFORMER_LENS).replace(".L", f".{layer}")
        raise NotFound(f"site {name}", "has no site that is the same to the bit", do)
    return TRANSFORMER_LENS[theirs].replace(".L", f".{layer}")


def _ends(lm: Any, family: Family, pattern: str) -> list[str]:
    """List the sites at the ends of the modules whose paths match; * stands for one step."""
    path, _, end = pattern.rpartition(".")
    paths = [name for name, _ in lm.named_modules() if name]
    root = family.layers.removesuffix("layers")  # Gemma 3's is longer where images are read too
    hits = _matching(path, paths) or _matching(re.sub(r"^model\.", root, path), paths)
    if not hits:
        raise NotFound(f"site {pattern}", f"no module {path}", nearest(path, paths))
    return [str(family.named(Site(f"{hit}.{end}"))) for hit in hits]


def _matching(path: str, paths: list[str]) -> list[str]:
    steps = re.escape(path).replace(r"\*", "[^.]+")
    return [name for name in paths if re.fullmatch(steps, name)]
