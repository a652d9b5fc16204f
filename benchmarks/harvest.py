"""What harvesting costs: a store of all sites against the model's forward pass alone.

    python benchmarks/harvest.py [--short] [--rounds 5] [--write]

Every layer's resid_post, mlp_out and attn_z of the pocket model and of a random Gemma 2 (6 layers,
d 512, vocabulary 32,768), the store written and synced, against the pass over the same rows without
and with the LM head. A round is one of each, by turns; medians of rounds, ratios taken round by
round. The last line is JSON.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import torch
from tables import machine, write_table
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import Gemma2Config, Gemma2ForCausalLM

from panscope.allocator import keep_freed_memory
from panscope.events import silent
from panscope.model import load
from panscope.model.families import family_of
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.stages import harvest

CONTEXT, BATCH_ROWS = 128, 8
PASSES = {"pocket": (96, 24), "random Gemma 2": (24, 8)}
"""Forward passes of a round, and of its short form."""
N_BUCKETS = 8  # the last is written when nothing is left to run beside it; a real store has more


def pocket() -> Model:
    return load.load(load.Config(device="cpu"))


def random_gemma2() -> Model:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=32_768, hidden_size=512, intermediate_size=2048, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=4, head_dim=64, attn_implementation="eager",
    )  # fmt: skip
    lm = Gemma2ForCausalLM(config).eval().requires_grad_(False)
    family, tokenizer = family_of({"model_type": "gemma2"}, "random"), Tokenizer(WordLevel({}, "?"))
    return Model(lm, tokenizer, family, "random", "", bos_id=2, special_ids=frozenset({0, 1, 2}))


MODELS: dict[str, Callable[[], Model]] = {"pocket": pocket, "random Gemma 2": random_gemma2}


def random_rows(model: Model, n_passes: int) -> list[Rows]:
    """Draw the rows of so many forward passes, each beginning with BOS."""
    generator = torch.Generator().manual_seed(0)
    shape = (n_passes, BATCH_ROWS, CONTEXT)
    ids = torch.randint(3, model.lm.config.vocab_size, shape, generator=generator)
    ids[:, :, 0] = model.bos_id
    documents = torch.zeros_like(ids[0])
    kinds = ("prose",) * BATCH_ROWS
    return [Rows(part, documents, part != model.bos_id, kinds) for part in ids]


@torch.no_grad()
def forward(model: Model, passes: list[Rows], with_head: bool) -> None:
    lm = model.lm if with_head else model.lm.base_model
    for passed in passes:
        lm(passed.ids, use_cache=False)


def harvest_all(model: Model, passes: list[Rows], folder: Path) -> None:
    def rows_from(row: int) -> Iterator[Rows]:
        return iter(passes[row // BATCH_ROWS :])

    n_tokens = sum(int(passed.mask.sum()) for passed in passes)
    bucket_tokens = max(1, len(passes) // N_BUCKETS) * BATCH_ROWS * CONTEXT
    config = harvest.Config(tokens=n_tokens, bucket_tokens=bucket_tokens, batch_rows=BATCH_ROWS)
    harvest.run(harvest.Work(config, model, rows_from, {}, folder, silent))


def measure(name: str, short: bool, n_rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every round, after one that is not counted."""
    model = MODELS[name]()
    passes = random_rows(model, PASSES[name][short])
    seconds: dict[str, list[float]] = {"forward": [], "with head": [], "harvest": []}
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        store = Path(folder) / "store"
        acts: dict[str, Callable[[], None]] = {
            "forward": lambda: forward(model, passes, with_head=False),
            "with head": lambda: forward(model, passes, with_head=True),
            "harvest": lambda: harvest_all(model, passes, store),
        }
        for number in range(1 + n_rounds):
            for act_name, act in acts.items():
                shutil.rmtree(store, ignore_errors=True)
                began = time.perf_counter()
                act()
                if number:
                    seconds[act_name].append(time.perf_counter() - began)
    return seconds


def speed(seconds: dict[str, list[float]], than: str) -> float:
    """Return the median over rounds of harvest's speed over another's."""
    pairs = zip(seconds["harvest"], seconds[than], strict=True)
    return statistics.median(b / a for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="about a minute")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="into benchmarks/README.md")
    asked = parser.parse_args()
    keep_freed_memory()  # as the command line does
    lines = [f"{machine()}, {torch.get_num_threads()} threads, {date.today().isoformat()}", ""]
    lines += ["| | forward, tokens/s | with head | harvest | of forward | of forward with head |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    ratios = {}
    for name in MODELS:
        seconds = measure(name, asked.short, asked.rounds)
        n_tokens = PASSES[name][asked.short] * BATCH_ROWS * CONTEXT
        rates = [f"{n_tokens / statistics.median(times):,.0f}" for times in seconds.values()]
        alone, headed = speed(seconds, "forward"), speed(seconds, "with head")
        lines.append(f"| {name} | {' | '.join(rates)} | {alone:.2f} | {headed:.2f} |")
        ratios[name] = {"of_forward": round(alone, 3), "of_forward_with_head": round(headed, 3)}
    table = "\n".join(lines)
    write_table("harvest", table) if asked.write else print(table)
    print(json.dumps({"harvest": ratios}))


if __name__ == "__main__":
    main()
