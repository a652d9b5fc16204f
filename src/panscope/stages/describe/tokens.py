"""Where the tokens of a text stand: in which row, in which document, of which kind."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from panscope.model.text import Rows

MOST_KINDS = 64  # of which firings are counted: 8 bytes a feature each
OTHERS = "others"


class Tokens(NamedTuple):
    """Where the unmasked tokens of a piece of text stand; an origin numbers a token of all text."""

    origins: Int[Tensor, " tokens"]
    documents: Int[Tensor, " tokens"]
    rows: Int[Tensor, " tokens"]
    kinds: UInt8[Tensor, " tokens"]

    @classmethod
    def of(cls, rows: Rows, first_row: int, kinds: UInt8[Tensor, " batch"]) -> Self:
        """Place the tokens of rows that are numbered from `first_row`, each of a kind."""
        row, position = rows.mask.nonzero(as_tuple=True)
        return cls(
            origins=(first_row + row) * rows.mask.shape[1] + position,
            documents=rows.documents[rows.mask].int(),
            rows=(first_row + row).int(),
            kinds=kinds[row],
        )


class Text(NamedTuple):
    """All the text that was read, piece by piece."""

    tokens: list[Tokens]
    documents: Int[Tensor, " origins"]
    """Of every token, masked ones too."""
    context: int
    kinds: list[dict[str, Any]]
    """The manifest's fact: each kind and its tokens."""

    @classmethod
    def of(cls, pieces: Sequence[tuple[int, Rows]]) -> Self:
        """Number tokens and kinds of a text's pieces, each beside the number of its first row."""
        kinds = _counted([rows for _, rows in pieces])
        number = {kind["kind"]: i for i, kind in enumerate(kinds)}
        return cls(
            tokens=[Tokens.of(rows, first, _numbered(rows, number)) for first, rows in pieces],
            documents=torch.cat([rows.documents.flatten() for _, rows in pieces]),
            context=pieces[0][1].ids.shape[1],
            kinds=kinds,
        )


def _counted(pieces: Sequence[Rows]) -> list[dict[str, Any]]:
    """Count the tokens of each kind, in alphabetical order; the rarest of too many are "others"."""
    n_tokens: Counter[str] = Counter()
    for rows in pieces:
        for kind, n in zip(rows.kinds, rows.mask.sum(1).tolist(), strict=True):
            n_tokens[kind] += n
    by_tokens = sorted(n_tokens, key=lambda kind: (-n_tokens[kind], kind))
    rare = by_tokens[MOST_KINDS - 1 :] if len(by_tokens) > MOST_KINDS else []
    kinds = [{"kind": k, "n_tokens": n_tokens[k]} for k in sorted(set(by_tokens) - set(rare))]
    others = sum(n_tokens[kind] for kind in rare)
    return [*kinds, {"kind": OTHERS, "n_tokens": others}] if rare else kinds


def _numbered(rows: Rows, number: Mapping[str, int]) -> UInt8[Tensor, " batch"]:
    others = len(number) - 1
    return torch.tensor([number.get(kind, others) for kind in rows.kinds], dtype=torch.uint8)
