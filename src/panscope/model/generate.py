"""Continue texts token by token with a KV cache, reading and editing at sites on the way.

The first pass runs the prompts, each later one the tokens just written. Sites, edits and positions
mean what they mean in one pass over the whole text: an edit that goes by tokens (adds a vector,
names positions by `At`) gives the same text, and the values read are those of the same tokens.

There is no beam search: its rows change places between passes, and a row would no longer be a text.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from panscope.axes import TokenMask
from panscope.errors import ConfigError
from panscope.model import tap
from panscope.model.load import Model
from panscope.model.positions import placed, refuse_outside, refuse_without_tokens
from panscope.model.ragged import Padded, Rows, padded
from panscope.sites import Site

Choice = Callable[[Float[Tensor, "batch vocab"]], Int[Tensor, "batch 1"]]

COLDEST = (
    1e-6  # below it logits over a temperature leave float32; it takes the likeliest long before
)
Pass = Callable[[Padded, Mapping[str, Any]], Float[Tensor, "batch _ vocab"]]


@dataclass(frozen=True, slots=True)
class Step:
    """Of each row the token just written, and the logits by which it was chosen."""

    ids: Int[Tensor, "batch 1"]
    logits: Float[Tensor, "batch vocab"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Draw tokens instead of taking the likeliest: the logits over a temperature, and a seed."""

    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Generated:
    """Texts with their prompts; values at all tokens but the last, which was written and not read.

    `values[site][row][position]` belongs to `ids[row][position]`.
    """

    ids: tuple[list[int], ...]
    values: dict[Site, Rows]


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    n_tokens: int,
    read: Iterable[Site] = (),
    edits: Mapping[Site, tap.Edit] | None = None,
    sampling: Sampling | None = None,
    ends: Collection[int] = (),
) -> Generated:
    """Write up to `n_tokens` tokens behind each prompt, the likeliest or drawn ones.

    Prompts may differ in length. A row ends behind the first of its new tokens that is in `ends`.
    An edit that is no `At` is given, in turn, the prompts with their padding (batch, position, d)
    and the tokens written (batch, 1, d). Raises as `tap.run` does, and ConfigError for prompts
    without tokens, texts longer than the model's positions, and positions that no pass runs;
    Unsupported for a site that has no vector for each token.
    """
    read, edits = frozenset(read), dict(edits or {})
    prompt = padded(model, prompts, "left")
    lengths = [len(row) for row in prompts]
    refuse_lengths(model, lengths, n_tokens)
    refuse_outside(edits, [length + n_tokens - 1 for length in lengths])
    is_whole = any(tap.needs_head(model, site) for site in {*read, *edits})
    passes: list[tap.Run] = []

    def forward(step: Padded, inputs: Mapping[str, Any]) -> Tensor:
        here, inputs = placed(edits, step.positions), {**inputs, "logits_to_keep": 1 - is_whole}
        ran = tap.run(model, step.ids, read, here, with_logits=True, inputs=inputs)
        assert ran.logits is not None
        for value in ran.values.values():
            refuse_without_tokens(value, step.ids)
        passes.append(ran)
        return ran.logits

    written = prompt.ids[:, :0]
    for step in islice(steps(model, prompt, forward, choice(sampling)), n_tokens):
        written = torch.cat([written, step.ids], 1)
        if _all_ended(written, ends):
            break
    new = written.tolist()
    ids = tuple([*row, *_cut(added, ends)] for row, added in zip(prompts, new, strict=True))
    return Generated(ids, {site: _values(site, passes, prompt, ids) for site in read})


def steps(model: Model, prompt: Padded, forward: Pass, choose: Choice) -> Iterator[Step]:
    """Write token after token behind the prompts, each when it is asked for, without end.

    `forward` runs the tokens of a step with the inputs that it is given beside the ids, among them
    the KV cache, and returns the logits of the last token or of all.
    """
    step, mask = prompt, prompt.mask
    cache = {_cache_is_called(model): DynamicCache(config=model.lm.config.get_text_config())}
    while True:
        inputs = {"use_cache": True, **cache, **_placed_in_row(step, mask, model.device)}
        logits = forward(step, inputs)[:, -1]
        chosen = choose(logits)
        yield Step(chosen, logits)
        step = Padded(chosen, step.positions[:, -1:] + 1)
        mask = torch.cat([mask, step.mask], 1)


def _cache_is_called(model: Model) -> str:
    """Return the name by which the model takes its cache: transformers 5.24 gave it a new one."""
    return "cache" if "cache" in signature(model.lm.forward).parameters else "past_key_values"


def _placed_in_row(step: Padded, mask: TokenMask, device: torch.device) -> dict[str, Any]:
    """Return the positions of a step, and which of all tokens so far are padding, if any is."""
    given = {"position_ids": step.positions.clamp(min=0).to(device)}
    return given if mask.all() else given | {"attention_mask": mask.long().to(device)}


def choice(sampling: Sampling | None) -> Choice:
    """Return how the next tokens are chosen."""
    if sampling is None:
        return _likeliest
    if not sampling.temperature > 0:
        do = "give a positive one; without sampling the likeliest token is taken"
        raise ConfigError("sampling", f"temperature is {sampling.temperature}", do)
    return partial(_drawn, sampling.temperature, torch.Generator().manual_seed(sampling.seed))


def _likeliest(logits: Float[Tensor, "batch vocab"]) -> Int[Tensor, "batch 1"]:
    return logits.argmax(1, keepdim=True).cpu()


def _drawn(
    temperature: float, generator: torch.Generator, logits: Float[Tensor, "batch vocab"]
) -> Int[Tensor, "batch 1"]:
    """Draw a token for each row, on the CPU: a seed means the same on any device."""
    shares = (logits.float().cpu() / max(temperature, COLDEST)).softmax(1)
    return torch.multinomial(shares, 1, generator=generator)


def _all_ended(written: Int[Tensor, "batch position"], ends: Collection[int]) -> bool:
    return bool(torch.isin(written, torch.tensor([*ends])).any(1).all())


def _cut(written: list[int], ends: Collection[int]) -> list[int]:
    """Return new tokens up to the first that ends a text."""
    ended = [number for number, token in enumerate(written) if token in ends]
    return written[: ended[0] + 1] if ended else written


def _values(
    site: Site, passes: Sequence[tap.Run], prompt: Padded, ids: Sequence[Sequence[int]]
) -> Rows:
    """Lay the values of all passes one behind another, and take the rows apart."""
    whole = torch.cat([ran.values[site] for ran in passes], 1)
    starts = (~prompt.mask).sum(1).tolist()
    return tuple(
        value[start : start + len(row) - 1]
        for value, start, row in zip(whole, starts, ids, strict=True)
    )


def refuse_lengths(model: Model, lengths: Sequence[int], n_tokens: int) -> None:
    """Raise ConfigError for texts longer than the model can place."""
    if n_tokens < 1:
        raise ConfigError("n_tokens", f"is {n_tokens}", "write one token or more")
    limit = model.lm.config.get_text_config().max_position_embeddings
    if max(lengths) + n_tokens > limit:
        found = f"{max(lengths)} tokens and {n_tokens} more are over the {limit} of {model.name}"
        raise ConfigError("generate", found, "shorten the prompts, or write fewer")
