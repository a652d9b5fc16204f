"""Write small files with the peers' own packages, and what they compute from them.

    make peers
    .peers/bin/python tests/formats/make_fixtures.py

Each folder of `data/` holds a Sae of random weights as its package saves it, and
`seen.safetensors`: some inputs `x`, the package's own latents `f` and reconstruction `x_hat`.
Made with sae-lens 6.54.12, dictionary-learning 0.1.0, eai-sparsify 1.3.3, torch 2.13.
"""

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DATA = Path(__file__).parent / "data"
D, WIDTH, K = 6, 10, 3


def main() -> None:
    shutil.rmtree(DATA, ignore_errors=True)
    torch.manual_seed(0)
    with torch.no_grad():
        saelens()
        dictionary_learning()
        sparsify()


def inputs() -> torch.Tensor:
    return torch.randn(12, D)


def record(folder: Path, x: torch.Tensor, f: torch.Tensor, x_hat: torch.Tensor) -> None:
    seen = {"x": x.flatten(1), "f": f, "x_hat": x_hat.flatten(1)}
    save_file(
        {name: value.contiguous() for name, value in seen.items()}, folder / "seen.safetensors"
    )


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Let every parameter matter: biases too, decoder rows of several norms, thresholds above 0."""
    for name, parameter in module.named_parameters():
        parameter.normal_(0, 0.5)
        if "threshold" in name:
            parameter.abs_()
    return module


def saelens() -> None:
    from sae_lens.saes import (
        gated_sae,
        jumprelu_sae,
        standard_sae,
        topk_sae,
        transcoder,
    )

    inner, outer = "blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"
    cases: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "standard": (standard_sae.StandardSAE, standard_sae.StandardSAEConfig, {}),
        "topk": (topk_sae.TopKSAE, topk_sae.TopKSAEConfig, {"k": K}),
        "topk_rescaled": (
            topk_sae.TopKSAE,
            topk_sae.TopKSAEConfig,
            {"k": K, "rescale_acts_by_decoder_norm": True},
        ),
        "gated": (gated_sae.GatedSAE, gated_sae.GatedSAEConfig, {}),
        "jumprelu": (jumprelu_sae.JumpReLUSAE, jumprelu_sae.JumpReLUSAEConfig, {}),
        "jumprelu_uncentred": (
            jumprelu_sae.JumpReLUSAE,
            jumprelu_sae.JumpReLUSAEConfig,
            {"apply_b_dec_to_input": False},
        ),
    }
    for name, (made, config, options) in cases.items():
        keep_saelens(name, made(config(d_in=D, d_sae=WIDTH, **options)), inner)
    for skips in ("", "Skip"):
        for jumps in ("", "JumpReLU"):
            name = f"{jumps}{skips}Transcoder"
            config = getattr(transcoder, f"{name}Config")
            options = {"d_out": D, "apply_b_dec_to_input": False}
            sae = getattr(transcoder, name)(config(d_in=D, d_sae=WIDTH, **options))
            keep_saelens(name.lower(), sae, "blocks.1.hook_mlp_in", outer)
    keep_hook_z()
    keep_checkpoint()
    keep_flat()


def keep_saelens(name: str, sae: Any, hook: str, hook_out: str | None = None) -> None:
    randomised(sae)
    sae.cfg.metadata.model_name, sae.cfg.metadata.hook_name = "tiny", hook
    if hook_out:
        sae.cfg.metadata.hook_name_out = hook_out
    sae.save_model(DATA / "saelens" / name)
    x = inputs()
    record(DATA / "saelens" / name, x, sae.encode(x), sae(x))


def keep_hook_z() -> None:
    """Save a Sae that reads heads side by side: (token, 2, 3)."""
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig

    config = JumpReLUSAEConfig(d_in=D, d_sae=WIDTH, reshape_activations="hook_z")
    config.metadata.hook_name, config.metadata.model_name = "blocks.1.attn.hook_z", "tiny"
    sae = randomised(JumpReLUSAE(config))
    sae.save_model(DATA / "saelens" / "hook_z")
    x = inputs().view(12, 2, 3)
    f = sae.encode(x)
    record(DATA / "saelens" / "hook_z", x, f, sae.decode(f))


def keep_checkpoint() -> None:
    """Save a BatchTopK in training: its input is scaled, its rows have norms of their own."""
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.training.activation_scaler import ActivationScaler

    folder = DATA / "saelens" / "batchtopk_checkpoint"
    config = BatchTopKTrainingSAEConfig(
        d_in=D, d_sae=WIDTH, k=K, normalize_activations="expected_average_only_in"
    )
    config.metadata.hook_name, config.metadata.model_name = "blocks.1.hook_resid_post", "tiny"
    sae: Any = randomised(BatchTopKTrainingSAE(config))
    sae.topk_threshold.fill_(0.4)
    sae.save_model(folder)
    scaler = ActivationScaler(scaling_factor=1.7)
    scaler.save(str(folder / "activation_scaler.json"))
    from sae_lens.saes.sae import SAE

    sae.fold_activation_norm_scaling_factor(1.7)
    sae.save_inference_model(DATA / "folded")
    folded = SAE.load_from_disk(DATA / "folded")
    x = inputs()
    record(folder, x, folded.encode(x), folded(x))
    shutil.rmtree(DATA / "folded")


def keep_flat() -> None:
    """Save configurations as versions before 6 did, of weights that they name otherwise today."""
    from sae_lens.saes.sae import SAE

    for name, more in {
        "standard": {},
        "topk": {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}},
    }.items():
        folder = DATA / "saelens" / f"flat_{name}"
        shutil.copytree(DATA / "saelens" / name, folder)
        flat = {
            "d_in": D,
            "d_sae": WIDTH,
            "dtype": "float32",
            "model_name": "tiny",
            "hook_point": "blocks.1.hook_resid_post",
            "hook_point_layer": 1,
            "normalize_activations": False,
            "prepend_bos": True,
            "some_runner_setting": [1, 2],
            **more,
        }
        (folder / "cfg.json").write_text(json.dumps(flat))
        sae, x = SAE.load_from_disk(folder), inputs()
        record(folder, x, sae.encode(x), sae(x))


def dictionary_learning() -> None:
    sys.modules["nnsight"] = types.ModuleType("nnsight")  # named by its buffer alone
    sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]
    from dictionary_learning import dictionary as d
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    made = {
        "AutoEncoder": d.AutoEncoder(D, WIDTH),
        "AutoEncoderNew": d.AutoEncoderNew(D, WIDTH),
        "GatedAutoEncoder": d.GatedAutoEncoder(D, WIDTH),
        "JumpReluAutoEncoder": d.JumpReluAutoEncoder(D, WIDTH),
        "AutoEncoderTopK": top_k.AutoEncoderTopK(D, WIDTH, K),
        "BatchTopKSAE": batch_top_k.BatchTopKSAE(D, WIDTH, K),
        "MatryoshkaBatchTopKSAE": matryoshka_batch_top_k.MatryoshkaBatchTopKSAE(
            D, WIDTH, K, [4, 6]
        ),
    }
    for name, sae in made.items():
        randomised(sae)
        if "BatchTopK" in name:
            sae.threshold.fill_(0.3)
        folder = DATA / "dictionary_learning" / name
        folder.mkdir(parents=True)
        torch.save(sae.state_dict(), folder / "ae.pt")
        trainer = {"dict_class": name, "layer": 1, "lm_name": "tiny"}
        trainer |= {"submodule_name": "resid_post_layer_1"}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
        if name == "AutoEncoder":
            sae = d.AutoEncoder.from_pretrained(folder / "ae.pt")
        x = inputs()
        f = sae.encode(x)
        record(folder, x, f, sae.decode(f))


def sparsify() -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    for name, options in {
        "run": {},
        "skip": {"transcode": True, "skip_connection": True},
    }.items():
        config = SparseCoderConfig(num_latents=WIDTH, k=K, **options)
        sae = randomised(SparseCoder(D, config))
        folder = DATA / "sparsify" / name / "layers.1.mlp"
        sae.save_to_disk(folder)
        x = inputs()
        top = sae.encode(x)
        f = torch.zeros(12, WIDTH).scatter(1, top.top_indices, top.top_acts)
        record(folder, x, f, sae(x).sae_out)


if __name__ == "__main__":
    main()
