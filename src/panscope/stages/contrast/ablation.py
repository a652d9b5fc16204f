"""What ablating features changes on the held-out prompts: their loss, the odds of two answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from panscope import splice
from panscope.edits import Edit
from panscope.model.load import Model
from panscope.sae.sae import Sae
from panscope.stages.contrast.prompts import Tokens

PerPrompt = Float[Tensor, " prompts"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of each prompt the mean loss of its tokens, in nats, and how far one answer leads another."""

    loss: PerPrompt
    lead: PerPrompt | None


@dataclass(frozen=True, slots=True)
class Change:
    """The mean over a set's prompts of what an ablation changed, and its standard error."""

    mean: float
    error: float


@dataclass(frozen=True, slots=True)
class Ablation:
    """What ablating some features of one Sae changed, in each set."""

    loss: tuple[Change, Change]
    lead: tuple[Change, Change] | None


@dataclass(frozen=True, slots=True)
class Bench:
    """Prompts to ablate on; `answers` are the tokens whose logits at each prompt's end compete."""

    model: Model
    rows: Sequence[Tokens]
    is_a: Bool[Tensor, " prompts"]
    answers: tuple[int, int] | None
    batch_rows: int

    def outcome(self, saes: Mapping[str, Sae], edits: Sequence[Edit]) -> Outcome:
        """Run all prompts with edits in them."""
        found = list(self._each(saes, edits))
        losses = [_loss(row, logits) for row, logits in zip(self.rows, found, strict=True)]
        if self.answers is None:
            return Outcome(torch.stack(losses), None)
        one, other = self.answers
        return Outcome(
            torch.stack(losses),
            torch.stack([logits[-1, one] - logits[-1, other] for logits in found]),
        )

    def ablated(self, name: str, sae: Sae, indices: Sequence[int], base: Outcome) -> Ablation:
        """Ablate features of one Sae at all tokens that are not special."""
        edits = [Edit(action="zero", sae=name, index=index) for index in indices]
        now = self.outcome({name: sae}, edits)
        loss = self._by_set(now.loss - base.loss)
        if now.lead is None or base.lead is None:
            return Ablation(loss, None)
        return Ablation(loss, self._by_set(now.lead - base.lead))

    def _each(self, saes: Mapping[str, Sae], edits: Sequence[Edit]) -> Iterator[Tensor]:
        for begin in range(0, len(self.rows), self.batch_rows):
            batch = self.rows[begin : begin + self.batch_rows]
            logits = splice.steered(self.model, saes, edits, batch).logits
            assert logits is not None
            yield from (one.float().cpu() for one in logits)

    def _by_set(self, changes: PerPrompt) -> tuple[Change, Change]:
        return _change(changes[self.is_a]), _change(changes[~self.is_a])


def _loss(row: Tokens, logits: Float[Tensor, "position vocab"]) -> Float[Tensor, ""]:
    return cross_entropy(logits[:-1], torch.tensor(row[1:]))


def _change(changes: PerPrompt) -> Change:
    return Change(float(changes.mean()), float(changes.std() / len(changes) ** 0.5))
