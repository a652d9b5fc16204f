"""sparsify (EleutherAI): `<hookpoint>/sae.safetensors` and `cfg.json`.

encoder.weight (latents, d), encoder.bias, W_dec (latents, d), b_dec, perhaps W_skip (d, d):
f = the k largest of relu(W (x - b_dec) + b), x' = f W_dec + b_dec + W_skip x; a transcoder does not
subtract b_dec. Hookpoints are modules below the model: `layers.5` is a layer's output,
`layers.5.mlp` its MLP's, which in Gemma is not what is added to the stream: say --site there.
"""

import re
from pathlib import Path

import torch
from safetensors.torch import save

from panscope.errors import Unsupported
from panscope.files import write_bytes, write_json
from panscope.sae.sae import Sae
from panscope.stages.exchange.foreign import Facts, Foreign, Slide, centred, text_in
from panscope.stages.exchange.hooks import ends_of
from panscope.stages.exchange.leaving import Leaving

NAME = "sparsify"
ACTIVATIONS = ("topk",)
SUBLAYERS = {"": "resid_post", "mlp": "mlp_out", "attn": "attn_out", "self_attn": "attn_out"}
SUBLAYERS |= {"attention": "attn_out"}
FOLDERS = {"resid_post": "", "mlp_out": ".mlp", "attn_out": ".self_attn"}


def detect(file: Foreign) -> bool:
    """Whether it has an encoder as a linear layer and a decoder as rows."""
    names = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")
    return file.path.suffix == ".safetensors" and file.has(*names)


def read(file: Foreign) -> list[Slide]:
    """Read a sparse coder; one that transcodes reads and writes what the user says."""
    config = file.json("cfg.json")
    if (activation := config.get("activation", "topk")) not in ACTIVATIONS:
        raise file.unknown("activation", activation, ACTIVATIONS)
    if config.get("signed"):  # of versions before 1: the k largest of either sign
        found = "keeps latents below zero too, which no Sae here does"
        raise Unsupported(f"{file.path}: signed", found, "read one with signed = false")
    encoder = file.take("encoder.weight", None, None)
    width, d = encoder.shape
    w_dec, b_dec = file.take("W_dec", width, d), file.take("b_dec", d)
    b_enc, k = file.take("encoder.bias", width), file.size(config, "k")
    b_enc = b_enc if config.get("transcode") else centred(b_enc, encoder.T, b_dec)
    skip = file.take("W_skip", d, d) if "W_skip" in file.arrays else None
    if config.get("transcode") and not file.ends.writes:
        raise file.nameless("what its transcoder writes")
    ends = ends_of(file, _hook(file), None)
    sae = Sae(encoder.T, b_enc, w_dec, b_dec, torch.zeros(width), *ends, k=k, skip=skip)
    return [Slide(sae, {"architecture": "topk", "model": _model(file)})]


def _hook(file: Foreign) -> str | None:
    """Make a site of the folder's name; None for Gemma's sub-layers and for what has none."""
    found = re.search(
        r"(?:^|/)(?:\w+\.)*(?:layers|h)\.(\d+)\.?(\w*)/", f"{file.source}/{file.name}"
    )
    kind = SUBLAYERS.get(found[2]) if found else None
    if found is None or kind is None or (found[2] and "gemma" in (_model(file) or "").lower()):
        return None
    return f"{kind}.{found[1]}"


def _model(file: Foreign) -> str | None:
    """Read the model's name from the run's configuration, a folder or two above."""
    for place in ("../config.json", "../../config.json"):
        if name := text_in(file.json(place), "model"):
            return name
    return None


def write(sae: Sae, leaving: Leaving, folder: Path) -> Path:
    """Write a TopK Sae; whatever has thresholds is refused."""
    if sae.k is None:
        do = "train topk, or choose saelens, gemma_scope or dictionary_learning"
        raise Unsupported(leaving.sae, f"has no k, and {NAME} holds TopK alone", do)
    reads, writes = leaving.one_of_each(sae, NAME)
    leaving.refuse_thresholds(sae, NAME)
    d_in, d_out = len(sae.w_enc), len(sae.b_dec)
    if d_in != d_out:
        found = f"reads {d_in} numbers and writes {d_out}"
        raise Unsupported(leaving.sae, found, f"{NAME} holds one size: choose saelens")
    transcodes = reads != writes
    b_enc = sae.b_enc if transcodes else centred(sae.b_enc, sae.w_enc, -sae.b_dec)
    tensors = {"encoder.weight": sae.w_enc.T, "encoder.bias": b_enc}
    tensors |= {"W_dec": sae.w_dec, "b_dec": sae.b_dec}
    tensors |= {} if sae.skip is None else {"W_skip": sae.skip}
    _, _, name = leaving.sae.partition("/")
    path = folder / name / _folder(leaving, reads.kind, reads.layer) / "sae.safetensors"
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    write_json(path.parent / "cfg.json", _config(sae, transcodes))
    return path


def _folder(leaving: Leaving, kind: str, layer: int | None) -> str:
    if kind not in FOLDERS or layer is None:
        found = f"is of {kind}, which is no module's output"
        raise Unsupported(leaving.sae, found, f"export Saes of {', '.join(FOLDERS)}")
    return f"layers.{layer}{FOLDERS[kind]}"


def _config(sae: Sae, transcodes: bool) -> Facts:
    return {
        "activation": "topk",
        "expansion_factor": 1,  # not used where num_latents is given
        "normalize_decoder": False,
        "num_latents": sae.width,
        "k": sae.k,
        "multi_topk": False,
        "skip_connection": sae.skip is not None,
        "transcode": transcodes,
        "d_in": len(sae.w_enc),
    }
