"""Where each site lives in each architecture: one table, a row a family.

A place is a module's path, relative to a layer or to the whole model, and whether the site is the
module's input, its output, or, at a norm, its input normalised and not yet scaled. The module of
`embed` and those of the layers return what enters the next layer and nothing beside it: a pass that
begins at a layer has them return its stream.

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
from panscope.sites import Site


@dataclass(frozen=True, slots=True)
class Place:
    """A module's path (layered sites: below the layer; "" is the layer itself) and which end."""

    path: str
    end: Literal["input", "output", "unit"]


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture: where its layers and its sites are, and how its attention must be computed.

    `read_only` maps the kinds that an edit cannot reach to the sentence that says what can;
    `absent` those that do not exist to the reason. `attention` is a name that transformers knows as
    `attn_implementation`.
    """

    name: str
    layers: str
    final_norm: str
    places: Mapping[str, Place]
    read_only: Mapping[str, str]
    absent: Mapping[str, str] = field(default_factory=dict)
    resid_post_is: tuple[str, ...] = ("resid_mid", "mlp_out")
    """The sum that leaves a layer, in the order in which it is made: another rounds otherwise."""
    attention: str = "sdpa"
    gain_base: float = 0.0
    """Norms multiply by this plus their weight: Gemma's by 1 + weight."""
    has_post_norms: bool = False
    """Whether what a sub-layer adds has gone through a norm: `attn_out` is then its output."""

    def place(self, site: Site) -> Place:
        """Return the module path, from the whole model, and the end at which a site is.

        Raises Unsupported for a site that the architecture does not have.
        """
        if site.kind in self.absent:
            why = f"does not exist in {self.name}: {self.absent[site.kind]}"
            raise Unsupported(f"site {site}", why, "name other sites")
        place = self.places[site.kind]
        if site.layer is None:
            return place
        path = f"{self.layers}.{site.layer}"
        return Place(f"{path}.{place.path}" if place.path else path, place.end)

    def refuse_edit(self, site: Site) -> None:
        """Raise Unsupported if an edit at a site would not reach all that reads it."""
        self.place(site)
        if site.kind in self.read_only:
            do = self.read_only[site.kind].format(layer=site.layer)
            raise Unsupported(f"site {site}", "can be read but not edited", do)

    def gain(self, norm: Module) -> Tensor:
        """Return what a norm multiplies by, in float32."""
        weight: Any = norm.weight
        gain: Tensor = self.gain_base + weight.float()
        return gain


# The stream is kept aside before the norm reads it: a hook there reaches the MLP branch only.
READ_ONLY = {
    "resid_mid": "edit attn_out.{layer} by the same difference",
    "mlp_in_unit": "edit mlp_in.{layer}, which is this times the norm's gain",
}


def _row(
    name: str,
    layers: str,
    *,
    embed: str,
    attn_z: str,
    attn_out: str,
    mlp_norm: str,
    mlp_out: str,
    final_norm: str,
) -> Family:
    """Name the modules: `attn_z` is what one reads, `mlp_norm` what the MLP reads through."""
    places = {
        "embed": Place(embed, "output"),
        "resid_pre": Place("", "input"),
        "attn_z": Place(attn_z, "input"),
        "attn_out": Place(attn_out, "output"),
        "resid_mid": Place(mlp_norm, "input"),
        "mlp_in_unit": Place(mlp_norm, "unit"),
        "mlp_in": Place(mlp_norm, "output"),
        "mlp_out": Place(mlp_out, "output"),
        "resid_post": Place("", "output"),
        "logits": Place("", "output"),
    }
    return Family(name, layers, final_norm, places, READ_ONLY)


def _gemma(name: str, root: str, attention: str) -> Family:
    """What a sub-layer adds stands after its post-norm, not after the sub-layer."""
    row = _row(
        name,
        f"{root}.layers",
        embed=f"{root}.embed_tokens",  # times sqrt(d_model) already
        attn_z="self_attn.o_proj",
        attn_out="post_attention_layernorm",
        mlp_norm="pre_feedforward_layernorm",
        mlp_out="post_feedforward_layernorm",
        final_norm=f"{root}.norm",
    )
    return replace(row, attention=attention, gain_base=1.0, has_post_norms=True)


def _llama(name: str) -> Family:
    """Llama and those built like it: two pre-norms, and nothing behind a sub-layer."""
    return _row(
        name,
        "model.layers",
        embed="model.embed_tokens",
        attn_z="self_attn.o_proj",
        attn_out="self_attn.o_proj",
        mlp_norm="post_attention_layernorm",
        mlp_out="mlp",
        final_norm="model.norm",
    )


def _side_by_side(family: Family) -> Family:
    """Pythia's attention and MLP read the same stream: nothing is in between."""
    return replace(
        family,
        name=f"{family.name} (parallel)",
        places={kind: place for kind, place in family.places.items() if kind != "resid_mid"},
        absent={"resid_mid": "attention and MLP read resid_pre side by side"},
        resid_post_is=("mlp_out", "attn_out", "resid_pre"),
    )


# Gemma 2's soft-cap of attention scores lives only in the eager body.
GEMMA2 = _gemma("gemma2", "model", "eager")
GPT2 = _row(
    "gpt2",
    "transformer.h",
    embed="transformer.drop",  # behind the sum of both embeddings
    attn_z="attn.c_proj",
    attn_out="attn",
    mlp_norm="ln_2",
    mlp_out="mlp",
    final_norm="transformer.ln_f",
)
GPT_NEOX = _row(
    "gpt_neox",
    "gpt_neox.layers",
    embed="gpt_neox.emb_dropout",
    attn_z="attention.dense",
    attn_out="post_attention_dropout",
    mlp_norm="post_attention_layernorm",
    mlp_out="post_mlp_dropout",
    final_norm="gpt_neox.final_layer_norm",
)
PARALLEL_NEOX = _side_by_side(GPT_NEOX)

FAMILIES: dict[str, Family] = {
    "gemma2": GEMMA2,
    "gemma3_text": _gemma("gemma3_text", "model", "sdpa"),
    "gemma3": _gemma("gemma3", "model.language_model", "sdpa"),  # with a vision tower beside
    "llama": _llama("llama"),
    "qwen2": _llama("qwen2"),
    "qwen3": _llama("qwen3"),
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
}
"""By the model type of a Hugging Face configuration."""


def family_of(described: Mapping[str, Any], name: str) -> Family:
    """Look the architecture of a Hugging Face configuration up."""
    model_type = described.get("model_type")
    if model_type not in FAMILIES:
        found = f"architecture {str(model_type)!r} is not supported"
        raise Unsupported(f"model {name}", found, f"use a model of {' or '.join(FAMILIES)}")
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
