"""SAELens, version 6 and the flat configurations before it: `cfg.json`, `sae_weights.safetensors`.

W_enc (d_in, latents), W_dec (latents, d_out), b_enc, b_dec; by architecture threshold, W_skip
(d_out, d_in), or b_gate, b_mag, r_mag. `apply_b_dec_to_input` subtracts b_dec from the input;
`rescale_acts_by_decoder_norm` has TopK compare latents times the norms of their decoder rows.
What the input is divided by token by token (layer_norm, constant_norm_rescale) is `divided`; the
scale of `expected_average_only_in` stands in
`activation_scaler.json` beside checkpoints: sae(s x) / s.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from panscope import __version__
from panscope.errors import Unsupported
from panscope.files import write_bytes, write_json
from panscope.sae.sae import Sae
from panscope.sites import Site
from panscope.stages.exchange.divided import cancelled
from panscope.stages.exchange.foreign import (
    Facts,
    Foreign,
    Slide,
    centred,
    number_in,
    section_in,
    text_in,
)
from panscope.stages.exchange.hooks import ends_of, hook_of
from panscope.stages.exchange.leaving import Leaving

NAME = "saelens"
TOPK = ("topk",)
THRESHOLDS = ("jumprelu", "jumprelu_transcoder", "jumprelu_skip_transcoder")
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
BY_TOKEN = ("layer_norm", "constant_norm_rescale")
BATCHTOPK = ("batchtopk", "matryoshka_batchtopk")
KNOWN = ("standard", "gated", *TOPK, *THRESHOLDS, *TRANSCODERS[:2], *BATCHTOPK)
VERSION = "6.0.0"
"""The version whose configuration is written: the first of this shape."""


def detect(file: Foreign) -> bool:
    """Whether it has SAELens' arrays and a configuration that counts latents as `d_sae`."""
    return (
        file.path.suffix == ".safetensors"
        and file.has("W_dec", "b_dec")
        and "d_sae" in file.json("cfg.json")
    )


def read(file: Foreign) -> list[Slide]:
    """Read a Sae of any architecture whose latents depend on nothing but their token."""
    config = _modern(file.json("cfg.json"))
    architecture = config.get("architecture", "standard")
    if architecture not in KNOWN:
        raise file.unknown("architecture", architecture, KNOWN)
    meta = section_in(config, "metadata")
    writes = text_in(meta, "hook_name_out") if architecture in TRANSCODERS else None
    ends = ends_of(file, text_in(meta, "hook_name"), writes)
    sae, how = _assembled(file, config, architecture, ends), config["normalize_activations"]
    if how in BY_TOKEN and architecture not in TRANSCODERS:
        sae, how = cancelled(file, f"{how}", sae, centres=how == "layer_norm"), "none"
    scale = _scale(file, how, architecture)
    if scale != 1:
        w_dec, b_dec = sae.w_dec / scale, sae.b_dec / scale
        sae = replace(sae, w_enc=sae.w_enc * scale, w_dec=w_dec, b_dec=b_dec)
    if architecture in TOPK + BATCHTOPK and config.get("rescale_acts_by_decoder_norm"):
        sae = _in_norms(sae, scale)
    texts = {"model": text_in(meta, "model_name"), "text": text_in(meta, "dataset_path")}
    l0 = number_in(meta, "l0")
    return [Slide(sae, {"architecture": _ours(architecture), "l0": l0, **texts})]


def _modern(config: Facts) -> dict[str, Any]:
    """Bring the flat configuration of versions before 6 to today's shape, with its defaults."""
    if "metadata" in config:
        return {"apply_b_dec_to_input": True, "normalize_activations": "none", **config}
    renamed = {"hook_point": "hook_name", "activation_fn": "activation_fn_str"}
    flat = {renamed.get(key, key): value for key, value in config.items()}
    flat = {"apply_b_dec_to_input": True, "architecture": "standard", **flat}
    if flat.get("activation_fn_str", "relu") == "topk":  # of the architecture "standard"
        flat |= {"architecture": "topk", **section_in(flat, "activation_fn_kwargs")}
    normalised = flat.get("normalize_activations")
    words = {True: "expected_average_only_in", False: "none", None: "none"}
    is_old = normalised is None or isinstance(normalised, bool)
    flat["normalize_activations"] = words[normalised] if is_old else normalised
    return {**flat, "metadata": flat}


def _assembled(
    file: Foreign, config: Facts, architecture: str, ends: tuple[tuple[Site], tuple[Site]]
) -> Sae:
    w_enc, w_dec, b_dec = _matrices(file, config, architecture in TRANSCODERS)
    gain, b_enc, threshold = _encoder(file, architecture, w_enc.shape[1])
    w_enc = w_enc if gain is None else w_enc * gain
    if config["apply_b_dec_to_input"] and architecture not in TRANSCODERS:
        b_enc = centred(b_enc, w_enc, b_dec)
    if "scaling_factor" in file.arrays:  # of the finetuning before version 6: on the way out
        w_dec = w_dec * file.take("scaling_factor", len(w_dec))[:, None]
    skips = "skip" in architecture
    skip = file.take("W_skip", w_dec.shape[1], len(w_enc)) if skips else None
    k = file.size(config, "k") if architecture in TOPK else None
    return Sae(w_enc, b_enc, w_dec, b_dec, threshold, *ends, k=k, skip=skip)


