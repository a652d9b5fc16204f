"""What all tests share: shapes and types checked, one thread, no network, a tiny model, a text."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from transformers import Gemma2ForCausalLM

    from panscope.model.load import Model


CHECKS = BeartypeConf(is_pep484_tower=True)  # an int is good for a float


def typechecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check arguments and result against annotations; Self is not known without the class."""
    hints = function.__annotations__
    function.__annotations__ = {k: Any if "Self" in repr(v) else v for k, v in hints.items()}
    return beartype(conf=CHECKS)(function)


# Before anything imports panscope. The hook takes the checker as text; this file is no package's.
install_import_hook("panscope", f"sys.modules[{__name__!r}].typechecked")
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"
torch.set_num_threads(1)
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

KINDS = {
    "prose": "The old lamp stood on the table, and rain fell on river number {} all night long.",
    "code": "def area_{}(width, height):\n    return width * height\n",
    "news": "On Monday the committee met for the {}th time; prices rose by 2.4 percent in April.",
    "french": "Le chat numéro {} dort sous la table bleue — la pluie tombe sur le jardin.",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow ones: the last of several workers to end waits for nobody then."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Gemma 2 of 3 layers with the pocket model's tokenizer."""
    from panscope.model.folder import pocket_file

    folder = tmp_path_factory.mktemp("models") / "tiny"
    random_gemma2().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes(pocket_file(name).read_bytes())
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_model_folder: Path) -> "Model":
    """The model of `tiny_model_folder`, in fp32 on the CPU."""
    from panscope.model import load

    return load.load(load.Config(name=str(tiny_model_folder), device="cpu"))


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .jsonl of 120 short documents of four kinds."""
    path = tmp_path_factory.mktemp("texts") / "tiny.jsonl"
    numbered = [(i, *list(KINDS.items())[i % len(KINDS)]) for i in range(120)]
    records = [{"text": (line.format(i) + " ") * (1 + i % 5), "kind": k} for i, k, line in numbered]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def random_gemma2() -> "Gemma2ForCausalLM":
    """Make a model in which every part matters: norm gains differ from 1, soft-caps bend."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=4096,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=8,
        max_position_embeddings=256,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        initializer_range=0.3,
        attn_implementation="eager",
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    model = Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.normal_(0, 0.3)
    return model
