"""Load Saes with the package that their format is of; run by that package's own Python.

    python peer_reads.py saelens FOLDER ...

Takes `x` from FOLDER/x.safetensors, and writes the package's latents and reconstruction beside it.
"""

import json
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def main(form: str, folder: Path) -> None:
    x = load_file(folder / "x.safetensors")["x"]
    with torch.no_grad():
        f, x_hat = READERS[form](folder, x)
    save_file({"f": f.contiguous(), "x_hat": x_hat.contiguous()}, folder / "seen.safetensors")


def saelens(folder: Path, x: torch.Tensor) -> tuple[Any, Any]:
    from sae_lens import SAE

    sae: Any = SAE.load_from_disk(folder)
    return sae.encode(x), sae(x)


def gemma_scope(folder: Path, x: torch.Tensor) -> tuple[Any, Any]:
    """Let SAELens' loader of the release read the file, as if the Hub had sent it."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    loaders.hf_hub_download = lambda **asked: str(folder / asked["filename"])  # type: ignore[assignment]
    release = "google/gemma-scope-2b-pt-res", str(folder.relative_to(folder.parents[2]))
    _, arrays, _ = loaders.gemma_2_sae_huggingface_loader(*release)
    z = x @ arrays["W_enc"] + arrays["b_enc"]
    f = z.relu() * (z > arrays["threshold"])
    return f, f @ arrays["W_dec"] + arrays["b_dec"]


def dictionary_learning(folder: Path, x: torch.Tensor) -> tuple[Any, Any]:
    sys.modules["nnsight"] = types.ModuleType("nnsight")  # named by its buffer alone
    sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]
    from dictionary_learning.dictionary import JumpReluAutoEncoder
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    trainer = json.loads((folder / "config.json").read_text())["trainer"]
    path = str(folder / "ae.pt")
    if trainer["dict_class"] == "AutoEncoderTopK":
        sae: Any = AutoEncoderTopK.from_pretrained(path, k=trainer["k"])
    else:
        sae = JumpReluAutoEncoder.from_pretrained(path)
    f = sae.encode(x)
    return f, sae.decode(f)


def sparsify(folder: Path, x: torch.Tensor) -> tuple[Any, Any]:
    from sparsify import SparseCoder

    sae = SparseCoder.load_from_disk(folder)
    top = sae.encode(x)
    f = torch.zeros(len(x), sae.num_latents).scatter(1, top.top_indices, top.top_acts)
    return f, sae(x).sae_out


READERS = {
    reader.__name__: reader for reader in (saelens, gemma_scope, dictionary_learning, sparsify)
}

if __name__ == "__main__":
    for argument in sys.argv[2:]:
        main(sys.argv[1], Path(argument))