def _matrices(file: Foreign, config: Facts, transcodes: bool) -> tuple[Tensor, Tensor, Tensor]:
    d_in, width = file.size(config, "d_in"), file.size(config, "d_sae")
    d_out = file.size(config, "d_out") if transcodes else d_in
    w_enc, w_dec = file.take("W_enc", d_in, width), file.take("W_dec", width, d_out)
    return w_enc, w_dec, file.take("b_dec", d_out)


def _encoder(file: Foreign, architecture: str, width: int) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return what multiplies the encoder's rows, its bias and its thresholds."""
    if architecture == "gated":
        gain = file.take("r_mag", width).exp()
        b_mag, b_gate = file.take("b_mag", width), file.take("b_gate", width)
        return gain, b_mag, (b_mag - gain * b_gate).clamp_min(0)
    b_enc = file.take("b_enc", width)
    if architecture in BATCHTOPK:
        return None, b_enc, file.take("topk_threshold").clamp_min(0).expand(width).contiguous()
    if architecture not in THRESHOLDS:
        return None, b_enc, torch.zeros(width)
    if "threshold" not in file.arrays and "log_threshold" in file.arrays:  # training checkpoints
        return None, b_enc, file.take("log_threshold", width).exp()
    return None, b_enc, file.take("threshold", width).clamp_min(0)  # f is a relu's


def _in_norms(sae: Sae, scale: float) -> Sae:
    """Multiply latents by the norms of their decoder rows, which become unit vectors.

    A BatchTopK's threshold is in those units already, but for the scale of the input.
    """
    norms = sae.w_dec.norm(dim=1).clamp_min(1e-8)
    w_enc, b_enc, w_dec = sae.w_enc * norms, sae.b_enc * norms, sae.w_dec / norms[:, None]
    return replace(sae, w_enc=w_enc, b_enc=b_enc, w_dec=w_dec, threshold=sae.threshold / scale)


def _scale(file: Foreign, how: object, architecture: str) -> float:
    """Return what the input is multiplied by, and the output divided."""
    if how in ("none", None):
        return 1.0
    if how != "expected_average_only_in" or architecture in TRANSCODERS:
        do = "fold it before export, or retrain with none: it differs from token to token"
        raise Unsupported(f"{file.path}: normalize_activations", f"is {how!r}", do)
    scaler = file.json("activation_scaler.json")
    if not scaler:
        do = "save the Sae for inference with SAELens, or add activation_scaler.json"
        raise Unsupported(f"{file.path}: normalize_activations", "comes without its scale", do)
    return file.positive(scaler, "scaling_factor")


def _ours(architecture: str) -> str:
    if architecture in BATCHTOPK:
        return "batch_topk"
    words = {"standard": "relu", "transcoder": "relu", "skip_transcoder": "relu"}
    return words.get(architecture, architecture.partition("_")[0])


def write(sae: Sae, leaving: Leaving, folder: Path) -> Path:
    """Write a Sae as SAELens 6 does."""
    reads, writes = leaving.one_of_each(sae, NAME)
    leaving.refuse_negative_thresholds(sae, NAME)
    architecture = _theirs(sae, leaving)
    metadata = {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": f"panscope {__version__}",
        "model_name": leaving.model,
        "hook_name": hook_of(reads),
        "prepend_bos": True,
        "exclude_special_tokens": True,
    }
    if reads != writes:
        metadata["hook_name_out"] = hook_of(writes)
    config = {
        "architecture": architecture,
        "d_in": len(sae.w_enc),
        "d_sae": sae.width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if reads.kind == "attn_z" else "none",
        "metadata": metadata,
        **({"d_out": len(sae.b_dec)} if architecture in TRANSCODERS else {}),
        **({"k": sae.k} if sae.k is not None else {}),
    }
    path = folder / leaving.sae / "sae_weights.safetensors"
    write_bytes(path, save(_tensors(sae, architecture)))
    write_json(path.parent / "cfg.json", config)
    return path


def _theirs(sae: Sae, leaving: Leaving) -> str:
    """Name the architecture that holds a Sae."""
    has_thresholds = bool((sae.threshold > 0).any())
    if sae.k is not None:
        leaving.refuse_transcoder(sae, "a topk of SAELens")
        leaving.refuse_thresholds(sae, "a topk of SAELens")
        return "topk"
    if sae.reads == sae.writes and sae.skip is None:
        return "jumprelu" if has_thresholds else "standard"
    words = ("jumprelu" if has_thresholds else "", "" if sae.skip is None else "skip", "transcoder")
    return "_".join(word for word in words if word)


def _tensors(sae: Sae, architecture: str) -> Mapping[str, Tensor]:
    tensors = {"W_enc": sae.w_enc, "W_dec": sae.w_dec, "b_enc": sae.b_enc, "b_dec": sae.b_dec}
    if architecture in THRESHOLDS:
        tensors["threshold"] = sae.threshold
    if sae.skip is not None:
        tensors["W_skip"] = sae.skip
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
