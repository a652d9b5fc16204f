"""Describe one Sae on the same model and text by panscope and by SAEDashboard.

    python benchmarks/describe_whole.py --peer OTHER_PYTHON [--tokens 65536] [--width 2048]

OTHER_PYTHON is that of an environment with sae-dashboard (it needs transformers 4, so it has one of
its own). A random GPT-2 of one layer, a Sae of random directions whose threshold lets about twenty
latents fire, random tokens. Each runs in a process of its own, from loaded weights to all that it
tells of every feature; seconds do not include imports and loading.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

D, VOCAB, CONTEXT, L0, ROWS = 256, 4_096, 128, 20, 32


def prepare(folder: Path, tokens: int, width: int) -> None:
    """Write a model, a Sae and tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB, n_positions=CONTEXT, n_embd=D, n_layer=1, n_head=4, initializer_range=0.2
    )
    lm = GPT2LMHeadModel(config).eval()
    lm.save_pretrained(folder)
    ids = torch.randint(3, VOCAB, (tokens // CONTEXT, CONTEXT))
    ids[:, 0] = 2
    w_enc = torch.nn.functional.normalize(torch.randn(width, D), dim=1)
    with torch.no_grad():
        x = lm.transformer.h[0](lm.transformer.wte(ids[:8]) + lm.transformer.wpe.weight)
        x = x[0] if isinstance(x, tuple) else x
        z = x[:, 1:].reshape(-1, D) @ w_enc.T
    threshold = float(z.flatten()[: 1 << 20].quantile(1 - L0 / width))
    torch.save({"ids": ids, "w_enc": w_enc, "threshold": threshold}, folder / "given.pt")


def panscope(folder: Path) -> float:
    from panscope import files
    from panscope.events import silent
    from panscope.model.load import Config, load, pocket_file
    from panscope.model.text import Rows
    from panscope.sae.sae import Sae
    from panscope.sae.suite import KIND, Suite, write_sae
    from panscope.sites import Site
    from panscope.stages import describe

    given = torch.load(folder / "given.pt")
    ids, w_enc, threshold = given["ids"], given["w_enc"], given["threshold"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes(pocket_file(name).read_bytes())
    zeros, site = torch.zeros(len(w_enc)), (Site("resid_post", 0),)
    sae = Sae(w_enc.T, zeros, w_enc, torch.zeros(D), zeros + threshold, site, site)
    write_sae(folder / "suite", "resid_post.0/a", sae)
    fact = {"sae": "resid_post.0/a", "site": "resid_post.0", "width": len(w_enc)}
    files.seal(folder / "suite", KIND, {}, {}, {"saes": [{**fact, "scale": threshold}]})

    def rows_from(row: int) -> Iterator[Rows]:
        for first in range(row, len(ids), ROWS):
            part = ids[first : first + ROWS]
            documents = torch.arange(first, first + len(part))[:, None].expand_as(part)
            yield Rows(part, documents, part != 2, ("",) * len(part))

    settings = describe.Config(tokens=ids.numel(), batch_rows=ROWS)
    model, suite = load(Config(name=str(folder))), Suite.open(folder / "suite")
    out = folder / "atlas"
    started = time.perf_counter()
    describe.run(describe.Work(settings, model, suite, rows_from, {}, {}, out, silent))
    return time.perf_counter() - started


def sae_dashboard(folder: Path) -> float:
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner
    from sae_lens import HookedSAETransformer, JumpReLUSAE, JumpReLUSAEConfig
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
    from transformers import GPT2LMHeadModel

    given = torch.load(folder / "given.pt")
    config = HookedTransformerConfig(
        n_layers=1, d_model=D, n_heads=4, d_head=D // 4, d_mlp=4 * D, d_vocab=VOCAB, n_ctx=CONTEXT,
        act_fn="gelu_new", normalization_type="LN", device="cpu",
    )  # fmt: skip
    model = HookedSAETransformer(config)
    lm = GPT2LMHeadModel.from_pretrained(folder)
    model.load_state_dict(convert_gpt2_weights(lm, config), strict=False)
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=D, d_sae=len(given["w_enc"]), device="cpu"))
    hook = "blocks.0.hook_resid_post"
    sae.cfg.metadata.hook_name = hook
    with torch.no_grad():
        sae.W_enc.copy_(given["w_enc"].T)
        sae.W_dec.copy_(given["w_enc"])
        sae.threshold.fill_(given["threshold"])
    settings = SaeVisConfig(
        hook_point=hook, features=range(len(given["w_enc"])), minibatch_size_tokens=ROWS
    )
    started = time.perf_counter()
    SaeVisRunner(settings).run(encoder=sae, model=model, tokens=given["ids"])
    return time.perf_counter() - started


def measured(python: str, who: str, folder: Path) -> dict[str, float]:
    """Run one of the two in a process of its own."""
    command = [python, __file__, "--one", who, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer")
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--width", type=int, default=2_048)
    parser.add_argument("--one", choices=("panscope", "sae_dashboard"))
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.one:
        seconds = {"panscope": panscope, "sae_dashboard": sae_dashboard}[asked.one](asked.folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak_bytes": peak}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, asked.tokens, asked.width)
        pythons = {"panscope": sys.executable, "sae_dashboard": asked.peer}
        for who, python in pythons.items():
            if python:
                found = measured(python, who, folder)
                rate, peak = asked.width / found["seconds"], found["peak_bytes"] / 1e9
                print(
                    f"{who:>14}  {found['seconds']:8.1f} s  {rate:8.1f} features/s  {peak:.2f} GB"
                )


if __name__ == "__main__":
    main()
