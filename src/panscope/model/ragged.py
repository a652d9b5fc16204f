"""Rows of different lengths in one pass: padded on the way in, taken apart on the way out.

Padding reaches no other token: on the right it comes after all that could read it, on the left it
is masked. Positions begin at 0 in each row, which GPT-2, whose positions are absolute, needs on the
left.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from panscope.axes import TokenIds, TokenMask
from panscope.errors import ConfigError
from panscope.model import tap
from panscope.model.load import Model
from panscope.model.positions import (
    PADDING,
    Positions,
    placed,
    refuse_outside,
    refuse_without_tokens,
)
from panscope.sites import Site

Side = Literal["left", "right"]
Rows = tuple[Float[Tensor, "_ _"], ...]
"""Of each row (position, d); every row has as many positions as tokens."""


@dataclass(frozen=True, slots=True)
class Ragged:
    """What a pass gave, row by row, each as long as its tokens."""

    values: dict[Site, Rows]
    logits: Rows | None


@dataclass(frozen=True, slots=True)
class Padded:
    """Rows made equally long."""

    ids: TokenIds
    positions: Positions

    @property
    def mask(self) -> TokenMask:
        """Where there are tokens."""
        return self.positions != PADDING

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """Return what a model must be told about the padding: nothing if it is on the right."""
        if self.mask[:, 0].all():
            return {}
        given = {"attention_mask": self.mask.long(), "position_ids": self.positions.clamp(min=0)}
        return {name: value.to(device) for name, value in given.items()}

    def rows(self, value: Tensor) -> Rows:
        """Take a value apart, without its padding."""
        refuse_without_tokens(value, self.ids)
        mask = self.mask.to(value.device)
        return tuple(row[kept] for row, kept in zip(value, mask, strict=True))


def run(
    model: Model,
    rows: Sequence[Sequence[int]],
    read: Iterable[Site] = (),
    edits: Mapping[Site, tap.Edit] | None = None,
    with_logits: bool = False,
    side: Side = "right",
) -> Ragged:
    """Run rows of token ids in one forward pass, as `tap.run` would each alone.

    Equal to it up to rounding (1e-5 in float32): other lengths are other sums. An edit that is an
    `At` meets tokens alone; any other is given the padding too. Raises as `tap.run` does,
    ConfigError for rows that are empty or hold no token ids of the model, and Unsupported for a
    site that has no vector for each token.
    """
    batch = padded(model, rows, side)
    refuse_outside(edits or {}, [len(row) for row in rows])
    edits = placed(edits or {}, batch.positions)
    inputs = {**tap.NO_CACHE, **batch.inputs(model.device)}
    ran = tap.run(model, batch.ids, read, edits, with_logits, inputs=inputs)
    values = {site: batch.rows(value) for site, value in ran.values.items()}
    return Ragged(values, None if ran.logits is None else batch.rows(ran.logits))


def padded(model: Model, rows: Sequence[Sequence[int]], side: Side) -> Padded:
    """Make rows equally long; which id pads them does not matter."""
    _refuse_unreadable(model, rows)
    longest = max(len(row) for row in rows)
    ids, positions = [], []
    for row in rows:
        missing = longest - len(row)
        before, behind = (missing, 0) if side == "left" else (0, missing)
        ids.append([model.bos_id] * before + [*row] + [model.bos_id] * behind)
        positions.append([PADDING] * before + [*range(len(row))] + [PADDING] * behind)
    return Padded(torch.tensor(ids), torch.tensor(positions))


def _refuse_unreadable(model: Model, rows: Sequence[Sequence[int]]) -> None:
    """Raise ConfigError for rows without tokens, and for numbers that are none."""
    if not rows:
        raise ConfigError("rows", "are none", "give a list of token ids for each row")
    for number, row in enumerate(rows):
        if not row:
            raise ConfigError(f"row {number}", "has no tokens", "give at least the BOS")
        for token in row:
            if not 0 <= token < model.n_vocab:
                found = f"token {token} is not one of {model.name}"
                raise ConfigError(f"row {number}", found, f"use 0 to {model.n_vocab - 1}")
