"""OpenAI's sparse_autoencoder (Gao et al. 2024): a pt with `pre_bias` and `latent_bias`.

encoder.weight (latents, d), decoder.weight (d, latents): f = relu(W (x - pre_bias) + latent_bias),
x' = decoder f + pre_bias. Where the activation is TopK the code subtracts each input's mean and
divides by its deviation first, and undoes both behind: `divided`. The file does not say its site.
"""

from dataclasses import replace

import torch

from panscope.sae.sae import Sae
from panscope.stages.exchange.divided import cancelled
from panscope.stages.exchange.foreign import Foreign, Slide, centred, section_in
from panscope.stages.exchange.hooks import ends_of

NAME = "openai"
ACTIVATIONS = ("ReLU", "TopK")


def detect(file: Foreign) -> bool:
    """Whether it has the two biases."""
    return file.path.suffix == ".pt" and file.has("pre_bias", "latent_bias", "encoder.weight")


def read(file: Foreign) -> list[Slide]:
    """Read an autoencoder with ReLU, or with TopK where its normalisation cancels."""
    activation = file.arrays.get("activation", "ReLU")
    if activation not in ACTIVATIONS:
        raise file.unknown("activation", activation, ACTIVATIONS)
    w_enc = file.take("encoder.weight", None, None).T
    d, width = w_enc.shape
    b_dec, w_dec = file.take("pre_bias", d), file.take("decoder.weight", d, width).T
    b_enc = centred(file.take("latent_bias", width), w_enc, b_dec)
    sae = Sae(w_enc, b_enc, w_dec, b_dec, torch.zeros(width), *ends_of(file, None, None))
    if activation == "ReLU":
        return [Slide(sae, {"architecture": "relu", "model": None})]
    k = file.size(section_in(file.arrays, "activation_state_dict"), "k")
    sae = cancelled(file, "TopK", replace(sae, k=k), centres=True)
    return [Slide(sae, {"architecture": "topk", "model": None})]
