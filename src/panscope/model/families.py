"""Where each site lives in each architecture: one table, a row a family.

A place is a module's path, relative to a layer or to the whole model, and whether the site is the
module's input, its output, or, at a norm, its input normalised and not yet scaled. The module of
`embed` and those of the layers return what enters the next layer and nothing beside it: a pass that
begins at a layer has them return its stream.

Gemma 2 (transformers 5): a layer adds `post_attention_layernorm(self_attn(input_layernorm(h)))` to
the stream, then `post_feedforward_layernorm(mlp(pre_feedforward_layernorm(h)))`, so what a
sub-layer adds stands after its post-norm, not after the sub-layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import LayerNorm, Module
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

    `read_only` maps the kinds that an edit cannot reach to the sentence that says what can.
    `attention` is a name that transformers knows as `attn_implementation`.
    """

    name: str
    layers: str
    places: Mapping[str, Place]
    read_only: Mapping[str, str]
    attention: str

    def place(self, site: Site) -> Place:
        """Return the module path, from the whole model, and the end at which a site is."""
        place = self.places[site.kind]
        if site.layer is None:
            return place
        path = f"{self.layers}.{site.layer}"
        return Place(f"{path}.{place.path}" if place.path else path, place.end)

    def refuse_edit(self, site: Site) -> None:
        """Raise Unsupported if an edit at a site would not reach all that reads it."""
        if site.kind in self.read_only:
            do = self.read_only[site.kind].format(layer=site.layer)
            raise Unsupported(f"site {site}", "can be read but not edited", do)


GEMMA2 = Family(
    name="gemma2",
    layers="model.layers",
    places={
        "embed": Place("model.embed_tokens", "output"),  # times sqrt(d_model) already
        "resid_pre": Place("", "input"),
        "attn_z": Place("self_attn.o_proj", "input"),
        "attn_out": Place("post_attention_layernorm", "output"),
        "resid_mid": Place("pre_feedforward_layernorm", "input"),
        "mlp_in_unit": Place("pre_feedforward_layernorm", "unit"),
        "mlp_in": Place("pre_feedforward_layernorm", "output"),
        "mlp_out": Place("post_feedforward_layernorm", "output"),
        "resid_post": Place("", "output"),
        "logits": Place("", "output"),
    },
    # The stream is kept aside before the norm reads it: a hook there reaches the MLP branch only.
    read_only={
        "resid_mid": "edit attn_out.{layer} by the same difference",
        "mlp_in_unit": "edit mlp_in.{layer}, which is this times the norm's gain",
    },
    attention="eager",  # the soft-cap of attention scores lives only in the eager body
)

FAMILIES: dict[str, Family] = {family.name: family for family in (GEMMA2,)}


def family_of(model_type: str, name: str) -> Family:
    """Look an architecture up by its Hugging Face model type."""
    if model_type not in FAMILIES:
        found = f"architecture {model_type!r} is not supported"
        raise Unsupported(f"model {name}", found, f"use a model of {' or '.join(FAMILIES)}")
    return FAMILIES[model_type]


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
