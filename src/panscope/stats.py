"""Mergeable accumulators: `zero`, `add` a batch, `merge` with another.

A sum over shards, a resumed run and an all-reduce are then one operation. Sums are kept in float64,
counts in int64 (float32 would stop counting at 2^24).
"""

from dataclasses import dataclass, fields
from typing import NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(slots=True)
class Moments:
    """Count, sum and sum of squares of vectors: their mean and their variance about it."""

    count: int
    total: Float[Tensor, " d"]
    square: float

    @classmethod
    def zero(cls, d: int) -> Self:
        """Start with nothing seen."""
        return cls(0, torch.zeros(d, dtype=torch.float64), 0.0)

    def add_(self, x: Float[Tensor, "tokens d"]) -> None:
        """Take in a batch of vectors."""
        x64 = x.double().cpu()
        self.count += len(x64)
        self.total += x64.sum(0)
        self.square += float(x64.square().sum())

    def merge(self, other: Self) -> Self:
        """Return the moments of both sets."""
        count, square = self.count + other.count, self.square + other.square
        return type(self)(count, self.total + other.total, square)

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """The mean vector."""
        return self.total / max(self.count, 1)

    @property
    def variance(self) -> float:
        """The mean squared distance from the mean, summed over dimensions."""
        return self.square / max(self.count, 1) - float(self.mean.square().sum())


@dataclass(slots=True)
class Ratio:
    """A ratio of two sums over sequences, with its standard error clustered by sequence.

    Tokens of a sequence are not independent, so the sequence is the unit of sampling: with
    contributions a_j and b_j and R = sum a / sum b, the squared error is
    J / (J - 1) * sum (a_j - R b_j)^2 / (sum b)^2. A mean over tokens has the counts as b_j.
    """

    above: list[float]
    below: list[float]

    @classmethod
    def zero(cls) -> Self:
        """Start with nothing seen."""
        return cls([], [])

    def add_(self, above: Float[Tensor, " batch"], below: Float[Tensor, " batch"]) -> None:
        """Take in the contributions of a batch of sequences."""
        self.above += above.double().tolist()
        self.below += below.double().tolist()

    def merge(self, other: Self) -> Self:
        """Return the ratio over both sets of sequences."""
        return type(self)(self.above + other.above, self.below + other.below)

    @property
    def value(self) -> float:
        """The ratio of the sums; nan if nothing was seen."""
        below = sum(self.below)
        return sum(self.above) / below if below else float("nan")

    @property
    def standard_error(self) -> float:
        """The clustered standard error; nan with fewer than two sequences."""
        n, below = len(self.above), sum(self.below)
        if n < 2 or not below:
            return float("nan")
        pairs = zip(self.above, self.below, strict=True)
        spread = sum((a - self.value * b) ** 2 for a, b in pairs)
        return float((n / (n - 1) * spread) ** 0.5 / abs(below))


