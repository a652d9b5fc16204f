"""The folder that ships: weights in bf16, configuration, tokenizer; written by the trainer, read
by what samples and measures.
"""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import Gemma2ForCausalLM

from corpus import BOS, EOS, PAD
from panscope.errors import NotFound


def write(model: Gemma2ForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Round the model's weights to bf16, in place, and write the folder."""
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    described = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=2) + "\n")


def read(folder: Path) -> tuple[Gemma2ForCausalLM, Tokenizer]:
    """Load the model, computing in fp32, and its tokenizer."""
    if not (folder / "config.json").is_file():
        raise NotFound(str(folder), "holds no config.json", "give the folder that train.py wrote")
    model = Gemma2ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))
