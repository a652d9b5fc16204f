"""Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors` below it.

encoder.weight (latents, d), encoder.bias, decoder.weight (d, latents), decoder.bias, in bfloat16,
and one threshold for all, on activations times s = sqrt(d) / their mean norm. We read what SAELens
6 does: s goes into the weights and the threshold is multiplied by it. That last step we could not
check against the released files. Its successor is `llamascopium`.
"""

import math

import torch

from panscope.sae.sae import Sae
from panscope.stages.exchange.foreign import Foreign, Slide, section_in, text_in
from panscope.stages.exchange.hooks import ends_of

NAME = "llama_scope"
CONFIG = "../hyperparams.json"


def detect(file: Foreign) -> bool:
    """Whether it has two linear layers and hyperparameters above."""
    linear = ("encoder.weight", "decoder.weight", "decoder.bias")
    is_linear = file.path.suffix == ".safetensors" and file.has(*linear)
    return is_linear and bool(file.json(CONFIG))


def read(file: Foreign) -> list[Slide]:
    """Read an autoencoder."""
    config = file.json(CONFIG)
    w_enc = file.take("encoder.weight", None, None).T
    d, width = w_enc.shape
    b_enc, w_dec = file.take("encoder.bias", width), file.take("decoder.weight", d, width).T
    norms = section_in(config, "dataset_average_activation_norm")
    scale = math.sqrt(d) / file.positive(norms, "in")
    jump = file.positive(config, "jump_relu_threshold")
    sae = Sae(
        w_enc * scale,
        b_enc,
        w_dec / scale,
        file.take("decoder.bias", d) / scale,
        torch.full((width,), jump * scale),
        *ends_of(file, text_in(config, "hook_point_in"), None),
    )
    return [Slide(sae, {"architecture": "jumprelu", "model": "meta-llama/Llama-3.1-8B"})]
