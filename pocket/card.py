"""The model card's tables and samples, written into it by the scripts that made them.

A block stands between `<!-- name -->` and `<!-- /name -->`; whatever was there is replaced.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from transformers import Gemma2Config, Gemma2ForCausalLM

from corpus import documents
from panscope.errors import NotFound
from panscope.files import write_bytes
from train import Recipe


def insert(path: Path, name: str, block: str) -> None:
    """Replace what stands in the card between the two comments of `name`."""
    if not path.is_file():
        raise NotFound(str(path), "no such file", "give the model card, pocket/README.md")
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, opened, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise NotFound(str(path), f"has no block {begin} ... {end}", "put the two comments back")
    write_bytes(path, f"{before}{begin}\n{block.strip()}\n{end}{after}".encode())


def table(head: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    """Set a Markdown table; the first column reads left, the others right."""
    rule = ("---", *("---:" for _ in head[1:]))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))


def architecture(model: Gemma2ForCausalLM) -> str:
    """What the model is, read off its configuration."""
    config: Gemma2Config = model.config
    heads = f"{config.num_attention_heads} of {config.head_dim}"
    layers = ", ".join(kind.removesuffix("_attention") for kind in config.layer_types)
    facts = {
        "class": "`Gemma2ForCausalLM`, unmodified",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "vocabulary": f"{config.vocab_size:,} byte-level BPE pieces, tied embedding",
        "layers": f"{config.num_hidden_layers} (attention: {layers})",
        "d_model, d_mlp": f"{config.hidden_size}, {config.intermediate_size:,}",
        "heads": f"{heads}, {config.num_key_value_heads} of keys and values",
        "sliding window, context": f"{config.sliding_window}, {config.max_position_embeddings}",
        "soft-caps": f"attention {config.attn_logit_softcapping:g}, "
        f"logits {config.final_logit_softcapping:g}",
    }
    return table(("", "this model"), facts.items())


def recipe(values: Recipe) -> str:
    """Every number of the training's recipe."""
    named = dataclasses.asdict(values).items()
    return table(("", "recipe"), ((name.replace("_", " "), f"{value:,}") for name, value in named))


def data(corpus: Path) -> str:
    """How much training text there is of each kind and licence."""
    sizes: dict[tuple[str, str], list[int]] = {}
    for document in documents(corpus / "train.jsonl.gz"):
        kind_and_licence = (document["kind"], document.get("licence", "not stated"))
        sizes.setdefault(kind_and_licence, []).append(len(document["text"].encode()))
    rows = [
        (f"{kind} ({licence})", f"{len(of_each):,}", f"{sum(of_each) / 1e6:.1f}")
        for (kind, licence), of_each in sorted(sizes.items())
    ]
    return table(("kind (licence)", "documents", "MB"), rows)
