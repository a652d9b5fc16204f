"""Train the pocket model: a Gemma 2 of five million parameters, on a CPU or a GPU.

    python pocket/train.py CORPUS OUT [--tokens 20_000_000] [--device cpu]

Run again with the same OUT, it resumes at its last checkpoint. Hidden matrices learn by Muon (its
orthogonalised steps reach a given loss in about two thirds of AdamW's tokens at this size), the
embedding and the norms by AdamW. The first three quarters of the tokens come in rows of 128, the
rest in rows of 256, so that the sliding window of 128 matters and the model is good to 256.
"""

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import Gemma2Config, Gemma2ForCausalLM

from corpus import BOS, BOS_ID, EOS, N_PIECES, PAD, token_row, train_tokenizer


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the corpus."""

    tokens: int = 20_000_000
    batch_tokens: int = 6144
    short_context: int = 128
    long_context: int = 256
    short_share: float = 0.75
    muon_lr: float = 0.02
    adam_lr: float = 4e-3
    warmup_share: float = 0.01
    decay_share: float = 0.5
    seed: int = 0

    def context_at(self, seen_tokens: int) -> int:
        early = seen_tokens < self.short_share * self.tokens
        return self.short_context if early else self.long_context

    def lr_scale_at(self, seen_tokens: int) -> float:
        """Linear warm-up, a plateau, and a linear decay to nothing."""
        share = seen_tokens / self.tokens
        return min(1.0, (share + 1e-4) / self.warmup_share, (1 - share) / self.decay_share)


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


def mean_loss(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats per predicted token, products in bf16."""
    with torch.autocast(ids.device.type, torch.bfloat16):
        logits = model(ids, use_cache=False).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def write_checkpoint(path: Path, state: dict[str, object]) -> None:
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def train(row: np.ndarray, out: Path, recipe: Recipe, device: str) -> Gemma2ForCausalLM:
    """Train to the last token of the recipe, a checkpoint every five minutes."""
    torch.manual_seed(recipe.seed)
    model = Gemma2ForCausalLM(pocket_config()).to(device)
    compiled = torch.compile(model)
    opts = optimisers(model, recipe)
    seen, last_write, started = 0, time.monotonic(), time.monotonic()
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["opts"], strict=True):
            opt.load_state_dict(saved)
        seen = state["seen"]
    first_seen = seen
    while seen < recipe.tokens:
        for opt, base in zip(opts, (recipe.muon_lr, recipe.adam_lr), strict=True):
            opt.param_groups[0]["lr"] = base * recipe.lr_scale_at(seen)
        context = recipe.context_at(seen)
        ids = rows_at(row, seen, recipe.batch_tokens // context, context, recipe).to(device)
        loss = mean_loss(compiled, ids)
        loss.backward()
        for opt in opts:
            opt.step()
            opt.zero_grad()
        seen += ids.numel()
        report(out, seen, loss, (seen - first_seen) / (time.monotonic() - started))
        if time.monotonic() - last_write > 300 or seen >= recipe.tokens:
            state = {"model": model.state_dict(), "opts": [o.state_dict() for o in opts]}
            write_checkpoint(checkpoint, {**state, "seen": seen})
            last_write = time.monotonic()
    return model


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


def export(model: Gemma2ForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the folder that ships: bf16 weights, config, tokenizer."""
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    described = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=Recipe.tokens)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = load_or_train_tokenizer(args.corpus, args.out)
    row = load_or_encode(args.corpus, args.out, tokenizer)
    recipe = Recipe(tokens=args.tokens)
    model = train(row, args.out, recipe, args.device)
    export(model, tokenizer, args.out / "model")


if __name__ == "__main__":
    main()
