"""Gemma Scope 1: `params.npz`, and everything else in its path.

    google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz
    google/gemma-scope-2b-pt-res/embedding/width_4k/average_l0_111/params.npz

W_enc (d, latents), W_dec (latents, d), b_enc, b_dec, threshold: z = x W_enc + b_enc,
f = relu(z) where z > threshold, x' = f W_dec + b_dec, on raw activations (Lieberum et al. 2024,
arXiv:2408.05147, appendix B). Transcoders read `mlp_in_unit`, the norm's output without its gain
(appendix C). Saes of the embedding were trained before its scaling by sqrt(d), our `embed` stands
behind it, so that is folded in.
"""

import math
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from panscope.errors import Unsupported
from panscope.files import replacing
from panscope.sae.sae import Sae
from panscope.stages.exchange.foreign import Foreign, Slide
from panscope.stages.exchange.hooks import ends_of
from panscope.stages.exchange.leaving import Leaving

NAME = "gemma_scope"
ARRAYS = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
THEIRS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
SITES = {
    "res": ("resid_post", None),
    "mlp": ("mlp_out", None),
    "att": ("attn_z", None),
    "transcoders": ("mlp_in_unit", "mlp_out"),
}
CANONICAL_L0 = 100


def detect(file: Foreign) -> bool:
    """Whether it is an npz of these arrays."""
    return file.path.suffix == ".npz" and {name.lower() for name in file.arrays} >= set(ARRAYS)


def read(file: Foreign) -> list[Slide]:
    """Read a Sae; the path says which site and model it is of, or the user does."""
    names = {name.lower(): name for name in file.arrays}
    w_enc = file.take(names["w_enc"], None, None)
    width = w_enc.shape[1]
    b_enc = file.take(names["b_enc"], width)
    w_dec = file.take(names["w_dec"], width, None)
    b_dec = file.take(names["b_dec"], w_dec.shape[1])
    threshold = file.take(names["threshold"], width).clamp_min(0)  # f is a relu's
    if "scaling_factor" in names and bool((file.take(names["scaling_factor"], width) != 1).any()):
        raise Unsupported(f"{file.path}: scaling_factor", "is not 1", "fold it into W_dec")
    reads, writes = ends_of(file, *_ends(file), _layer(file))
    sae = Sae(w_enc, b_enc, w_dec, b_dec, threshold, reads, writes)
    facts = {"architecture": "jumprelu", "model": _model(file), "l0": _l0(file)}
    return [Slide(_behind_scaling(sae) if reads[0].kind == "embed" else sae, facts)]


def canonical(names: list[str]) -> list[str]:
    """Return of each `layer/width` the file whose mean L0 is closest to 100.

    That is what SAELens' ids `layer_20/width_16k/canonical` mean.
    """
    by_width: dict[str, list[tuple[float, str]]] = {}
    for name in names:
        if found := re.search(r"(.*)/average_l0_(\d+)/", name):
            by_width.setdefault(found[1], []).append((abs(int(found[2]) - CANONICAL_L0), name))
    return [min(found)[1] for found in by_width.values()]


def write(sae: Sae, leaving: Leaving, folder: Path) -> Path:
    """Write a Sae to where the release would have it, below `res`, `mlp`, `att`, `transcoders`."""
    leaving.refuse_k(sae, NAME)
    leaving.refuse_skip(sae, NAME)
    leaving.refuse_negative_thresholds(sae, NAME)
    reads, writes = leaving.one_of_each(sae, NAME)
    kinds = (reads.kind, None if reads == writes else writes.kind)
    short = next((short for short, known in SITES.items() if known == kinds), None)
    if short is None or reads.layer is None or reads.layer != writes.layer:
        do = "export Saes of resid_post, mlp_out, attn_z, or from mlp_in_unit to mlp_out"
        raise Unsupported(leaving.sae, f"is of a site that {NAME} does not have", do)
    place = f"{short}/layer_{reads.layer}/width_{_width(sae.width)}/average_l0_{leaving.l0():.0f}"
    path = folder / place / "params.npz"
    with replacing(path) as temporary, temporary.open("wb") as opened:
        np.savez(opened, allow_pickle=False, **_arrays(sae))
    return path


def _arrays(sae: Sae) -> dict[str, NDArray[np.float32]]:
    by_name = zip(THEIRS, ARRAYS, strict=True)
    return {theirs: np.ascontiguousarray(getattr(sae, ours).numpy()) for theirs, ours in by_name}


def _behind_scaling(sae: Sae) -> Sae:
    """Let a Sae of the embedding read and write it times sqrt(d).

    SAELens leaves b_dec as it is, and its reconstruction is off by (sqrt(d) - 1) b_dec.
    """
    scale = math.sqrt(len(sae.w_enc))
    weights = (sae.w_enc / scale, sae.b_enc, sae.w_dec * scale, sae.b_dec * scale)
    return Sae(*weights, sae.threshold, sae.reads, sae.writes)


def _ends(file: Foreign) -> tuple[str | None, str | None]:
    if re.search(r"(^|/)embedding/", file.name):
        return "embed", None
    found = re.search(r"(?:^|[-/])(res|mlp|att|transcoders)(?:/|$)", f"{file.source}/{file.name}")
    return SITES[found[1]] if found else (None, None)


def _layer(file: Foreign) -> int | None:
    found = re.search(r"layer_(\d+)", f"{file.source}/{file.name}")
    return int(found[1]) if found else None


def _l0(file: Foreign) -> float | None:
    found = re.search(r"average_l0_(\d+)", f"{file.source}/{file.name}")
    return float(found[1]) if found else None


def _model(file: Foreign) -> str | None:
    found = re.search(r"gemma-scope-(\w+)-(pt|it)", file.source)
    if not found:
        return None
    return f"google/gemma-2-{found[1]}" + ("-it" if found[2] == "it" else "")


def _width(width: int) -> str:
    if width >= 1 << 20 and width % (1 << 20) == 0:
        return f"{width >> 20}m"
    return f"{width // 1000}k" if width >= 1000 else str(width)
