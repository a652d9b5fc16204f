"""Load a Hugging Face causal language model and its tokenizer, frozen, as a Model.

Only safetensors are read (no pickle) and no code that comes with a model is run. transformers gives
weights that it does not find random values and a warning; here that is an error.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import LayerNorm, Module

from panscope import config
from panscope.errors import ConfigError, Corrupt, Unsupported
from panscope.model import aliases
from panscope.model.families import Family, family_of, matrix
from panscope.model.folder import POCKET, WEIGHTS, folder_or_id, pocket_file
from panscope.model.outline import Outline, size_at
from panscope.model.pieces import piece
from panscope.model.quiet import explained, quiet
from panscope.model.shape import Shape, no_vector, refuse_another, shape_of
from panscope.sites import VECTOR_KINDS, Site

TRANSFORMERS_MAY_BE_WHY = f"transformers {transformers.__version__} may be why"
NOT_IN_DIGEST = ("transformers_version", "dtype", "_name_or_path", "architectures")


class Config(config.Config):
    """Which model, in which precision, on which device."""

    name: str = POCKET
    """A local folder, a Hub id, or "pocket"."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "auto"
    """auto (CUDA if there is one), cpu, cuda or cuda:N."""
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    """Which attention body runs: auto is the architecture's; eager alone keeps scores."""
    shape: Shape | None = None
    """Its sizes, to plan with where the model is not; loading refuses a model of another shape."""


