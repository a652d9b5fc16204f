"""Firings: a Sae's codes sorted by latent, and what is counted of them.

The functions here are the definitions, in PyTorch; `cpu_firings` has the same in C++. Sums
go one latent at a time, tokens in order: no result depends on the number of threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from panscope.stats import TopK

Classes = UInt8[Tensor, " firings"]
PerFiring = Float[Tensor, " firings"]
PerToken = Int[Tensor, " tokens"]
ClassPerToken = UInt8[Tensor, " tokens"]
Counts = Int[Tensor, " latents"]
Index = Int[Tensor, " asked"]
Tokens = Int[Tensor, " asked"]


class Together(NamedTuple):
    """The latents that fire most often with each of some, by Jaccard, the first of equals first.

    Jaccard is the share of the tokens where both fire among those where either does. Where there
    are fewer than k, the id is -1 and the Jaccard 0.
    """

    ids: Int[Tensor, "latents k"]
    jaccards: Float[Tensor, "latents k"]

    @classmethod
    def zero(cls, width: int, k: int) -> Self:
        """Start with nothing seen."""
        return cls(torch.full((width, k), -1), torch.zeros(width, k, dtype=torch.float64))


@dataclass(frozen=True, slots=True)
class Codes:
    """What fired in a stretch of text, token after token, latents ascending in each.

    Token t owns the slice offsets[t] : offsets[t + 1] (int64). `latents` are int32, `values`
    positive float32.
    """

    offsets: Int[Tensor, " tokens_plus_1"]
    latents: Int[Tensor, " firings"]
    values: PerFiring
    width: int

    @property
    def n_tokens(self) -> int:
        """How many tokens there are."""
        return len(self.offsets) - 1

    @property
    def tokens(self) -> Int[Tensor, " firings"]:
        """Each firing's token."""
        return torch.arange(self.n_tokens).repeat_interleave(self.offsets.diff())


@dataclass(frozen=True, slots=True)
class Firings:
    """The same, latent after latent, tokens ascending in each.

    Latent i owns the slice starts[i] : starts[i + 1] (int64). `tokens` are int32.
    """

    starts: Int[Tensor, " latents_plus_1"]
    tokens: Int[Tensor, " firings"]
    values: PerFiring

    @property
    def n_latents(self) -> int:
        """How many latents they are of."""
        return len(self.starts) - 1

    @property
    def latents(self) -> Int[Tensor, " firings"]:
        """Each firing's latent."""
        return torch.arange(self.n_latents).repeat_interleave(self.starts.diff())


def by_latent(codes: Codes) -> Firings:
    """Sort what fired."""
    latents, order = codes.latents.sort(stable=True)
    starts = torch.zeros(codes.width + 1, dtype=torch.int64)
    starts[1:] = torch.bincount(latents, minlength=codes.width).cumsum(0)
    return Firings(starts, codes.tokens[order].int(), codes.values[order])


def find(firings: Firings, latents: Index, tokens: Tokens) -> Index:
    """Return where each latent's firings begin that are at its token (int32) or after."""
    n_tokens = 1 + max(int(t.max()) if len(t) else 0 for t in (firings.tokens, tokens))
    places = firings.latents * n_tokens + firings.tokens
    return torch.searchsorted(places, latents * n_tokens + tokens)


def bins_of(values: PerFiring, inner_edges: Float[Tensor, " edges"]) -> Classes:
    """Return the bin of each value: inner_edges[bin - 1] <= value < inner_edges[bin]."""
    return torch.bucketize(values, inner_edges, right=True).to(torch.uint8)


def count_(counts: Int[Tensor, "latents classes"], firings: Firings, classes: Classes) -> None:
    """Count each latent's firings of each class."""
    at = firings.latents * counts.shape[1] + classes
    counts.view(-1).index_add_(0, at, torch.ones_like(at))


def count_tokens_(
    counts: Int[Tensor, "latents classes"], firings: Firings, classes: ClassPerToken
) -> None:
    """Count each latent's firings at tokens of each class."""
    count_(counts, firings, classes[firings.tokens.long()])


def sum_(
    total: Float[Tensor, " latents"], square: Float[Tensor, " latents"], firings: Firings
) -> None:
    """Add up each latent's values, and their squares, in float64."""
    values = firings.values.double()
    total.index_add_(0, firings.latents, values)
    square.index_add_(0, firings.latents, values.square())


