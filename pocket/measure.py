"""Measure the pocket model in bits per byte of the validation text, beside what anyone can run.

    python pocket/measure.py MODEL CORPUS [--train-tokens N] [--card pocket/README.md]

Beside it stand a Kneser-Ney 5-gram, fitted to as many tokens of the training text as the model has
seen, and gzip -9 and xz -9, which compress the text as one file (of one kind, or of all) and know
no other. Model and 5-gram predict the ids of each document behind BOS; where a document ends is
neither predicted nor paid for. Every way a text could have been cut into ids but one is left out of
the probability, so the true bits are a little fewer.
"""

import argparse
import dataclasses
import gzip
import lzma
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import Gemma2ForCausalLM

import card
import kneser_ney
import shipped
from corpus import BOS_ID, documents, token_row
from panscope.errors import NotFound, PanscopeError
from panscope.files import write_json
from train import Recipe

BATCH_ROWS = 4  # more, and the logits are pages that the system hands out anew for each batch
ORDER = 5
COLUMNS = ("pocket", "5-gram", "gzip -9", "xz -9")
HEAD = ("kind", "documents", "bytes", *COLUMNS)


@dataclasses.dataclass(frozen=True)
class Text:
    """A document of the validation text, and its ids without BOS."""

    kind: str
    utf8: bytes
    ids: list[int]


@dataclasses.dataclass(frozen=True)
class Line:
    """What was measured on the text of one kind, or on all of it; bits are per byte."""

    kind: str
    documents: int
    n_bytes: int
    n_tokens: int
    bits: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Measured:
    """All that was measured; `alone` is bits per byte with each document compressed by itself."""

    train_tokens: int
    ngram_tokens: int
    lines: tuple[Line, ...]
    alone: dict[str, float]


def validation_texts(corpus: Path, tokenizer: Tokenizer) -> list[Text]:
    """Read and encode the validation documents, sorted by kind."""
    texts = [
        Text(
            document["kind"], document["text"].encode(), tokenizer.encode(document["text"]).ids[1:]
        )
        for document in documents(corpus / "valid.jsonl.gz")
    ]
    return sorted((text for text in texts if text.ids), key=lambda text: text.kind)


def windows(ids: list[int], context: int) -> Iterator[tuple[list[int], int]]:
    """Cut a document into rows behind BOS, each with the number of its last ids that are new in it.

    A row begins half a context after the one before, so that all but the first row's ids have at
    least that much before them.
    """
    size, stride = context - 1, context // 2
    done = 0
    for begin in range(0, max(1, len(ids) - size + stride), stride):
        row = ids[begin : begin + size]
        yield [BOS_ID, *row], begin + len(row) - done
        done = begin + len(row)


