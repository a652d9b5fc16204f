"""Gemma Scope 2: `params.safetensors` and `config.json`.

    google/gemma-scope-2-1b-pt/resid_post/layer_13_width_16k_l0_medium/
    google/gemma-scope-2-1b-pt/transcoder_all/layer_17_width_16k_l0_small_affine/

w_enc (d_in, latents), w_dec (latents, d_out), b_enc, b_dec, threshold, perhaps
affine_skip_connection (d_in, d_out). Transcoders read the pre-norm's output with its gain,
`mlp_in`. A crosscoder here is causal: what its latents write depends on the layer that they read,
which is no Sae of ours, and a cross-layer transcoder has a decoder a layer; both are refused.
"""

import re

from panscope.errors import Unsupported
from panscope.sae.sae import Sae
from panscope.stages.exchange.foreign import Facts, Foreign, Slide, number_in, text_in
from panscope.stages.exchange.hooks import ends_of

NAME = "gemma_scope_2"
TYPES = ("sae", "transcoder")
ARCHITECTURES = ("jump_relu",)
NOT_HELD = {
    "crosscoder": "each latent reads one layer and writes that and later ones",
    "clt": "each latent has a decoder for every later layer",
}


def detect(file: Foreign) -> bool:
    """Whether it has the arrays, in lower case, in safetensors."""
    return file.path.suffix == ".safetensors" and file.has("w_enc", "w_dec", "threshold")


def read(file: Foreign) -> Slide:
    """Read an autoencoder or a transcoder."""
    config = file.json("config.json")
    _refuse_what_is_not_held(file, str(config.get("type", "sae")))
    if (architecture := config.get("architecture", "jump_relu")) not in ARCHITECTURES:
        raise file.unknown("architecture", architecture, ARCHITECTURES)
    w_enc = file.take("w_enc", None, None)
    d_in, width = w_enc.shape
    w_dec = file.take("w_dec", width, None)
    d_out = w_dec.shape[1]
    b_enc, b_dec = file.take("b_enc", width), file.take("b_dec", d_out)
    threshold = file.take("threshold", width).clamp_min(0)  # f is a relu's
    has_skip = "affine_skip_connection" in file.arrays
    skip = file.take("affine_skip_connection", d_in, d_out).T if has_skip else None
    ends = ends_of(file, text_in(config, "hf_hook_point_in"), text_in(config, "hf_hook_point_out"))
    sae = Sae(w_enc, b_enc, w_dec, b_dec, threshold, *ends, skip=skip)
    l0 = number_in(config, "l0")
    return Slide(sae, {"architecture": "jumprelu", "model": _model(config), "target_l0": l0})


def _refuse_what_is_not_held(file: Foreign, kind: str) -> None:
    if kind in NOT_HELD:
        raise Unsupported(f"{file.path}: {kind}", NOT_HELD[kind], f"read {' or '.join(TYPES)}")
    if kind not in TYPES:
        raise file.unknown("type", kind, TYPES)


def _model(config: Facts) -> str | None:
    """Return the model's name on the Hub: `gemma-v3-1b-pt` is google/gemma-3-1b-pt."""
    name = text_in(config, "model_name")
    if name is None:
        return None
    name = re.sub(r"-v3", "-3", name.removeprefix("google/"))
    return "google/" + (name.replace("-pt", "") if "270m" in name else name)
