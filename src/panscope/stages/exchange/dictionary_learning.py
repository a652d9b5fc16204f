"""dictionary_learning: `ae.pt`, a state dict, and `config.json` beside it.

| dict_class             | arrays                                                          |
|------------------------|-----------------------------------------------------------------|
| AutoEncoder            | bias, encoder.weight (latents, d), encoder.bias, decoder.weight |
| AutoEncoderNew         | the same, decoder.bias for bias: none before the encoder |
| GatedAutoEncoder       | decoder_bias, r_mag, gate_bias, mag_bias, both weights          |
| JumpReluAutoEncoder    | W_enc (d, latents), b_enc, W_dec (latents, d), b_dec, threshold |
| AutoEncoderTopK        | b_dec, k, encoder.weight and .bias, decoder.weight              |
| BatchTopKSAE           | the same, and threshold, a number                               |
| MatryoshkaBatchTopKSAE | W_enc, b_enc, W_dec, b_dec, k, threshold, group_sizes           |

All but AutoEncoderNew and JumpReluAutoEncoder subtract the decoder's bias from the input. Loading
an AutoEncoder makes its decoder's columns unit vectors; so does reading it here.
"""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from panscope.files import write_bytes, write_json
from panscope.sae.sae import Sae
from panscope.sites import Site
from panscope.stages.exchange.foreign import (
    Facts,
    Foreign,
    Slide,
    centred,
    number_in,
    section_in,
    text_in,
)
from panscope.stages.exchange.hooks import ends_of
from panscope.stages.exchange.leaving import Leaving

NAME = "dictionary_learning"
Ends = tuple[tuple[Site], tuple[Site]]


