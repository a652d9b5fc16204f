"""A random model of every family, shared by the tests of all that runs one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from panscope.model import load
from panscope.model.folder import pocket_file
from panscope.model.load import Model

LAYERS, VOCAB = 3, 4104  # Qwen adds tokens of its own to the packaged 4,096
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GEMMA = SIZES | {"query_pre_attn_scalar": 8, "sliding_window": 4}
NEOX = {k: v for k, v in SIZES.items() if k not in ("head_dim", "num_key_value_heads")}
GPT2 = {"vocab_size": VOCAB, "n_positions": 64, "n_embd": 32, "n_layer": LAYERS, "n_head": 4}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "gemma2": lambda: transformers.Gemma2Config(**GEMMA),
    "gemma3_text": lambda: transformers.Gemma3TextConfig(**GEMMA),
    "gemma3": lambda: transformers.Gemma3Config(text_config=GEMMA, vision_config=VISION),
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES),
    "gpt2": lambda: transformers.GPT2Config(**GPT2, bos_token_id=2, eos_token_id=1),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**NEOX, use_parallel_residual=False),
    "gpt_neox (parallel)": lambda: transformers.GPTNeoXConfig(**NEOX),
}


@pytest.fixture(scope="session", params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of each family, with the packaged tokenizer."""
    torch.manual_seed(1)
    config = CONFIGS[request.param]()
    lm = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in lm.named_parameters():
            if "norm" in name or ".ln_" in name or name.endswith("bias"):
                weight.normal_(0.2, 0.3)
    folder = tmp_path_factory.mktemp("family")
    lm.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes(pocket_file(name).read_bytes())
    return folder


@pytest.fixture(scope="session")
def precise(folder: Path) -> Model:
    """The model of `folder` in float32."""
    return load.load(load.Config(name=str(folder), device="cpu"))
