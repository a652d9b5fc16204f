"""Where each site lives in each architecture: one table, a row a family.

A place is a module's path, relative to a layer or to the whole model, and whether the site is the
module's input, its output, at a norm its input normalised and not yet scaled, or a value inside the
module's function (`inside`). The module of `embed` and those of the layers return what enters the
next layer and nothing beside it: a pass that begins at a layer has them return its stream.

The same name means different things: `post_attention_layernorm` is Gemma's norm behind attention,
but the norm before the MLP of Llama, Qwen and GPT-NeoX. A test compares every row with the sums
that make the stream, to the bit, and with its neighbours (transformers 5).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import LayerNorm, Linear, Module
from torch.nn.functional import layer_norm

from panscope.errors import Unsupported
from panscope.sites import HEAD_KINDS, SCORE_KINDS, WHOLE_KINDS, Site


@dataclass(frozen=True, slots=True)
class Place:
    """A module's path (layered sites: below the layer; "" is the layer itself) and which end."""

    path: str
    end: Literal["input", "output", "unit", "inside"]


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture: where its layers and its sites are, and how its attention must be computed.

    `read_only` maps the kinds that an edit cannot reach to the sentence that says what can;
    `absent` those that do not exist to the reason. `attention` is a name that transformers knows as
    `attn_implementation`; None leaves the choice to transformers.
    """

    name: str
    layers: str
    places: Mapping[str, Place]
    read_only: Mapping[str, str]
    absent: Mapping[str, str] = field(default_factory=dict)
    resid_post_is: tuple[str, ...] = ("resid_mid", "mlp_out")
    """The sum that leaves a layer, in the order in which it is made: another rounds otherwise."""
    attention: str | None = "sdpa"
    gain_base: float = 0.0
    """Norms multiply by this plus their weight: Gemma's by 1 + weight."""
    has_post_norms: bool = False
    """Whether what a sub-layer adds has gone through a norm: `attn_out` is then its output."""

    def place(self, site: Site) -> Place:
        """Return the module path, from the whole model, and the end at which a site is.

        Raises Unsupported for a site that the architecture does not have.
        """
        if site.is_path:
            return _written(site)
        if site.kind in self.absent:
            why = f"does not exist in {self.name}: {self.absent[site.kind]}"
            raise Unsupported(f"site {site}", why, "name other sites")
        if site.kind not in self.places:
            found = f"nobody has said where it is in the architecture {self.name!r}"
            do = "name a module's end by its path, such as model.layers.0.output"
            raise Unsupported(f"site {site}", found, do)
        place = self.places[site.kind]
        if site.layer is None:
            return place
        path = f"{self.layers}.{site.layer}"
        return Place(f"{path}.{place.path}" if place.path else path, place.end)

    def named(self, site: Site) -> Site:
        """Return the site that has a name where a path leads, or the path's own."""
        if not site.is_path:
            return site
        layer, written = site.order[0], _written(site)
        for kind in self.places:
            known = Site(kind, None if kind in WHOLE_KINDS else layer)
            if self.place(known) == written:
                return known
        return site

    def refuse_edit(self, site: Site) -> None:
        """Raise Unsupported if an edit at a site would not reach all that reads it."""
        self.place(site)
        site = self.named(site)
        if site.kind in self.read_only:
            do = self.read_only[site.kind].format(layer=site.layer)
            raise Unsupported(f"site {site}", "can be read but not edited", do)

    def gain(self, norm: Module) -> Tensor:
        """Return what a norm multiplies by, in float32."""
        weight: Any = norm.weight
        gain: Tensor = self.gain_base + weight.float()
        return gain


def _written(site: Site) -> Place:
    """Take a path apart."""
    path, _, end = site.kind.rpartition(".")
    return Place(path, "input" if end == "input" else "output")


READ_ONLY = {"mlp_in_unit": "edit mlp_in.{layer}, which is this times the norm's gain"}
NO_CAP = "its attention scores have no soft-cap"
NO_ROTATION = "positions are added to the embedding, queries and keys are not rotated"


def _row(
    name: str,
    layers: str,
    *,
    embed: str,
    attention: str,
    attn_z: str,
    attn_out: str,
    mlp_norm: str,
    mlp_out: str,
    final_norm: str,
) -> Family:
    """Name the modules: `attn_z` is what one reads, `mlp_norm` what the MLP reads through."""
    places = {
        **dict.fromkeys((*HEAD_KINDS, *SCORE_KINDS), Place(attention, "inside")),
        "embed": Place(embed, "output"),
        "resid_pre": Place("", "input"),
        "attn_z": Place(attn_z, "input"),
        "attn_out": Place(attn_out, "output"),
        "resid_mid": Place(mlp_norm, "input"),
        "mlp_in_unit": Place(mlp_norm, "unit"),
        "mlp_in": Place(mlp_norm, "output"),
        "mlp_out": Place(mlp_out, "output"),
        "resid_post": Place("", "output"),
        "final_norm_in": Place(final_norm, "input"),
        "logits": Place("", "output"),
    }
    return _without(Family(name, layers, places, READ_ONLY), attn_scores_capped=NO_CAP)


