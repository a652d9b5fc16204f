"""Let the pocket model write the text that ships beside it, so that a demo needs no corpus.

    python pocket/sample.py MODEL OUT.jsonl.xz [--tokens 1_000_000] [--card pocket/README.md]

Each row is one context, written freely behind BOS and cut into documents where the model wrote BOS
again. Rows are independent, so that one that falls into a loop ends with its context. A row's first
document may begin in the middle of a sentence, because the rows of the training did. The same seed
gives the same text on the same machine.
"""

import argparse
import json
import lzma
import re
import time
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import DynamicCache, Gemma2ForCausalLM

import card
import shipped
from corpus import BOS_ID
from panscope.errors import PanscopeError
from panscope.files import write_bytes

MOST_BYTES = 2_000_000
BATCH_ROWS = 64

# At 0.8 the text is a little plainer than what the model has read: a 5-gram of the training text
# needs 4.2 bits for a token of it, 4.8 for one of the validation text, and as many of its words are
# words of the training text (99 %).
TEMPERATURE = 0.8

# A document is of the first kind whose marks it has so often in a hundred words; without a kind of
# its own it is "sampled". On the validation text, in pieces of 1,500 characters, the first five are
# never wrong, and the three languages in 4 % of cases, where the language is right but the text is
# an encyclopaedia's or a story's.
MARKS = (
    ("dialogue", r"^(?:User|Assistant): ", 4),
    ("translation", r"^(?:English|Spanish): ", 4),
    ("math", r"^(?:Question|Answer): ", 5),
    ("math-word", r"^(?:Question|Answer): ", 1),
    ("factbook", r"\(\d{4}(?: est\.)?\)|^[\w ()/-]+: ", 6),
    ("german", r"\b(?:der|die|das|und|nicht|ich|sie|zu|den|ein|ist)\b", 10),
    ("french", r"\b(?:le|les|des|du|et|il|je|pas|dans|est|qui|une)\b", 8),
    ("spanish", r"\b(?:el|los|las|del|y|en|una|por|su|con|lo)\b", 8),
)

Document = dict[str, str]


def kind_of(text: str) -> str:
    """Tell a document's kind by its marks."""
    hundreds_of_words = max(1, len(text.split())) / 100
    for kind, mark, least in MARKS:
        if len(re.findall(mark, text, re.MULTILINE)) >= least * hundreds_of_words:
            return kind
    return "sampled"


@torch.inference_mode()
def written_rows(
    model: Gemma2ForCausalLM, n_rows: int, temperature: float, generator: torch.Generator
) -> torch.Tensor:
    """Sample rows of a whole context behind BOS, the keys and values kept from step to step."""
    takes = signature(model.forward).parameters
    name = "cache" if "cache" in takes else "past_key_values"  # before transformers 5.24
    cache = {name: DynamicCache(config=model.config)}
    ids = [torch.full((n_rows, 1), BOS_ID, device=model.device)]
    for _ in range(model.config.max_position_embeddings - 1):
        output = model(ids[-1], **cache, use_cache=True)
        scores = output.logits[:, -1] / temperature
        scores[:, :BOS_ID] = -torch.inf  # padding and EOS never stood in a text
        ids.append(torch.multinomial(scores.softmax(-1), 1, generator=generator))
    return torch.cat(ids, dim=1)


def documents_of(row: list[int], tokenizer: Tokenizer) -> Iterator[Document]:
    """Cut a row into documents where the model began a new one."""
    begins = [place for place, token in enumerate(row) if token == BOS_ID]
    for begin, end in zip(begins, [*begins[1:], len(row)], strict=True):
        text = tokenizer.decode(row[begin + 1 : end]).strip("\ufffd \n")  # \ufffd: half a character
        if text:
            yield {"text": text, "kind": kind_of(text)}


def written(args: argparse.Namespace) -> list[Document]:
    """Sample about as many tokens as were asked for, and say how fast it went."""
    model, tokenizer = shipped.read(args.model)
    model = model.to(args.device)
    generator = torch.Generator(model.device).manual_seed(args.seed)
    documents: list[Document] = []
    started, n_tokens = time.monotonic(), 0
    while n_tokens < args.tokens:
        rows = written_rows(model, BATCH_ROWS, args.temperature, generator)
        documents += [
            document for row in rows.tolist() for document in documents_of(row, tokenizer)
        ]
        n_tokens += rows[:, 1:].numel()
    seconds = time.monotonic() - started
    print(f"{n_tokens:,} tokens in {seconds:.0f} s, {n_tokens / seconds:,.0f} a second")
    return documents


def packed(documents: list[Document]) -> bytes:
    """Compress the documents, one JSON object a line."""
    lines = (json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    data = lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME)
    if len(data) > MOST_BYTES:
        found = f"compressed to {len(data):,} bytes, at most {MOST_BYTES:,} ship"
        raise PanscopeError("the sampled text", found, "sample fewer --tokens")
    return data


def samples_block(documents: list[Document], n_characters: int = 400) -> str:
    """Set the beginning of the first document of each kind, for the model card."""
    first = {document["kind"]: document["text"] for document in reversed(documents)}
    quoted = (
        f"*{kind}*\n\n```text\n{text[:n_characters].strip()}\n```"
        for kind, text in sorted(first.items())
    )
    return "\n\n".join(quoted)


def sample(args: argparse.Namespace) -> None:
    """Write the text, and samples of it into the card."""
    documents = written(args)
    data = packed(documents)
    write_bytes(args.out, data)
    n_bytes = sum(len(document["text"].encode()) for document in documents)
    print(f"{len(documents):,} documents, {n_bytes:,} bytes, compressed to {len(data):,}")
    if args.card:
        card.insert(args.card, "samples", samples_block(documents))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="the folder that train.py wrote")
    parser.add_argument("out", type=Path, help="the .jsonl.xz file to write")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--temperature", type=float, default=TEMPERATURE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--card", type=Path, help="the model card to write samples into")
    try:
        sample(parser.parse_args())
    except PanscopeError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
