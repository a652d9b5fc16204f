"""A text written twice, as the model is and with edits in it, token by token beside each other.

Three rows go on together, each with a KV cache of its own: the normal text; the steered text; and
the steered text once more, read by the model as it is, which tells at each token how far the edits
moved the prediction. Apart from the edits they are the same passes, so without edits all three
agree to the bit.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from panscope.errors import ConfigError
from panscope.model import tap
from panscope.model.generate import Sampling, Step, choice, refuse_lengths, steps
from panscope.model.ragged import Padded, padded
from panscope.splice.edited import PerToken, Steered, Steering, refuse_outside

Distribution = Float[Tensor, " vocab"]


@dataclass(frozen=True, slots=True)
class Guess:
    """A token, and how likely the model took it to be: at temperature 1, whatever was drawn at."""

    token: int
    probability: float


@dataclass(frozen=True, slots=True)
class Written:
    """A token that was written, and the likeliest ones in its place."""

    token: int
    probability: float
    likeliest: tuple[Guess, ...]


@dataclass(frozen=True, slots=True)
class Beside:
    """One more token of both texts, None behind an end.

    `kl_nats` is the divergence of the steered prediction from the unsteered one of the same text.
    `shares`, an edit each, is the median over the tokens just run that it moved (first the prompt,
    then one) of the length of what it added over that of the value there; 0 if it moved none.
    """

    normal: Written | None
    steered: Written | None
    kl_nats: float | None
    shares: tuple[float, ...]


def beside(
    steering: Steering,
    prompt: Sequence[int],
    n_tokens: int,
    sampling: Sampling | None = None,
    ends: Collection[int] = (),
    n_likeliest: int = 5,
) -> Iterator[Beside]:
    """Write up to `n_tokens` tokens of both texts, each when it is asked for; one seed draws both.

    A text ends behind its first new token in `ends`. Raises, before the first token, ConfigError
    for a text too long and for an edit at a position that it does not reach; at a token, for edits
    that leave no prediction.
    """
    refuse_lengths(steering.model, [len(prompt)], n_tokens)
    refuse_outside(steering.edits, len(prompt), len(prompt) + n_tokens - 1)
    return _written(steering, prompt, n_tokens, sampling, ends, n_likeliest)


def _written(
    steering: Steering,
    prompt: Sequence[int],
    n_tokens: int,
    sampling: Sampling | None,
    ends: Collection[int],
    n_likeliest: int,
) -> Iterator[Beside]:
    model, row = steering.model, padded(steering.model, [prompt], "right")
    ran: list[Steered] = []
    followed: list[Int[Tensor, "1 1"]] = []

    def run(edits: Steering, step: Padded, inputs: Mapping[str, Any]) -> Tensor:
        ran[:] = [edits.run(step, [len(prompt)], inputs={**inputs, "logits_to_keep": kept})]
        _refuse_overflow(ran[0].logits)
        return ran[0].logits

    kept = 0 if any(tap.needs_head(model, site) for site in steering.sites) else 1
    with_edits, without = partial(run, steering), partial(run, Steering(model, ()))
    normal = _to_its_end(steps(model, row, without, choice(sampling)), ends)
    steered = _to_its_end(steps(model, row, with_edits, choice(sampling)), ends)
    read_on = steps(model, row, without, lambda logits: followed[-1])
    for one, other in islice(zip_longest(normal, steered), n_tokens):
        if other is None:
            yield Beside(_token(one, n_likeliest), None, None, ())
            continue
        shares = tuple(map(_median, ran[0].shares))
        followed.append(other.ids)
        kl = _kl(other.logits[0], next(read_on).logits[0])
        yield Beside(_token(one, n_likeliest), _token(other, n_likeliest), kl, shares)


def _refuse_overflow(logits: Tensor) -> None:
    """Raise ConfigError for a prediction that is none: edits beyond what numbers can hold."""
    if not logits[0, -1].float().logsumexp(-1).isfinite():
        found = "the edits are so strong that no prediction is left"
        raise ConfigError("steered text", found, "make them weaker")


def _to_its_end(written: Iterator[Step], ends: Collection[int]) -> Iterator[Step]:
    """Write until a token ends the text."""
    for step in written:
        yield step
        if int(step.ids) in ends:
            return


def _token(step: Step | None, n_likeliest: int) -> Written | None:
    """Say what was written, and what else was likely."""
    if step is None:
        return None
    probabilities = step.logits[0].float().softmax(-1)
    token = int(step.ids)
    best = probabilities.topk(n_likeliest)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Written(token, float(probabilities[token]), tuple(Guess(*pair) for pair in pairs))


def _kl(of: Distribution, to: Distribution) -> float:
    """Return the divergence of one prediction from another, in nats."""
    log_p, log_q = of.double().log_softmax(-1), to.double().log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum())


def _median(share: PerToken) -> float:
    """Return the median over the tokens that were moved."""
    moved = share[share > 0]
    return float(moved.median()) if len(moved) else 0.0