def offer_(
    best: TopK,
    firings: Firings,
    scores: PerFiring,
    origins: PerToken,
    groups: PerToken,
    classes: Classes,
) -> None:
    """Offer each firing to the best of its latent and class, key `latent * n_classes + class`.

    Origin (int64) and group (int32) are those of its token.
    """
    keys = firings.latents * (len(best.scores) // firings.n_latents) + classes
    at = firings.tokens.long()
    best.add_(keys, scores, origins[at], groups[at])


def lots_of(firings: Firings, origins: PerToken, salt: int) -> PerFiring:
    """Draw a number in (0, 1] for each firing, from its latent, its token's origin and a salt.

    The highest lots are a uniform sample that does not depend on how the text was cut.
    """
    at = origins[firings.tokens.long()]
    mixed = at * 0x9E3779B97F4A7C1 + firings.latents * 0x5851F42D4C957F2 + salt
    mixed = (mixed ^ (mixed >> 31)) * 0x3F58476D1CE4E5B
    mixed = (mixed ^ (mixed >> 29)) * 0x14D049BB133111E
    return (1 + (mixed >> 20 & 0xFFFFFF)).float() / 0x1000000


def accompany_(
    found: Together, codes: Sequence[Codes], n_firings: Counts, first: int, end: int
) -> None:
    """Offer pairs of latents that fire together to the companions of both.

    All pairs whose lower latent is of `first` to `end`; `codes` are those of all text, piece by
    piece, and `n_firings` counts them.
    """
    width = len(n_firings)
    both = torch.zeros(end - first, width, dtype=torch.float64)
    for piece in codes:
        fired = torch.zeros(piece.n_tokens, width, dtype=torch.float64)
        fired[piece.tokens, piece.latents.long()] = 1
        both += fired[:, first:end].T @ fired
    either = n_firings[first:end, None] + n_firings - both
    jaccards = (both / either.clamp_min(1)).triu(first + 1)
    others = torch.arange(width).expand(end - first, width)
    _offer_rows_(found, slice(first, end), others, jaccards)
    lower = torch.arange(first, end).expand(width, end - first)
    _offer_rows_(found, slice(None), lower, jaccards.T)


def _offer_rows_(found: Together, rows: slice, ids: Tensor, jaccards: Tensor) -> None:
    """Take the best of what some latents have and what they are offered; zeros are nothing."""
    k = found.ids.shape[1]
    ids = torch.cat([found.ids[rows], torch.where(jaccards > 0, ids, -1)], dim=1)
    jaccards = torch.cat([found.jaccards[rows], jaccards], dim=1)
    order = ids.argsort(dim=1, stable=True)
    ranks = jaccards.gather(1, order).argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, ranks)[:, :k]
    found.ids[rows], found.jaccards[rows] = ids.gather(1, order), jaccards.gather(1, order)


def multiply_(
    products: Float[Tensor, "latents k"],
    firings: Firings,
    n_tokens: int,
    ids: Int[Tensor, "latents k"],
) -> None:
    """Add up each latent's values (float64) times those of k others at the same tokens.

    `firings` are those of all latents; an id of -1 is none.
    """
    values = torch.zeros(firings.n_latents, n_tokens, dtype=torch.float64)
    values[firings.latents, firings.tokens.long()] = firings.values.double()
    for added, others in zip(products.unbind(1), ids.unbind(1), strict=True):
        added += torch.where(others >= 0, (values * values[others]).sum(1), 0)


@runtime_checkable
class Counting(Protocol):
    """The functions above: the definitions' module or the C++ one's."""

    def by_latent(self, codes: Codes) -> Firings:
        """Sort what fired."""

    def find(self, firings: Firings, latents: Index, tokens: Tokens) -> Index:
        """Return where each latent's firings begin that are at its token or after."""

    def bins_of(self, values: PerFiring, inner_edges: Float[Tensor, " edges"]) -> Classes:
        """Return the bin of each value."""

    def count_(
        self, counts: Int[Tensor, "latents classes"], firings: Firings, classes: Classes
    ) -> None:
        """Count each latent's firings of each class."""

    def count_tokens_(
        self, counts: Int[Tensor, "latents classes"], firings: Firings, classes: ClassPerToken
    ) -> None:
        """Count each latent's firings at tokens of each class."""

    def sum_(
        self, total: Float[Tensor, " latents"], square: Float[Tensor, " latents"], firings: Firings
    ) -> None:
        """Add up each latent's values, and their squares."""

    def offer_(
        self,
        best: TopK,
        firings: Firings,
        scores: PerFiring,
        origins: PerToken,
        groups: PerToken,
        classes: Classes,
    ) -> None:
        """Offer each firing to the best of its latent and class."""

    def lots_of(self, firings: Firings, origins: PerToken, salt: int) -> PerFiring:
        """Draw a number for each firing."""

    def accompany_(
        self, found: Together, codes: Sequence[Codes], n_firings: Counts, first: int, end: int
    ) -> None:
        """Offer latents that fire together to each other's companions."""

    def multiply_(
        self,
        products: Float[Tensor, "latents k"],
        firings: Firings,
        n_tokens: int,
        ids: Int[Tensor, "latents k"],
    ) -> None:
        """Add up each latent's values times those of k others."""
