import gzip
import json
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import Gemma2Config

POCKET = Path(__file__).parents[2] / "pocket"
sys.path.insert(0, str(POCKET))

from corpus import train_tokenizer  # noqa: E402

TEXTS = {
    "story": "The cat sat on the mat and the dog sat on the log. It was happy all day long.",
    "dialogue": "User: Is it far?\nAssistant: It is 42 miles.\nUser: Thanks!\nAssistant: Bye.",
    "german": "Die Katze und der Hund sind müde, und das Haus ist nicht groß.",
}


def write_split(folder: Path, split: str, copies: int) -> None:
    with gzip.open(folder / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
        for number in range(copies):
            for kind, text in TEXTS.items():
                file.write(json.dumps({"text": f"{text} {number}", "kind": kind}) + "\n")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_split(folder, "train", copies=20)
    write_split(folder, "valid", copies=2)
    return folder


@pytest.fixture(scope="session")
def tokenizer(corpus: Path) -> Tokenizer:
    return train_tokenizer(corpus)


@pytest.fixture
def tiny(tokenizer: Tokenizer) -> Gemma2Config:
    """A Gemma 2 whose sliding window is a quarter of its context."""
    return Gemma2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=8,
        max_position_embeddings=32,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        initializer_range=0.5,
        attn_implementation="eager",
    )


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A copy of the model card."""
    copy = tmp_path / "README.md"
    copy.write_bytes((POCKET / "README.md").read_bytes())
    return copy