@torch.inference_mode()
def id_bits(model: Gemma2ForCausalLM, rows: list[list[int]], context: int) -> torch.Tensor:
    """Bits for each id of the rows but the first; what is behind a row means nothing."""
    ids = torch.zeros(len(rows), context, dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    logits = model(ids, use_cache=False).logits[:, :-1]
    nats = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return nats.double().view(len(rows), -1) / math.log(2)


def model_bits(model: Gemma2ForCausalLM, texts: list[Text]) -> np.ndarray:
    """Bits that the model needs for each text."""
    context = model.config.max_position_embeddings
    todo = [(n, *window) for n, text in enumerate(texts) for window in windows(text.ids, context)]
    bits = np.zeros(len(texts))
    for first in range(0, len(todo), BATCH_ROWS):
        batch = todo[first : first + BATCH_ROWS]
        batch_bits = id_bits(model, [row for _, row, _ in batch], context)
        for (number, row, n_new), row_bits in zip(batch, batch_bits, strict=True):
            end = len(row) - 1
            bits[number] += row_bits[end - n_new : end].sum().item()
    return bits


def ngram_bits(model: kneser_ney.KneserNey, texts: list[Text]) -> np.ndarray:
    """Bits that the n-gram needs for each text, each behind as many BOS as it looks back."""
    before = [BOS_ID] * (len(model.orders) - 1)
    shares = (model.probabilities(np.array([*before, *text.ids])) for text in texts)
    return np.array([-np.log2(share).sum() for share in shares])


def compressed_bits(compress: Callable[[bytes], bytes], texts: Iterable[Text]) -> int:
    return 8 * len(compress(b"".join(text.utf8 for text in texts)))


def gzip_9(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)


def xz_9(data: bytes) -> bytes:
    """Compress as `xz -9` does, its dictionary of 64 MiB cut to what it could ever hold."""
    size = max(4096, len(data))
    return lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": size}])


def line(kind: str, texts: list[Text], predicted: dict[str, np.ndarray]) -> Line:
    """Sum over texts of one kind; `predicted` has the bits of each text."""
    n_bytes = sum(len(text.utf8) for text in texts)
    total = {name: bits.sum() for name, bits in predicted.items()}
    total |= {"gzip -9": compressed_bits(gzip_9, texts), "xz -9": compressed_bits(xz_9, texts)}
    bits = {name: float(total[name]) / n_bytes for name in COLUMNS}
    return Line(kind, len(texts), n_bytes, sum(len(text.ids) for text in texts), bits)


def lines(texts: list[Text], predicted: dict[str, np.ndarray]) -> list[Line]:
    """One line a kind, and one for all."""
    result = []
    for kind, group in groupby(range(len(texts)), key=lambda number: texts[number].kind):
        chosen = list(group)
        of_kind = {name: bits[chosen] for name, bits in predicted.items()}
        result.append(line(kind, [texts[number] for number in chosen], of_kind))
    return [*result, line("all", texts, predicted)]


def alone(texts: list[Text]) -> dict[str, float]:
    """Bits per byte when each document is compressed by itself."""
    n_bytes = sum(len(text.utf8) for text in texts)
    ways = {"gzip -9": gzip_9, "xz -9": xz_9}
    return {
        name: sum(compressed_bits(way, [text]) for text in texts) / n_bytes
        for name, way in ways.items()
    }


def cells(line: Line) -> tuple[str, ...]:
    sizes = (f"{line.documents:,}", f"{line.n_bytes:,}")
    return (line.kind, *sizes, *(f"{line.bits[name]:.3f}" for name in COLUMNS))


def results(measured: Measured) -> str:
    """Say in Markdown what was measured, for the model card."""
    apart = " and ".join(f"{name} {bits:.3f}" for name, bits in measured.alone.items())
    return (
        "Bits per byte of the validation text; fewer is better. The model has seen "
        f"{measured.train_tokens:,} tokens of the training text, cut at random places; the "
        f"5-gram is fitted to {measured.ngram_tokens:,} of them in a row, each once.\n\n"
        f"{card.table(HEAD, [cells(line) for line in measured.lines])}\n\n"
        f"Each document compressed by itself, instead of all as one file: {apart}."
    )


def print_table(measured: Measured) -> None:
    table = Table(title="bits per byte of the validation text")
    for name in HEAD:
        table.add_column(name, justify="left" if name == "kind" else "right")
    for each in measured.lines:
        table.add_row(*cells(each), style="bold" if each.kind == "all" else "")
    Console().print(table)


def measure(folder: Path, corpus: Path, train_tokens: int) -> Measured:
    """Measure the model in `folder`, and the others beside it, on the validation text."""
    if not (corpus / "valid.jsonl.gz").is_file():
        found = "holds no valid.jsonl.gz"
        raise NotFound(str(corpus), found, "give a folder as corpus.py describes it")
    model, tokenizer = shipped.read(folder)
    texts = validation_texts(corpus, tokenizer)
    train_row = token_row(corpus, "train", tokenizer)[:train_tokens]
    ngram = kneser_ney.fit(train_row, tokenizer.get_vocab_size(), ORDER)
    predicted = {"pocket": model_bits(model, texts), "5-gram": ngram_bits(ngram, texts)}
    return Measured(train_tokens, len(train_row), tuple(lines(texts, predicted)), alone(texts))


def tell(measured: Measured, args: argparse.Namespace) -> None:
    """Print the table; write the JSON and, if one is named, the card."""
    print_table(measured)
    write_json(args.json or args.model.parent / "measured.json", dataclasses.asdict(measured))
    if args.card:
        card.insert(args.card, "architecture", card.architecture(shipped.read(args.model)[0]))
        recipe = dataclasses.replace(Recipe(), tokens=measured.train_tokens)
        card.insert(args.card, "recipe", card.recipe(recipe))
        card.insert(args.card, "data", card.data(args.corpus))
        card.insert(args.card, "results", results(measured))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="the folder that train.py wrote")
    parser.add_argument("corpus", type=Path, help="holds train.jsonl.gz and valid.jsonl.gz")
    parser.add_argument("--train-tokens", type=int, default=Recipe.tokens)
    parser.add_argument("--json", type=Path, help="default: measured.json beside MODEL")
    parser.add_argument("--card", type=Path, help="the model card to write the tables into")
    try:
        args = parser.parse_args()
        tell(measure(args.model, args.corpus, args.train_tokens), args)
    except PanscopeError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
