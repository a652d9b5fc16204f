"""Edits of the tokens at some positions, the same tokens however a pass comes to them.

A position is a token's number in its own row, the first being 0. Padding has none, on whichever
side it is, and a KV cache changes nothing: a token keeps its position whether a pass runs it with
all others or alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from panscope.errors import ConfigError, Unsupported
from panscope.model.tap import Edit, described
from panscope.sites import Site

PADDING = -1
Positions = Int[Tensor, "batch position"]
"""Of each token that a pass runs; PADDING where it is none."""


@dataclass(frozen=True, slots=True)
class Where:
    """Whose values an edit is given: of each token its row and its position."""

    rows: Int[Tensor, " tokens"]
    positions: Int[Tensor, " tokens"]


@dataclass(frozen=True, slots=True)
class At:
    """An edit of the tokens at `positions`, which are those of every row or given row by row.

    `edit` maps the values (tokens, d), row after row, to others of the same shape. A pass that runs
    only some of the tokens gives it those; one that runs none does not call it.
    """

    positions: Sequence[int] | Sequence[Sequence[int]]
    edit: Callable[[Tensor, Where], Tensor]

    def __call__(self, value: Tensor) -> Tensor:
        """Edit the value of a pass over whole rows, none padded: as an edit of `tap.run` does."""
        refuse_without_tokens(value, value[..., 0])
        n_rows, length = value.shape[:2]
        self.refuse_outside([length] * n_rows)
        return self.placed(torch.arange(length).expand(n_rows, -1))(value)

    def placed(self, positions: Positions) -> Edit:
        """Return the edit for a pass over the tokens of these positions."""
        wanted = [torch.tensor([*row], dtype=torch.long) for row in self._by_row(len(positions))]
        own = positions.cpu()
        chosen = torch.stack([torch.isin(*pair) for pair in zip(own, wanted, strict=True)])
        where = Where(chosen.nonzero()[:, 0], own[chosen])
        return partial(self._edited, chosen, where) if chosen.any() else _as_it_is

    def refuse_outside(self, lengths: Sequence[int]) -> None:
        """Raise ConfigError for a position that a row of such a length does not have."""
        for row, (positions, length) in enumerate(
            zip(self._by_row(len(lengths)), lengths, strict=True)
        ):
            for position in positions:
                if not 0 <= position < length:
                    found = f"is outside row {row}, of which {length} tokens are run"
                    raise ConfigError(f"position {position}", found, f"use 0 to {length - 1}")

    def _by_row(self, n_rows: int) -> Sequence[Sequence[int]]:
        """Return each row's positions."""
        rows = [row for row in self.positions if isinstance(row, Sequence)]
        numbers = [number for number in self.positions if not isinstance(number, Sequence)]
        if not rows:
            return [numbers] * n_rows
        if numbers or len(rows) != n_rows:
            found = f"are {len(rows)} lists and {len(numbers)} numbers for {n_rows} rows"
            raise ConfigError("positions", found, "give numbers, or one list of them for each row")
        return rows

    def _edited(
        self,
        chosen: Bool[Tensor, "batch position"],
        where: Where,
        value: Tensor,
    ) -> Tensor:
        """Put the edited values of the chosen tokens in the place of theirs."""
        refuse_without_tokens(value, chosen)
        chosen = chosen.to(value.device)
        old = value[chosen]
        new = self.edit(old.clone(), where)
        if described(new) != described(old):
            found = f"the edit returned {described(new)} for {described(old)}"
            do = "return the same shape, dtype and device"
            raise ConfigError("edit at positions", found, do)
        return value.index_put((chosen,), new)


def placed(edits: Mapping[Site, Edit], positions: Positions) -> dict[Site, Edit]:
    """Tell the edits that go by positions which ones a pass runs."""
    return {
        site: edit.placed(positions) if isinstance(edit, At) else edit
        for site, edit in edits.items()
    }


def refuse_outside(edits: Mapping[Site, Edit], lengths: Sequence[int]) -> None:
    """Raise ConfigError for an edit at a position that a row of such a length does not have."""
    for edit in edits.values():
        if isinstance(edit, At):
            edit.refuse_outside(lengths)


def refuse_without_tokens(value: Tensor, tokens: Tensor) -> None:
    """Raise Unsupported for a value that is not one vector for each token, as heads' are not."""
    if value.ndim != 3 or value.shape[:2] != tokens.shape:
        found = f"{described(value)} is not (batch, position, d)"
        do = "read and edit such a site whole, with tap.run"
        raise Unsupported("edit or reading by token", found, do)


def _as_it_is(value: Tensor) -> Tensor:
    return value
