"""Llamascopium (OpenMOSS, once lm-saes): `config.json` and `sae_weights.safetensors`.

    sae         W_E (d, latents), b_E, W_D (latents, d), b_D
    crosscoder  W_E (sites, d, latents), b_E (sites, latents), W_D (sites, latents, d), b_D
    clt         W_E (layers, d, latents), b_E (layers, latents), W_D.i (i + 1, latents, d), b_D.i

z = x W_E + b_E; f = z where z n passes the activation, n being 1 or, with
`sparsity_include_decoder_norm`, the norm of the latent's decoder row; x' = f W_D + b_D. JumpReLU
has log_jumprelu_threshold; TopK keeps the largest z n: latents are in that unit here. With
`dataset-wise` all this is of activations times sqrt(d) / their mean norm, which goes into the
weights.

A crosscoder sums z over its sites and has a norm at each: a latent may be active for one and not
for another. So there is a Sae for each site that is written; all read all sites. Of a cross-layer
transcoder there is one for each layer that is read, and what they rebuild adds up.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from panscope.errors import Corrupt, Unsupported
from panscope.sae.sae import Sae
from panscope.sites import Site
from panscope.stages.exchange.foreign import Facts, Foreign, Slide, text_in
from panscope.stages.exchange.hooks import ends_of, site_of

NAME = "llamascopium"
READ = ("sae", "crosscoder", "clt")
NOT_HELD = {
    "lorsa": "its latents attend: what one does at a token depends on the tokens before",
    "molt": "its latents switch matrices on, not directions",
}
ACTIVATIONS = ("relu", "jumprelu", "topk")
FOLDED = ("inference", "dataset-wise")
SMALLEST_NORM = 1e-8


class Ways(NamedTuple):
    """What a Sae is made of: raw activations in, raw units out, but for the activation."""

    w_enc: Tensor
    b_enc: Tensor
    threshold: Tensor
    norms: Tensor
    """Of decoder rows as they stand in the file."""
    w_dec: Tensor
    b_dec: Tensor
    ends: tuple[tuple[Site, ...], tuple[Site, ...]]


def detect(file: Foreign) -> bool:
    """Whether a configuration beside it names a kind of its dictionaries."""
    return file.path.suffix == ".safetensors" and "sae_type" in file.json("config.json")


def read(file: Foreign) -> list[Slide]:
    """Read an autoencoder or transcoder, a crosscoder, or a cross-layer transcoder."""
    config = file.json("config.json")
    kind = config["sae_type"]
    _refuse_what_is_not_held(file, config, kind)
    model = text_in(file.json("lm_config.json"), "model_name")
    facts: Facts = {"architecture": config.get("act_fn", "relu"), "model": model}
    if kind == "clt":
        reads = _hooks(file, config, "hook_points_in")
        writes = _hooks(file, config, "hook_points_out", len(reads))
        ways = [_layer(file, config, own, reads, writes) for own in range(len(reads))]
        whole = file.name.rpartition("/")[0] or file.source
        facts = {**facts, "part_of": whole, "parts": len(reads)}
    elif kind == "crosscoder":
        hooks = _hooks(file, config, "hook_points")
        ways = [_written(file, config, own, hooks) for own in range(len(hooks))]
    else:
        ways = [_single(file, config)]
    return [Slide(_held(file, config, way), facts) for way in ways]


def _refuse_what_is_not_held(file: Foreign, config: Facts, kind: object) -> None:
    if why := NOT_HELD.get(str(kind)):
        raise Unsupported(f"{file.path}: {kind}", why, f"read {', '.join(READ)}")
    if kind not in READ:
        raise file.unknown("sae_type", kind, READ)
    if (activation := config.get("act_fn", "relu")) not in ACTIVATIONS:
        raise file.unknown("act_fn", activation, ACTIVATIONS)
    if (how := config.get("norm_activation", "dataset-wise")) not in FOLDED:
        found = f"is {how!r}: what x is divided by differs from token to token"
        raise Unsupported(f"{file.path}: norm_activation", found, f"read {' or '.join(FOLDED)}")
    if config.get("use_glu_encoder"):
        found = "gates each latent by a second encoder, which no threshold says"
        raise Unsupported(f"{file.path}: use_glu_encoder", found, "read one without")


def _hooks(file: Foreign, config: Facts, key: str, n: int | None = None) -> list[str]:
    """Return the names that a list must have, `n` if that is given."""
    hooks, where = config.get(key), f"{file.path.parent}: {key}"
    if not isinstance(hooks, list) or not all(isinstance(hook, str) for hook in hooks):
        raise Corrupt(where, "is no list of names", "fetch the file again")
    if n not in (None, len(hooks)):
        raise Corrupt(where, f"has {len(hooks)} names for {n} layers", "fetch the file again")
    return hooks


def _single(file: Foreign, config: Facts) -> Ways:
    hook_in = text_in(config, "hook_point_in")
    hook_out = text_in(config, "hook_point_out") or hook_in
    w_enc = file.take("W_E", None, None)
    d, width = w_enc.shape
    w_dec = file.take("W_D", width, None)
    b_dec = file.take("b_D", w_dec.shape[1]) if "b_D" in file.arrays else torch.zeros(len(w_dec.T))
    read, written = _scale(file, config, hook_in, d), _scale(file, config, hook_out, d)
    return Ways(
        w_enc * read,
        file.take("b_E", width),
        _threshold(file, config, width),
        w_dec.norm(dim=1),
        w_dec / written,
        b_dec / written,
        ends_of(file, hook_in, hook_out),
    )


def _written(file: Foreign, config: Facts, own: int, hooks: list[str]) -> Ways:
    """Return a crosscoder as one site sees it: its own decoder, norms and so activations."""
    n = len(hooks)
    w_enc = file.take("W_E", n, None, None)
    _, d, width = w_enc.shape
    scales = torch.tensor([_scale(file, config, hook, d) for hook in hooks])
    w_dec, b_dec = file.take("W_D", n, width, d)[own], file.take("b_D", n, d)[own]
    return Ways(
        (w_enc * scales[:, None, None]).flatten(0, 1),
        file.take("b_E", n, width).sum(0),
        _threshold(file, config, width),
        w_dec.norm(dim=1),
        w_dec / scales[own],
        b_dec / scales[own],
        (tuple(map(site_of, hooks)), (site_of(hooks[own]),)),
    )


def _layer(file: Foreign, config: Facts, own: int, reads: list[str], writes: list[str]) -> Ways:
    """Return the latents of one layer of a cross-layer transcoder, with all that they write."""
    n = len(reads)
    w_enc = file.take("W_E", n, None, None)
    _, d, width = w_enc.shape
    decoders = [file.take(f"W_D.{to}", to + 1, width, d)[own] for to in range(own, n)]
    scales = [_scale(file, config, hook, d) for hook in writes[own:]]
    scaled = [decoder / scale for decoder, scale in zip(decoders, scales, strict=True)]
    bias = file.take(f"b_D.{own}", d) / scales[0]
    return Ways(
        w_enc[own] * _scale(file, config, reads[own], d),
        file.take("b_E", n, width)[own],
        _threshold(file, config, n, width)[own],
        torch.cat(decoders, dim=1).norm(dim=1),
        torch.cat(scaled, dim=1),
        torch.cat([bias, torch.zeros((n - own - 1) * d)]),
        ((site_of(reads[own]),), tuple(map(site_of, writes[own:]))),
    )


def _threshold(file: Foreign, config: Facts, *shape: int) -> Tensor:
    if config.get("act_fn", "relu") != "jumprelu":
        return torch.zeros(shape)
    return file.take("activation_function.log_jumprelu_threshold", *shape).exp()


def _scale(file: Foreign, config: Facts, hook: str | None, d: int) -> float:
    """Return what activations at a hook are multiplied by."""
    if config.get("norm_activation", "dataset-wise") == "inference":
        return 1.0
    norm = float(file.take(f"dataset_average_activation_norm.{hook}"))
    if norm <= 0:
        found = f"is {norm}"
        raise Corrupt(f"{file.path}: mean norm at {hook}", found, "it must be positive")
    return math.sqrt(d) / norm


def _held(file: Foreign, config: Facts, ways: Ways) -> Sae:
    """Make a Sae: the norms of comparisons go into thresholds, or into the latents of TopK."""
    w_enc, b_enc, threshold, norms, w_dec, b_dec, ends = ways
    if not config.get("sparsity_include_decoder_norm", True):
        norms = torch.ones_like(norms)
    norms = norms.clamp_min(SMALLEST_NORM)
    if config.get("act_fn") != "topk":
        return Sae(w_enc, b_enc, w_dec, b_dec, threshold / norms, *ends)
    k = file.size(config, "top_k")
    rows = w_dec / norms[:, None]
    return Sae(w_enc * norms, b_enc * norms, rows, b_dec, threshold, *ends, k=k)