def _without(family: Family, **reasons: str) -> Family:
    """Take kinds out of a row, and say why."""
    places = {kind: place for kind, place in family.places.items() if kind not in reasons}
    return replace(family, places=places, absent={**family.absent, **reasons})


def _gemma(name: str, root: str) -> Family:
    """What a sub-layer adds stands after its post-norm, not after the sub-layer."""
    row = _row(
        name,
        f"{root}.layers",
        embed=f"{root}.embed_tokens",  # times sqrt(d_model) already
        attention="self_attn",
        attn_z="self_attn.o_proj",
        attn_out="post_attention_layernorm",
        mlp_norm="pre_feedforward_layernorm",
        mlp_out="post_feedforward_layernorm",
        final_norm=f"{root}.norm",
    )
    return replace(row, gain_base=1.0, has_post_norms=True)


def _llama(name: str) -> Family:
    """Llama and those built like it: two pre-norms, and nothing behind a sub-layer."""
    return _row(
        name,
        "model.layers",
        embed="model.embed_tokens",
        attention="self_attn",
        attn_z="self_attn.o_proj",
        attn_out="self_attn.o_proj",
        mlp_norm="post_attention_layernorm",
        mlp_out="mlp",
        final_norm="model.norm",
    )


def _side_by_side(family: Family) -> Family:
    """Pythia's attention and MLP read the same stream: nothing is in between."""
    row = _without(family, resid_mid="attention and MLP read resid_pre side by side")
    order = ("mlp_out", "attn_out", "resid_pre")
    return replace(row, name=f"{family.name} (parallel)", resid_post_is=order)


def _soft_capped(family: Family) -> Family:
    """Gemma 2's soft-cap of attention scores lives only in the eager body."""
    places = {**family.places, "attn_scores_capped": family.places["attn_scores"]}
    return replace(family, places=places, absent={}, attention="eager")


GEMMA2 = _soft_capped(_gemma("gemma2", "model"))
GPT2 = _without(
    _row(
        "gpt2",
        "transformer.h",
        embed="transformer.drop",  # behind the sum of both embeddings
        attention="attn",
        attn_z="attn.c_proj",
        attn_out="attn",
        mlp_norm="ln_2",
        mlp_out="mlp",
        final_norm="transformer.ln_f",
    ),
    q_rot=NO_ROTATION,
    k_rot=NO_ROTATION,
)
GPT_NEOX = _row(
    "gpt_neox",
    "gpt_neox.layers",
    embed="gpt_neox.emb_dropout",
    attention="attention",
    attn_z="attention.dense",
    attn_out="post_attention_dropout",
    mlp_norm="post_attention_layernorm",
    mlp_out="post_mlp_dropout",
    final_norm="gpt_neox.final_layer_norm",
)
PARALLEL_NEOX = _side_by_side(GPT_NEOX)

FAMILIES: dict[str, Family] = {
    "gemma2": GEMMA2,
    "gemma3_text": _gemma("gemma3_text", "model"),
    "gemma3": _gemma("gemma3", "model.language_model"),  # with a vision tower beside
    "llama": _llama("llama"),
    "qwen2": _llama("qwen2"),
    "qwen3": _llama("qwen3"),
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
}
"""By the model type of a Hugging Face configuration."""


def family_of(described: Mapping[str, Any], name: str) -> Family:
    """Look the architecture of a Hugging Face configuration up.

    One that has no row gets an empty one: its sites are the ends of its modules, by their paths.
    """
    model_type = described.get("model_type")
    if not model_type:
        do = f"give it one, such as {' or '.join(FAMILIES)}"
        raise Unsupported(f"model {name}", "its config.json has no model_type", do)
    if model_type not in FAMILIES:
        return Family(model_type, "", {}, {}, attention=None)
    if model_type == "gpt_neox" and described.get("use_parallel_residual", True):
        return PARALLEL_NEOX
    return FAMILIES[model_type]


def matrix(projection: Module) -> Tensor:
    """Return a projection's weights as (d_in, d_out), float32: GPT-2 keeps them so, others not."""
    kept: Any = projection.weight
    weight: Tensor = kept.float()
    return weight.T if isinstance(projection, Linear) else weight


def unit(norm: Module, x: Tensor) -> Tensor:
    """Normalise as a norm does before its gain (and bias): x over its root mean square in float32.

    A LayerNorm takes the mean off first. The steps are the authors', in their order, so that the
    gain times this is what the norm returns.
    """
    if isinstance(norm, LayerNorm):
        return layer_norm(x, norm.normalized_shape, eps=norm.eps)
    epsilon: Any = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon  # Gemma, Llama
    x32 = x.float()
    scaled = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + epsilon)
    return scaled.type_as(x)
