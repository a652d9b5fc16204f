"""The corpus on its way to the trainer: documents, the tokenizer's pieces, one long row of ids.

A corpus folder holds `train.jsonl.gz` and `valid.jsonl.gz`: one document a line, with `text` and
`kind`.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

PAD, EOS, BOS = "<pad>", "<eos>", "<bos>"  # ids 0, 1, 2: Gemma's order
BOS_ID = 2
N_PIECES = 4096

# Words with their leading space, runs of punctuation, line breaks, and digits one by one, so that
# numbers are spelled and the arithmetic in the corpus can be learnt.
WORDS = Regex(r" ?\p{L}+['’]?\p{L}*| ?[^\s\p{L}\p{N}]+|\p{N}|\s+(?!\S)|\s+")


def documents(path: Path) -> Iterator[dict[str, str]]:
    """Yield the documents of a .jsonl.gz file in order."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def train_tokenizer(corpus: Path) -> Tokenizer:
    """Train a byte-level BPE of 4,096 pieces; every string encodes and decodes without loss."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_PIECES,
        special_tokens=[PAD, EOS, BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (document["text"] for document in documents(corpus / "train.jsonl.gz"))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def token_row(corpus: Path, split: str, tokenizer: Tokenizer, seed: int = 0) -> np.ndarray:
    """Encode a split as one row of ids, each document behind a BOS, documents in seeded order."""
    texts = [document["text"] for document in documents(corpus / f"{split}.jsonl.gz")]
    order = np.random.default_rng(seed).permutation(len(texts))
    encoded = tokenizer.encode_batch_fast([texts[i] for i in order])
    return np.concatenate([np.asarray(e.ids, dtype=np.uint16) for e in encoded])