@dataclass(frozen=True)
class Model:
    """A frozen language model. `digest` names its weights, configuration, tokenizer and dtype."""

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
        return int(self._config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """The size of the residual stream."""
        return int(self._config.hidden_size)

    @property
    def n_vocab(self) -> int:
        """The number of token ids."""
        return int(self._config.vocab_size)

    @property
    def n_heads(self) -> int:
        """The number of query heads in each layer; keys and values may have fewer."""
        return int(self._config.num_attention_heads)

    @property
    def _config(self) -> Any:
        """The configuration of the language model, where there is also one of images."""
        return self.lm.config.get_text_config()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.lm.device
        return device

    def sites(self, patterns: Iterable[str]) -> tuple[Site, ...]:
        """Expand names, globs and other libraries' names (`aliases`), in forward order."""
        return aliases.sites(self.lm, self.family, self.n_layers, patterns)

    def d_at(self, site: Site) -> int:
        """Return the size of the vector that each token has at a site.

        Raises Unsupported for a site that has none.
        """
        if site.kind == "attn_z":
            return len(matrix(self.module_at(site)))
        if site.is_path:
            place = self.family.place(site)
            assert place.end != "inside"
            return size_at(self.lm, self.module_at(site), place.end, site)
        if site.kind not in VECTOR_KINDS:
            do = "read it with tap.run, or name an end of a projection, such as q_proj.output"
            raise no_vector(site, do)
        return self.n_vocab if site.kind == "logits" else self.d_model

    def heads_at(self, site: Site) -> int:
        """Return how many heads' outputs stand side by side in a site's vector; 0 if none do."""
        if self.family.named(site).kind != "attn_z":
            return 0
        return 0 if self.d_at(site) % self.n_heads else self.n_heads

    def encode(self, text: str) -> list[int]:
        """Tokenise text, BOS first; ConfigError for what a terminal gave that is not UTF-8."""
        try:
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        except TypeError as error:  # halves of surrogate pairs
            raise ConfigError(f"text {text!r}", "is not UTF-8", "write it in UTF-8") from error
        return [self.bos_id, *ids]

    def pieces(self) -> list[str]:
        """Return how each token id is shown; a part of a character shows as its bytes, <E2 80>."""
        return [piece(self.tokenizer, i) for i in range(self.n_vocab)]

    def logit_directions(self) -> Float[Tensor, "d_model vocab"]:
        """Return the unembedding with the final norm's gain folded in.

        The norm also divides, by a positive number that depends on the whole stream, and the
        soft-cap bends: products with a direction are effects relative to one another.
        """
        norm = self.module_at(Site("final_norm_in"))
        return self._gained(norm, self.lm.get_output_embeddings().weight.float().T)

    def to_logits(self, site: Site) -> Float[Tensor, "d_out vocab"]:
        """Return the linear map from a direction at a site to its direct effect on the logits.

        From `attn_z` it goes through the output projection and the gain of a norm behind it; at
        the other sites it is `logit_directions`.
        """
        if self.family.named(site).is_path:
            found = "nothing is known of the way from there to the logits"
            raise Unsupported(f"site {site}", found, "describe a site that has a name")
        if site.kind != "attn_z":
            return self.logit_directions()
        through = matrix(self.module_at(site))
        if self.family.has_post_norms:
            behind = self.module_at(Site("attn_out", site.layer))
            through = through * self.family.gain(behind)
        return through @ self.logit_directions()

    def _gained(self, norm: Module, read: Float[Tensor, "d_model n"]) -> Float[Tensor, "d_model n"]:
        """Return how a direction reaches what reads a norm: a LayerNorm takes its mean off."""
        gained = self.family.gain(norm)[:, None] * read
        return gained - gained.mean(0) if isinstance(norm, LayerNorm) else gained

    def module_at(self, site: Site) -> Module:
        """Return the module at one of whose ends, or in whose function, a site is."""
        path = self.family.place(site).path
        try:
            module: Module = self.lm.get_submodule(path)
        except AttributeError as error:
            found = f"{self.name} has no module {path}"
            raise Unsupported(f"site {site}", found, TRANSFORMERS_MAY_BE_WHY) from error
        return module


def load(config: Config) -> Model:
    """Load a model from a folder, the Hub or the package; eval mode, no gradients.

    Raises NotFound for what is not there, Corrupt for damaged files, Unsupported for another
    architecture or device, ConfigError for a tokenizer that is not the model's.
    """
    device, path = device_of(config), folder_or_id(config.name)
    with quiet(), explained(config.name):
        family = family_of(_described(path), config.name)
        lm = _weights(path, family, config)
        tokenizer = _tokenizer(path, config.name)
    if config.shape is not None:
        refuse_another(config.shape, shape_of(lm, family), config.name)
    bos_id = _checked_bos(tokenizer, lm.config.get_text_config().vocab_size, config.name)
    special_ids = frozenset(tokenizer.all_special_ids)
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True  # a "<bos>" in a text is text, not a beginning
    digest = _digest(lm, backend, bos_id, family, config)
    lm = lm.eval().requires_grad_(False).to(device)
    return Model(lm, backend, family, config.name, digest, bos_id, special_ids)


def read_shape(config: Config) -> Shape:
    """Return a model's shape, as the recipe states it or from its configuration; no weights.

    Raises NotFound if neither is there.
    """
    return config.shape or read_outline(config).shape


def read_outline(config: Config) -> Outline:
    """Return a model without its weights, from its configuration; NotFound if there is none."""
    path = str(pocket_file("")) if config.name == POCKET else config.name
    with quiet(), explained(config.name), torch.device("meta"):
        family = family_of(_described(path), config.name)
        described = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
        lm = transformers.AutoModelForCausalLM.from_config(described).eval()
    return Outline(lm, family, shape_of(lm, family))


def is_here(config: Config) -> bool:
    """Say whether a model's weights are on this machine, in a folder or in the package."""
    return config.name == POCKET or any(Path(config.name, file).is_file() for file in WEIGHTS)


def device_of(config: Config) -> torch.device:
    """Return the device that a model is to be on; raises Unsupported if it is not there."""
    name = config.device
    has_cuda = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if has_cuda else "cpu")
    known = ["cpu", *["cuda"] * has_cuda, *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if name not in known:
        do = f"use auto or {' or '.join(known)}"
        raise Unsupported(f"device {name}", "is not on this machine", do)
    return torch.device(name)


def _described(path: str) -> dict[str, Any]:
    described, _ = transformers.PreTrainedConfig.get_config_dict(path)
    return dict(described)


def _weights(path: str, family: Family, config: Config) -> Any:
    """Load the weights; refuse a set that is not whole."""
    lm, loading = transformers.AutoModelForCausalLM.from_pretrained(
        path,
        dtype=getattr(torch, config.dtype),
        attn_implementation=_attention(family, config),
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    where, again = f"model {config.name}", "fetch or save the model again"
    missing = sorted(loading["missing_keys"])
    if missing:
        raise Corrupt(where, f"{len(missing)} weights are missing, first {missing[0]}", again)
    for name, weight in lm.named_parameters():
        if not weight.isfinite().all():
            raise Corrupt(where, f"{name} holds infinite or undefined numbers", again)
    return lm


def _attention(family: Family, config: Config) -> str | None:
    """Return which attention body runs; refuse one that would leave a soft-cap out."""
    if (family.attention, config.attention) == ("eager", "sdpa"):
        found = f"only the eager body has the soft-cap of {family.name}'s attention"
        raise Unsupported(f"model {config.name}", found, 'use attention = "eager"')
    return family.attention if config.attention == "auto" else config.attention


def _tokenizer(path: str, name: str) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        if type(error) is not Exception:  # the tokenizers library raises nothing more specific
            raise
        found = f"its tokenizer.json cannot be read ({error})"
        raise Corrupt(f"model {name}", found, "fetch or save it again") from error


def _checked_bos(tokenizer: Any, n_vocab: int, name: str) -> int:
    """Check that tokenizer and model belong together; return the id that begins a text.

    Where there is no BOS (Qwen) it is the token that ends a text, as between documents in training.
    """
    own = "give the folder of the model with its own tokenizer"
    begins = [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None]
    if not begins:
        raise ConfigError(f"model {name}", "its tokenizer has no BOS and no EOS token", own)
    largest = max(tokenizer.get_vocab().values())
    if largest >= n_vocab:
        found = f"its tokenizer has token {largest}, the model embeds 0 to {n_vocab - 1}"
        raise ConfigError(f"model {name}", found, own)
    return int(begins[0])


def _digest(lm: Any, tokenizer: Tokenizer, bos_id: int, family: Family, config: Config) -> str:
    """Hash what decides an activation: configuration, dtype, attention, tokenizer, weights."""
    described = {k: v for k, v in lm.config.to_diff_dict().items() if k not in NOT_IN_DIGEST}
    head = [described, config.dtype, bos_id, tokenizer.to_str()]
    if _attention(family, config) != family.attention:  # another body rounds otherwise
        head.append(config.attention)
    hashed = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for name, weight in lm.named_parameters():
        hashed.update(f"{name} {tuple(weight.shape)}".encode())
        hashed.update(weight.detach().contiguous().view(torch.uint8).numpy())
    return hashed.hexdigest()
