"""What reading at sites costs beside the plain forward pass, by turns in one process.

    python benchmarks/tap.py [--short] [--rounds 15] [--write]

A random Gemma 2 of six layers and eight million parameters on the CPU; 18 taps are attn_z, mlp_out
and resid_post at every layer. Ratios are medians of ratios taken round by round, to the plain pass
with and without its LM head. The last line is JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from tables import machine, write_table
from transformers import Gemma2Config, Gemma2ForCausalLM

from panscope.model import load, tap
from panscope.model.load import Model
from panscope.sites import Site

KINDS = ("attn_z", "mlp_out", "resid_post")
SHAPES = {"16 x 128": (16, 128), "1 x 16": (1, 16)}
WITH_HEAD, WITHOUT_HEAD = "plain, with head", "plain, without head"


def random_model() -> Model:
    """Make the model; its tokenizer is the pocket model's and is not used."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        attn_implementation="eager",
    )
    lm = Gemma2ForCausalLM(config).eval().requires_grad_(False)
    return replace(load.load(load.Config(device="cpu")), lm=lm, name="random")


def contenders(model: Model, ids: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Name what is timed: the authors' passes, and ours."""
    sites = [Site(kind, layer) for kind in KINDS for layer in range(model.n_layers)]
    edits = {site: (lambda value: value) for site in sites}
    return {
        WITH_HEAD: lambda: model.lm(ids),
        WITHOUT_HEAD: lambda: model.lm.base_model(ids, use_cache=False),
        "18 taps": lambda: tap.run(model, ids, sites),
        "18 taps, with logits": lambda: tap.run(model, ids, sites, with_logits=True),
        "18 taps and edits": lambda: tap.run(model, ids, sites, edits),
        "3 taps at layer 2": lambda: tap.run(model, ids, [s for s in sites if s.layer == 2]),
    }


@torch.no_grad()
def seconds(running: dict[str, Callable[[], object]], n_rounds: int) -> dict[str, list[float]]:
    """Time every contender once a round, after two rounds to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in running}
    for number in range(2 + n_rounds):
        for name, step in running.items():
            began = time.perf_counter()
            step()
            if number >= 2:
                taken[name].append(time.perf_counter() - began)
    return taken


def ratio(taken: dict[str, list[float]], name: str, to: str) -> float:
    pairs = zip(taken[name], taken[to], strict=True)
    return round(median(one / other for one, other in pairs), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="five rounds")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="into benchmarks/README.md")
    asked = parser.parse_args()
    n_rounds = 5 if asked.short else asked.rounds
    model = random_model()
    lines = [
        f"{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "",
        "| pass | tokens | ms | to plain with head | to plain without head |",
        "|---|---|---:|---:|---:|",
    ]
    ratios: dict[str, dict[str, float]] = {}
    for shape, size in SHAPES.items():
        ids = torch.randint(0, 8192, size)
        taken = seconds(contenders(model, ids), n_rounds * (1 if size[0] > 1 else 10))
        ratios[shape] = {name: ratio(taken, name, WITHOUT_HEAD) for name in taken}
        lines += [
            f"| {name} | {shape} | {1000 * median(taken[name]):.1f} "
            f"| {ratio(taken, name, WITH_HEAD):.2f} | {ratio(taken, name, WITHOUT_HEAD):.2f} |"
            for name in taken
        ]
    table = "\n".join(lines)
    write_table("tap", table) if asked.write else print(table)
    print(json.dumps({"rounds": n_rounds, "to_plain_without_head": ratios}))


if __name__ == "__main__":
    main()
