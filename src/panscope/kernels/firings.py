"""Firings: a Sae's codes sorted by latent, and what is counted of them.

The functions here are the definitions, in PyTorch; `cpu_firings` has the same in C++. All work one
latent at a time, tokens in order: results do not depend on the number of threads.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from panscope.stats import TopK

Classes = UInt8[Tensor, " firings"]
PerFiring = Float[Tensor, " firings"]
PerToken = Int[Tensor, " tokens"]


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


def by_latent(codes: Codes, first: int, end: int) -> Firings:
    """Sort the firings of latents `first` to `end`, which are numbered from `first`."""
    mine = (codes.latents >= first) & (codes.latents < end)
    latents, order = (codes.latents[mine] - first).sort(stable=True)
    starts = torch.zeros(end - first + 1, dtype=torch.int64)
    starts[1:] = torch.bincount(latents, minlength=end - first).cumsum(0)
    return Firings(starts, codes.tokens[mine][order].int(), codes.values[mine][order])


def bins_of(values: PerFiring, inner_edges: Float[Tensor, " edges"]) -> Classes:
    """Return the bin of each value: inner_edges[bin - 1] <= value < inner_edges[bin]."""
    return torch.bucketize(values, inner_edges, right=True).to(torch.uint8)


def count_(counts: Int[Tensor, "latents classes"], firings: Firings, classes: Classes) -> None:
    """Count each latent's firings of each class."""
    at = firings.latents * counts.shape[1] + classes
    counts.view(-1).index_add_(0, at, torch.ones_like(at))


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


def add_together_(
    counts: Int[Tensor, "latents width"],
    products: Float[Tensor, "latents width"],
    firings: Firings,
    codes: Codes,
) -> None:
    """Count at how many tokens each latent fires with each other, and sum the values' products.

    `firings` are those of a range of latents, `codes` all of the same tokens; counts are int32,
    products float64.
    """
    values = torch.zeros(codes.n_tokens, codes.width, dtype=torch.float64)
    values[codes.tokens, codes.latents.long()] = codes.values.double()
    mine = torch.zeros(firings.n_latents, codes.n_tokens, dtype=torch.float64)
    mine[firings.latents, firings.tokens.long()] = firings.values.double()
    counts += ((mine != 0).double() @ (values != 0).double()).int()
    products += mine @ values


@runtime_checkable
class Counting(Protocol):
    """The functions above: the definitions' module or the C++ one's."""

    def by_latent(self, codes: Codes, first: int, end: int) -> Firings:
        """Sort the firings of some latents."""

    def bins_of(self, values: PerFiring, inner_edges: Float[Tensor, " edges"]) -> Classes:
        """Return the bin of each value."""

    def count_(
        self, counts: Int[Tensor, "latents classes"], firings: Firings, classes: Classes
    ) -> None:
        """Count each latent's firings of each class."""

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

    def add_together_(
        self,
        counts: Int[Tensor, "latents width"],
        products: Float[Tensor, "latents width"],
        firings: Firings,
        codes: Codes,
    ) -> None:
        """Count and multiply what fires together."""
