"""Gemma Scope 2: `params.safetensors` and `config.json`.

    google/gemma-scope-2-1b-pt/resid_post/layer_13_width_16k_l0_medium/
    google/gemma-scope-2-1b-pt/transcoder_all/layer_17_width_16k_l0_small_affine/
    google/gemma-scope-2-1b-pt/crosscoder/layer_7_13_17_22_width_262k_l0_medium/
    google/gemma-scope-2-1b-pt/clt/width_262k_l0_medium_affine/

w_enc (d_in, latents), w_dec (latents, d_out), b_enc, b_dec, threshold, perhaps
affine_skip_connection (d_in, d_out). Transcoders read the pre-norm's output with its gain,
`mlp_in`.

Crosscoders and cross-layer transcoders have a file for each layer that is read,
`params_layer_0.safetensors` ...: w_dec (latents, layers, d) writes all layers, b_dec and the skip
connection are those of the file's own layer. What all files rebuild of a layer adds up to it. Each
file is a Sae here, a part of the whole, which writes its own layer and, as training has it, later
ones: layers before the first with weights are left out. Hooks are
`model.layers.{7,13,17,22}.output`, or with `{all}`.
"""

import re
from pathlib import PurePosixPath

import torch
from torch import Tensor

from panscope.errors import Corrupt
from panscope.sae.sae import Sae
from panscope.sites import Site
from panscope.stages.exchange.foreign import Facts, Foreign, Slide, number_in, text_in
from panscope.stages.exchange.hooks import ends_of, site_of

NAME = "gemma_scope_2"
SINGLE, CROSSING = ("sae", "transcoder"), ("crosscoder", "clt")
ARCHITECTURES = ("jump_relu",)


def detect(file: Foreign) -> bool:
    """Whether it has the arrays, in lower case, in safetensors."""
    return file.path.suffix == ".safetensors" and file.has("w_enc", "w_dec", "threshold")


def read(file: Foreign) -> list[Slide]:
    """Read an autoencoder, a transcoder, or one layer's part of what crosses layers."""
    config = file.json("config.json")
    if (kind := config.get("type", "sae")) not in SINGLE + CROSSING:
        raise file.unknown("type", kind, SINGLE + CROSSING)
    if (architecture := config.get("architecture", "jump_relu")) not in ARCHITECTURES:
        raise file.unknown("architecture", architecture, ARCHITECTURES)
    l0 = number_in(config, "l0")
    facts = {"architecture": "jumprelu", "model": _model(config), "target_l0": l0}
    if kind in SINGLE:
        return [Slide(_single(file, config), facts)]
    return [Slide(*_part(file, config, facts))]


def _single(file: Foreign, config: Facts) -> Sae:
    w_enc, b_enc, threshold = _encoder(file)
    d_in, width = w_enc.shape
    w_dec = file.take("w_dec", width, None)
    d_out = w_dec.shape[1]
    ends = ends_of(file, text_in(config, "hf_hook_point_in"), text_in(config, "hf_hook_point_out"))
    skip = _skip(file, d_in, d_out)
    return Sae(w_enc, b_enc, w_dec, file.take("b_dec", d_out), threshold, *ends, skip=skip)


def _encoder(file: Foreign) -> tuple[Tensor, Tensor, Tensor]:
    w_enc = file.take("w_enc", None, None)
    width = w_enc.shape[1]
    threshold = file.take("threshold", width).clamp_min(0)  # f is a relu's
    return w_enc, file.take("b_enc", width), threshold


def _skip(file: Foreign, d_in: int, d_out: int) -> Tensor | None:
    name = "affine_skip_connection"
    return file.take(name, d_in, d_out).T.contiguous() if name in file.arrays else None


def _part(file: Foreign, config: Facts, facts: Facts) -> tuple[Sae, Facts]:
    """Read the latents of one layer, and what they write from the first layer with weights on."""
    w_enc, b_enc, threshold = _encoder(file)
    d, width = w_enc.shape
    w_dec = file.take("w_dec", width, None, d)
    n_layers, own = w_dec.shape[1], _own(file)
    reads, writes = (
        _sites(file, config, f"hf_hook_point_{end}", n_layers) for end in ("in", "out")
    )
    if own >= n_layers:
        found = f"is the file of layer {own} and writes {n_layers} layers"
        raise Corrupt(f"{file.path}: w_dec", found, "fetch the file again")
    first = 0 if w_dec[:, :own].any() else own
    w_dec, own, writes = w_dec[:, first:], own - first, writes[first:]
    sae = Sae(
        w_enc=w_enc,
        b_enc=b_enc,
        w_dec=w_dec.flatten(1),
        b_dec=_at(own, len(writes), file.take("b_dec", d)),
        threshold=threshold,
        reads=(reads[first + own],),
        writes=writes,
        skip=None if (skip := _skip(file, d, d)) is None else _at(own, len(writes), skip),
    )
    whole = PurePosixPath(file.name).parent.as_posix()
    return sae, {**facts, "part_of": whole, "parts": n_layers}


def _own(file: Foreign) -> int:
    found = re.fullmatch(r"params_layer_(\d+)", file.path.stem)
    if found is None:
        raise file.nameless("its layer: its name must be params_layer_0.safetensors or the like")
    return int(found[1])


def _sites(file: Foreign, config: Facts, key: str, n_layers: int) -> tuple[Site, ...]:
    """Return a site a layer for a hook whose layers stand in braces."""
    hook = text_in(config, key) or ""
    found = re.fullmatch(r"([\w.]+\.)\{(all|\d+(?:,\d+)*)\}(\.[\w.]+)", hook)
    if found is None:
        raise file.nameless(f"what it reads and writes: its {key} is {hook!r}")
    before, named, behind = found.groups()
    layers = range(n_layers) if named == "all" else [int(layer) for layer in named.split(",")]
    if len(layers) != n_layers:
        found_ = f"writes {n_layers} layers where {key} names {len(layers)}"
        raise Corrupt(f"{file.path}: w_dec", found_, "fetch the file again")
    return tuple(site_of(f"{before}{layer}{behind}") for layer in layers)


def _at(number: int, of: int, block: Tensor) -> Tensor:
    """Put rows at the number-th of so many places side by side; zeros at the others."""
    zeros = torch.zeros_like(block)
    return torch.cat([block if place == number else zeros for place in range(of)])


def _model(config: Facts) -> str | None:
    """Return the model's name on the Hub: `gemma-v3-1b-pt` is google/gemma-3-1b-pt."""
    name = text_in(config, "model_name")
    if name is None:
        return None
    name = re.sub(r"-v3", "-3", name.removeprefix("google/"))
    return "google/" + (name.replace("-pt", "") if "270m" in name else name)