@dataclass(slots=True)
class LogHistogram:
    """Counts of positive values in bins that grow by a constant factor, one row a latent.

    Bin edges are scale * 2^(low_octave + i / bins_per_octave); values beyond the ends are counted
    in the outermost bins. The edges do not depend on what is seen, so histograms merge exactly.
    """

    counts: Int[Tensor, "latents bins"]
    scale: float
    low_octave: int
    bins_per_octave: int

    @classmethod
    def zero(cls, n_latents: int, scale: float, octaves: range, bins_per_octave: int) -> Self:
        """Start with nothing seen; `octaves` spans the powers of two around `scale`."""
        counts = torch.zeros(n_latents, len(octaves) * bins_per_octave, dtype=torch.int64)
        return cls(counts, scale, octaves.start, bins_per_octave)

    @property
    def n_bins(self) -> int:
        """The number of bins."""
        return self.counts.shape[1]

    @property
    def edges(self) -> tuple[float, ...]:
        """The `n_bins + 1` edges, ascending."""
        per = self.bins_per_octave
        return tuple(self.scale * 2 ** (self.low_octave + i / per) for i in range(self.n_bins + 1))

    def bins(self, values: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Return the bin of each positive value: edge[bin] <= value < edge[bin + 1]."""
        inner = torch.tensor(self.edges[1:-1], dtype=values.dtype, device=values.device)
        return torch.bucketize(values, inner, right=True)

    def add_(self, latents: Int[Tensor, " n"], bins: Int[Tensor, " n"]) -> None:
        """Count one value for each pair of latent and bin."""
        flat = torch.bincount(latents * self.n_bins + bins, minlength=self.counts.numel())
        self.counts += flat.view_as(self.counts).to(self.counts.device)

    def merge(self, other: Self) -> Self:
        """Return the histogram of both; they must have the same edges."""
        mine, theirs = (
            [getattr(h, f.name) for f in fields(h) if f.name != "counts"] for h in (self, other)
        )
        if mine != theirs:
            raise ValueError(f"histograms with edges {mine} and {theirs} do not merge")
        counts = self.counts + other.counts
        return type(self)(counts, self.scale, self.low_octave, self.bins_per_octave)


@dataclass(slots=True)
class TopK:
    """For each key the k entries of highest score, with where they came from; ties break by origin.

    Scores are positive float32. `origins` are non-negative integers that name an entry; where fewer
    than k were seen the origin is -1 and the score 0.
    """

    scores: Float[Tensor, "keys k"]
    origins: Int[Tensor, "keys k"]

    @classmethod
    def zero(cls, n_keys: int, k: int) -> Self:
        """Start with nothing seen."""
        return cls(torch.zeros(n_keys, k), torch.full((n_keys, k), -1, dtype=torch.int64))

    def add_(
        self,
        keys: Int[Tensor, " n"],
        scores: Float[Tensor, " n"],
        origins: Int[Tensor, " n"],
    ) -> "Moves":
        """Take in entries; those that cannot enter are dropped before any sorting."""
        k = self.scores.shape[1]
        entering = (scores > self.scores[keys, -1]).nonzero().squeeze(1)
        touched, entry_keys = torch.unique(keys[entering], return_inverse=True)
        old_keys = torch.arange(len(touched)).repeat_interleave(k)
        all_keys = torch.cat([old_keys, entry_keys])
        all_scores = torch.cat([self.scores[touched].flatten(), scores[entering]])
        all_origins = torch.cat([self.origins[touched].flatten(), origins[entering]])
        kept, ranks = _ranked(all_keys, all_scores, all_origins, k)
        kept_keys = touched[all_keys[kept]]
        self.scores[kept_keys, ranks] = all_scores[kept]
        self.origins[kept_keys, ranks] = all_origins[kept]
        is_new = kept >= len(old_keys)
        old_ranks = kept[~is_new] % k
        return Moves(kept_keys, ranks, is_new, entering[kept[is_new] - len(old_keys)], old_ranks)

    def merge(self, other: Self) -> Self:
        """Return the best k of both."""
        merged = type(self)(self.scores.clone(), self.origins.clone())
        keys, ranks = (other.origins >= 0).nonzero(as_tuple=True)
        merged.add_(keys, other.scores[keys, ranks], other.origins[keys, ranks])
        return merged


class Moves(NamedTuple):
    """Where the entries of the touched keys stand after an addition, for payloads kept beside.

    Each (key, rank) now holds either entry `sources[i]` of the added batch (the i-th with `is_new`)
    or what stood at rank `old_ranks[i]` of the same key (the i-th without).
    """

    keys: Int[Tensor, " moved"]
    ranks: Int[Tensor, " moved"]
    is_new: Bool[Tensor, " moved"]
    sources: Int[Tensor, " new"]
    old_ranks: Int[Tensor, " old"]


def _ranked(keys: Tensor, scores: Tensor, origins: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return which entries are among the first k of their key, by score, and their ranks.

    Key and score are sorted as one integer: the bits of non-negative floats are in their order.
    """
    falling = 0x7FFFFFFF - scores.view(torch.int32).long()
    order = torch.argsort(origins)
    order = order[torch.argsort((keys << 32 | falling)[order], stable=True)]
    sorted_keys = keys[order]
    first = torch.searchsorted(sorted_keys, sorted_keys)
    rank = torch.arange(len(order)) - first
    return order[rank < k], rank[rank < k]
