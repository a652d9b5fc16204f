"""Load a Hugging Face causal language model and its tokenizer, frozen, as a Model."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from huggingface_hub.errors import HFValidationError
from jaxtyping import Float
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor

from panscope import config
from panscope.errors import ConfigError, Corrupt, NotFound, Unsupported
from panscope.model.families import Family, family_of
from panscope.sites import Site

POCKET = "pocket"


class Config(config.Config):
    """Which model, in which precision, on which device."""

    name: str = POCKET
    """A local folder, a Hub id, or "pocket"."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "auto"


@dataclass(frozen=True)
class Model:
    """A frozen language model. `digest` names its weights, configuration and tokenizer."""

    lm: Any
    tokenizer: Tokenizer
    family: Family
    name: str
    digest: str
    bos_id: int
    special_ids: frozenset[int]

    @property
    def n_layers(self) -> int:
        """The number of layers."""
        return int(self.lm.config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """The size of the residual stream."""
        return int(self.lm.config.hidden_size)

    @property
    def n_vocab(self) -> int:
        """The number of token ids."""
        return int(self.lm.config.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.lm.device
        return device

    def d_at(self, site: Site) -> int:
        """Return the size of the vector at a site."""
        if site.kind == "attn_z":
            return int(self.lm.config.num_attention_heads * self.lm.config.head_dim)
        return self.n_vocab if site.kind == "logits" else self.d_model

    def encode(self, text: str) -> list[int]:
        """Tokenise text, BOS first."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return [self.bos_id, *ids]

    def pieces(self) -> list[str]:
        """Return how each token id is shown; a piece of a character shows as its bytes in <>."""
        return [_piece(self.tokenizer, i) for i in range(self.n_vocab)]

    def to_logits(self, site: Site) -> Float[Tensor, "d_out vocab"]:
        """Return the linear map from a direction at a site to its effect on the logits.

        Through the final norm's gain and the unembedding; from `attn_z` first through the output
        projection and the gain of the norm behind it. Norms divide by a positive number that
        depends on the rest of the stream, so effects are relative to one another.
        """
        norm, head = self.lm.model.norm, self.lm.get_output_embeddings()
        unembedding = torch.as_tensor((1 + norm.weight)[:, None] * head.weight.T).float()
        if site.kind != "attn_z":
            return unembedding
        layer = self.lm.model.layers[site.layer]
        out = layer.self_attn.o_proj.weight.T * (1 + layer.post_attention_layernorm.weight)
        return torch.as_tensor(out).float() @ unembedding


def load(config: Config) -> Model:
    """Load a model from a folder or the Hub; eval mode, frozen, eager attention for Gemma 2."""
    path = _pocket_folder() if config.name == POCKET else config.name
    with _quiet(), _explained(config.name):
        described = transformers.AutoConfig.from_pretrained(path)
        family = family_of(described.model_type, config.name)
        lm = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, config.dtype), attn_implementation=family.attention
        )
        hf_tokenizer = transformers.AutoTokenizer.from_pretrained(path, use_fast=True)
    lm = lm.eval().requires_grad_(False).to(_device(config.device))
    special_ids = _special_ids(hf_tokenizer, lm.config.vocab_size, config.name)
    tokenizer = hf_tokenizer.backend_tokenizer
    tokenizer.encode_special_tokens = True  # a "<bos>" in a text is text, not a beginning
    bos_id, digest = hf_tokenizer.bos_token_id, _digest(lm, tokenizer, config)
    return Model(lm, tokenizer, family, config.name, digest, bos_id, special_ids)


def _pocket_folder() -> str:
    return str(Path(str(resources.files("panscope"))) / "model" / "pocket")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except RuntimeError as error:
        raise Unsupported(f"device {name}", "is not available", "use cpu or auto") from error


def _special_ids(tokenizer: Any, n_vocab: int, name: str) -> frozenset[int]:
    """Check that tokenizer and model belong together; return the ids of special tokens."""
    if tokenizer.bos_token_id is None:
        raise Unsupported(
            f"model {name}", "its tokenizer has no BOS token", "use its own tokenizer"
        )
    if len(tokenizer) > n_vocab:
        found = f"its tokenizer has {len(tokenizer)} tokens, the model {n_vocab}"
        raise ConfigError(f"model {name}", found, "give the model's own tokenizer")
    return frozenset(tokenizer.all_special_ids)


def _digest(lm: Any, tokenizer: Tokenizer, config: Config) -> str:
    """Hash configuration, weights and tokenizer, all that decides an activation."""
    hashed = hashlib.sha256(json.dumps(lm.config.to_diff_dict(), sort_keys=True).encode())
    hashed.update(config.dtype.encode())
    hashed.update(tokenizer.to_str().encode())
    for name, tensor in lm.state_dict().items():
        hashed.update(name.encode())
        hashed.update(tensor.cpu().contiguous().view(torch.uint8).numpy())
    return hashed.hexdigest()


def _piece(tokenizer: Tokenizer, token_id: int) -> str:
    """Decode one token; where that is not whole characters, fall back on the piece itself."""
    text: str = tokenizer.decode([token_id], skip_special_tokens=False)
    if text and "�" not in text:
        return text
    return f"<{tokenizer.id_to_token(token_id) or token_id}>"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bars and notes off the terminal while loading."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        transformers.logging.enable_progress_bar()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn the ways in which loading fails into sentences."""
    where = f"model {name}"
    try:
        yield
    except SafetensorError as error:
        raise Corrupt(where, f"its weights are damaged ({error})", "fetch them again") from error
    except (OSError, HFValidationError) as error:
        found = str(error).splitlines()[0].rstrip(".")
        do = "give a folder with config.json, or a Hub id while the network is there"
        raise NotFound(where, f"cannot be loaded ({found})", do) from error
    except (ValueError, RuntimeError) as error:
        found = f"cannot be loaded ({str(error).splitlines()[0]})"
        raise Unsupported(where, found, "check that the folder holds one whole model") from error
