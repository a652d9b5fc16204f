"""Mergeable accumulators: `zero`, `add` a batch, `merge` with another.

A sum over shards, a resumed run and an all-reduce are then one operation. Sums are kept in float64,
counts in int64 (float32 would stop counting at 2^24).
"""

from dataclasses import dataclass, fields
from typing import Self

import torch
from jaxtyping import Float, Int
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
        flat = (latents * self.n_bins + bins).to(self.counts.device)
        self.counts.view(-1).index_add_(0, flat, torch.ones_like(flat))

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
    """For each key the k entries of highest score, at most one of a group; ties break by origin.

    Scores are positive float32. `origins` (int64) name entries, ascending in time; `groups` (int32)
    say what must not stand twice. Entries are in order, best first; where fewer than k were seen
    the origin and the group are -1 and the score 0.
    """

    scores: Float[Tensor, "keys k"]
    origins: Int[Tensor, "keys k"]
    groups: Int[Tensor, "keys k"]

    @classmethod
    def zero(cls, n_keys: int, k: int) -> Self:
        """Start with nothing seen."""
        origins = torch.full((n_keys, k), -1, dtype=torch.int64)
        return cls(torch.zeros(n_keys, k), origins, origins.int())

    def add_(
        self,
        keys: Int[Tensor, " n"],
        scores: Float[Tensor, " n"],
        origins: Int[Tensor, " n"],
        groups: Int[Tensor, " n"],
    ) -> None:
        """Take in entries; those that cannot enter are dropped before any sorting."""
        entering = (scores > self.scores[:, -1][keys]).nonzero().squeeze(1)
        touched, at = torch.unique(keys[entering], return_inverse=True)
        k = self.scores.shape[1]
        old = self.origins[touched] >= 0
        all_keys = torch.cat([old.nonzero()[:, 0], at])
        all_scores = torch.cat([self.scores[touched][old], scores[entering]])
        all_origins = torch.cat([self.origins[touched][old], origins[entering]])
        all_groups = torch.cat([self.groups[touched][old], groups[entering].int()])
        order = _ranked(all_keys, all_scores, all_origins)
        order = order[_first_of_each(all_keys[order], all_groups[order])]
        sorted_keys = all_keys[order]
        rank = torch.arange(len(order)) - torch.searchsorted(sorted_keys, sorted_keys)
        order, sorted_keys, rank = (part[rank < k] for part in (order, sorted_keys, rank))
        for mine, empty, values in (
            (self.scores, 0, all_scores),
            (self.origins, -1, all_origins),
            (self.groups, -1, all_groups),
        ):
            mine[touched] = empty
            mine[touched[sorted_keys], rank] = values[order]

    def merge(self, other: Self) -> Self:
        """Return the best k of both."""
        merged = type(self)(self.scores.clone(), self.origins.clone(), self.groups.clone())
        keys, slots = (other.origins >= 0).nonzero(as_tuple=True)
        entries = (other.scores, other.origins, other.groups)
        merged.add_(keys, *(part[keys, slots] for part in entries))
        return merged


def _ranked(keys: Tensor, scores: Tensor, origins: Tensor) -> Tensor:
    """Order entries by key, then best first, then by origin.

    Key and score are sorted as one integer: the bits of non-negative floats are in their order.
    """
    falling = 0x7FFFFFFF - scores.view(torch.int32).long()
    order = torch.argsort(origins)
    return order[torch.argsort((keys << 32 | falling)[order], stable=True)]


def _first_of_each(keys: Tensor, groups: Tensor) -> Tensor:
    """Return, in order, where each pair of key and group stands for the first time."""
    pairs = keys << 32 | groups
    by_pair = torch.argsort(pairs, stable=True)
    is_first = torch.ones_like(pairs, dtype=torch.bool)
    is_first[1:] = pairs[by_pair][1:] != pairs[by_pair][:-1]
    return by_pair[is_first].sort().values