def detect(file: Foreign) -> bool:
    """Whether it is a pt with the arrays of one of the classes."""
    linear = file.has("encoder.weight", "decoder.weight") and not file.has("pre_bias")
    rows = file.has("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    return file.path.suffix == ".pt" and (linear or rows)


def read(file: Foreign) -> list[Slide]:
    """Read a dictionary; which class it is stands in its configuration, or in its arrays."""
    trainer = section_in(file.json("config.json"), "trainer")
    name = text_in(trainer, "dict_class") or _class_by_arrays(file)
    if name not in CLASSES:
        raise file.unknown("dict_class", name, tuple(CLASSES))
    made, architecture = CLASSES[name]
    layer = number_in(trainer, "layer")
    sae = made(file, ends_of(file, _hook(trainer), None, None if layer is None else int(layer)))
    facts = {"architecture": architecture, "model": text_in(trainer, "lm_name")}
    return [Slide(sae, facts)]


def _class_by_arrays(file: Foreign) -> str | None:
    if file.has("group_sizes"):
        return "MatryoshkaBatchTopKSAE"
    signs = {"W_enc": "JumpReluAutoEncoder", "gate_bias": "GatedAutoEncoder"}
    signs |= {"bias": "AutoEncoder", "decoder.bias": "AutoEncoderNew"}
    return next((name for array, name in signs.items() if array in file.arrays), None)


def _hook(trainer: Facts) -> str | None:
    """Make a site of `resid_post_layer_8`, as its examples name what they train on."""
    found = re.fullmatch(
        r"(resid_post|mlp_out|attn_out)_layer_(\d+)", text_in(trainer, "submodule_name") or ""
    )
    return f"{found[1]}.{found[2]}" if found else None


def _linear(file: Foreign) -> tuple[Tensor, Tensor]:
    """Take the matrices of two linear layers, in our orientation."""
    encoder = file.take("encoder.weight", None, None)
    width, d = encoder.shape
    return encoder.T, file.take("decoder.weight", d, width).T


def _relu(file: Foreign, ends: Ends) -> Sae:
    w_enc, w_dec = _linear(file)
    d, width = w_enc.shape
    b_dec, b_enc = file.take("bias", d), file.take("encoder.bias", width)
    b_enc = centred(b_enc, w_enc, b_dec)
    return _with_unit_rows(Sae(w_enc, b_enc, w_dec, b_dec, torch.zeros(width), *ends))


def _relu_without_pre_bias(file: Foreign, ends: Ends) -> Sae:
    w_enc, w_dec = _linear(file)
    d, width = w_enc.shape
    b_dec, b_enc = file.take("decoder.bias", d), file.take("encoder.bias", width)
    return Sae(w_enc, b_enc, w_dec, b_dec, torch.zeros(width), *ends)


def _gated(file: Foreign, ends: Ends) -> Sae:
    w_enc, w_dec = _linear(file)
    d, width = w_enc.shape
    gain, b_dec = file.take("r_mag", width).exp(), file.take("decoder_bias", d)
    b_mag, b_gate = file.take("mag_bias", width), file.take("gate_bias", width)
    w_enc, threshold = w_enc * gain, (b_mag - gain * b_gate)
    shift = b_dec @ w_enc  # of the input by b_dec: both conditions move with it
    return Sae(w_enc, b_mag - shift, w_dec, b_dec, threshold.clamp_min(0), *ends)


def _jumprelu(file: Foreign, ends: Ends) -> Sae:
    w_enc, b_enc, w_dec, b_dec = _rows(file)
    threshold = file.take("threshold", len(b_enc)).clamp_min(0)  # f is a relu's
    return Sae(w_enc, b_enc, w_dec, b_dec, threshold, *ends)


def _topk(file: Foreign, ends: Ends) -> Sae:
    return replace(_by_threshold(file, ends, 0.0), k=file.count("k"))


def _batch_topk(file: Foreign, ends: Ends) -> Sae:
    return _by_threshold(file, ends, float(file.take("threshold")))


def _by_threshold(file: Foreign, ends: Ends, threshold: float) -> Sae:
    w_enc, w_dec = _linear(file)
    d, width = w_enc.shape
    b_dec, b_enc = file.take("b_dec", d), file.take("encoder.bias", width)
    thresholds = torch.full((width,), max(0.0, threshold))  # -1 until it was learnt
    return Sae(w_enc, centred(b_enc, w_enc, b_dec), w_dec, b_dec, thresholds, *ends)


def _matryoshka(file: Foreign, ends: Ends) -> Sae:
    w_enc, b_enc, w_dec, b_dec = _rows(file)
    threshold = torch.full((len(b_enc),), max(0.0, float(file.take("threshold"))))
    return Sae(w_enc, centred(b_enc, w_enc, b_dec), w_dec, b_dec, threshold, *ends)


def _rows(file: Foreign) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    w_enc = file.take("W_enc", None, None)
    d, width = w_enc.shape
    rest = file.take("b_enc", width), file.take("W_dec", width, d), file.take("b_dec", d)
    return w_enc, *rest


def _with_unit_rows(sae: Sae) -> Sae:
    norms = sae.w_dec.norm(dim=1)
    if torch.allclose(norms, torch.ones_like(norms)):  # as dictionary_learning leaves them
        return sae
    w_dec = sae.w_dec / norms[:, None]
    return replace(sae, w_enc=sae.w_enc * norms, b_enc=sae.b_enc * norms, w_dec=w_dec)


CLASSES: dict[str, tuple[Callable[[Foreign, Ends], Sae], str]] = {
    "AutoEncoder": (_relu, "relu"),
    "AutoEncoderNew": (_relu_without_pre_bias, "relu"),
    "GatedAutoEncoder": (_gated, "gated"),
    "JumpReluAutoEncoder": (_jumprelu, "jumprelu"),
    "AutoEncoderTopK": (_topk, "topk"),
    "BatchTopKSAE": (_batch_topk, "batch_topk"),
    "MatryoshkaBatchTopKSAE": (_matryoshka, "batch_topk"),
}


def write(sae: Sae, leaving: Leaving, folder: Path) -> Path:
    """Write a Sae as a JumpReluAutoEncoder, or as an AutoEncoderTopK if it has a k."""
    leaving.refuse_transcoder(sae, NAME)
    leaving.refuse_negative_thresholds(sae, NAME)
    if sae.k is None:
        name, tensors = "JumpReluAutoEncoder", _jumprelu_arrays(sae)
    else:
        leaving.refuse_thresholds(sae, NAME)
        name, tensors = "AutoEncoderTopK", _topk_arrays(sae, sae.k)
    trainer = {
        "dict_class": name,
        "activation_dim": len(sae.w_enc),
        "dict_size": sae.width,
        "layer": sae.reads[0].layer,
        "lm_name": leaving.model,
        "submodule_name": str(sae.reads[0]).replace(".", "_layer_"),
        **({"k": sae.k} if sae.k is not None else {}),  # its loader asks for it
    }
    path = folder / leaving.sae / "ae.pt"
    buffer = io.BytesIO()
    torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, buffer)
    write_bytes(path, buffer.getvalue())
    write_json(path.parent / "config.json", {"trainer": trainer})
    return path


def _jumprelu_arrays(sae: Sae) -> dict[str, Tensor]:
    arrays = {"W_enc": sae.w_enc, "b_enc": sae.b_enc, "W_dec": sae.w_dec}
    return arrays | {"b_dec": sae.b_dec, "threshold": sae.threshold}


def _topk_arrays(sae: Sae, k: int) -> dict[str, Tensor]:
    return {
        "b_dec": sae.b_dec,
        "k": torch.tensor(k, dtype=torch.int),
        "threshold": torch.tensor(-1.0),
        "encoder.weight": sae.w_enc.T,
        "encoder.bias": centred(sae.b_enc, sae.w_enc, -sae.b_dec),
        "decoder.weight": sae.w_dec.T,
    }
