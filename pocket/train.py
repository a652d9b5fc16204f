"""Train the pocket model: a Gemma 2 of five million parameters, in minutes on a GPU.

    python pocket/train.py CORPUS OUT [--tokens 400_000_000] [--batch-tokens 49_152] [--device cuda]

On two cores, 15 million tokens in batches of 6,144 take 40 minutes and make what can be used too.

Run again with the same OUT, it resumes at its last checkpoint, at most five minutes old, and ends
where it would have ended. OUT/model is the folder that ships.

1. Train the tokenizer, and encode the training text as one row of ids (both are kept in OUT).
2. Learn from rows cut at random places, so that some text is read twice and some never: 128 ids for
   the first three quarters of the tokens, then 256, where the sliding window of 128 first matters.
3. Hidden matrices by Muon, the embedding and the norms by AdamW; the learning rates rise, stay,
   and fall to nothing over the second half. Products in bf16.

The defaults made the weights in the package. Sampling and measuring have scripts of their own.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import Gemma2Config, Gemma2ForCausalLM

import shipped
from corpus import BOS_ID, N_PIECES, token_row, train_tokenizer
from panscope.files import replacing

CHECKPOINT_SECONDS = 300
REPORT_STEPS = 20  # a report waits for the GPU, which then waits for the next step's orders


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the corpus."""

    tokens: int = 400_000_000
    batch_tokens: int = 49_152
    short_context: int = 128
    long_context: int = 256
    short_share: float = 0.75
    muon_lr: float = 0.02
    adam_lr: float = 4e-3
    warmup_steps: int = 100
    decay_share: float = 0.5
    seed: int = 0

    def context_at(self, seen_tokens: int) -> int:
        early = seen_tokens < self.short_share * self.tokens
        return self.short_context if early else self.long_context

    def lr_scale_at(self, seen_tokens: int) -> float:
        """Linear warm-up, a plateau, and a linear decay to nothing."""
        share = seen_tokens / self.tokens
        rise = (seen_tokens / self.batch_tokens + 1) / self.warmup_steps
        return min(1.0, rise, (1 - share) / self.decay_share)


def pocket_config() -> Gemma2Config:
    return Gemma2Config(
        vocab_size=N_PIECES,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        query_pre_attn_scalar=64,
        sliding_window=128,
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=BOS_ID,
        attn_implementation="eager",  # the soft-cap lives only in the eager body
    )


def optimisers(model: Gemma2ForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_lr, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rows_at(row: np.ndarray, seen: int, n_rows: int, context: int, recipe: Recipe) -> torch.Tensor:
    """Cut `n_rows` sequences of `context` ids at random places of the row; each begins with BOS.

    The places depend on the seed and on `seen` alone, so a resumed run draws what it would have.
    """
    rng = np.random.default_rng((recipe.seed, seen))
    starts = rng.integers(0, len(row) - context, n_rows)
    ids = np.stack([row[start : start + context] for start in starts]).astype(np.int64)
    ids[:, 0] = BOS_ID
    return torch.from_numpy(ids)


def mean_loss(forward: Callable[..., Any], ids: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats per predicted token, products in bf16."""
    with torch.autocast(ids.device.type, torch.bfloat16):
        logits = forward(ids, use_cache=False).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


@dataclasses.dataclass
class Run:
    """The model being trained, its two optimisers, and how many tokens they have seen."""

    model: Gemma2ForCausalLM
    opts: list[torch.optim.Optimizer]
    seen: int = 0


def begin(config: Gemma2Config, recipe: Recipe, device: str) -> Run:
    torch.manual_seed(recipe.seed)
    model = Gemma2ForCausalLM(config).to(device)
    return Run(model, optimisers(model, recipe))


def save(run: Run, checkpoint: Path) -> None:
    opts = [opt.state_dict() for opt in run.opts]
    with replacing(checkpoint) as temporary:
        torch.save({"model": run.model.state_dict(), "opts": opts, "seen": run.seen}, temporary)


def resume_(run: Run, checkpoint: Path) -> None:
    """Put the run where `save` was called; the places it will draw follow from `seen`."""
    state = torch.load(checkpoint, weights_only=True, map_location=run.model.device)
    run.model.load_state_dict(state["model"])
    for opt, saved in zip(run.opts, state["opts"], strict=True):
        opt.load_state_dict(saved)
    run.seen = state["seen"]


def step_(run: Run, forward: Callable[..., Any], row: np.ndarray, recipe: Recipe) -> torch.Tensor:
    """Learn from one batch and return its loss; `forward` is the run's model, compiled or not."""
    for opt, base in zip(run.opts, (recipe.muon_lr, recipe.adam_lr), strict=True):
        opt.param_groups[0]["lr"] = base * recipe.lr_scale_at(run.seen)
    context = recipe.context_at(run.seen)
    ids = rows_at(row, run.seen, recipe.batch_tokens // context, context, recipe)
    loss = mean_loss(forward, ids.to(run.model.device))
    loss.backward()
    for opt in run.opts:
        opt.step()
        opt.zero_grad()
    run.seen += ids.numel()
    return loss


def train(
    row: np.ndarray, out: Path, recipe: Recipe, config: Gemma2Config, device: str = "cpu"
) -> Gemma2ForCausalLM:
    """Train to the last token of the recipe, with checkpoints on the way; resume at the last."""
    run, checkpoint = begin(config, recipe, device), out / "checkpoint.pt"
    if checkpoint.exists():
        resume_(run, checkpoint)
    forward = torch.compile(run.model)
    first_seen, n_steps, started, written = run.seen, 0, time.monotonic(), time.monotonic()
    while run.seen < recipe.tokens:
        loss = step_(run, forward, row, recipe)
        n_steps, ended = n_steps + 1, run.seen >= recipe.tokens
        if n_steps % REPORT_STEPS == 0 or ended:
            report(out, run.seen, loss, (run.seen - first_seen) / (time.monotonic() - started))
        if ended or time.monotonic() - written > CHECKPOINT_SECONDS:
            save(run, checkpoint)
            written = time.monotonic()
    return run.model


def report(out: Path, seen: int, loss: torch.Tensor, tokens_per_second: float) -> None:
    """Append one line of progress; the loss is in bits a token."""
    bits = round(loss.item() / math.log(2), 4)
    line = {"seen_tokens": seen, "bits": bits, "tokens_per_second": round(tokens_per_second)}
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")


def load_or_train_tokenizer(corpus: Path, out: Path) -> Tokenizer:
    path = out / "tokenizer.json"
    if not path.exists():
        train_tokenizer(corpus).save(str(path))
    return Tokenizer.from_file(str(path))


def load_or_encode(corpus: Path, out: Path, tokenizer: Tokenizer) -> np.ndarray:
    path = out / "train.npy"
    if not path.exists():
        np.save(path, token_row(corpus, "train", tokenizer))
    return np.load(path, mmap_mode="r")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=Recipe.tokens)
    parser.add_argument("--batch-tokens", type=int, default=Recipe.batch_tokens)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = load_or_train_tokenizer(args.corpus, args.out)
    row = load_or_encode(args.corpus, args.out, tokenizer)
    recipe = Recipe(tokens=args.tokens, batch_tokens=args.batch_tokens)
    model = train(row, args.out, recipe, pocket_config(), args.device)
    shipped.write(model, tokenizer, args.out / "model")


if __name__ == "__main__":
    main()
