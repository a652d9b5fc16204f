"""Mergeable accumulators: `zero`, `add` a batch, `merge` with another.

A sum over shards, a resumed run and an all-reduce are then one operation. Sums are kept in float64,
counts in int64 (float32 would stop counting at 2^24).
"""

from dataclasses import dataclass, fields
from typing import NamedTuple, Self

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
    """For each key the k entries of highest score, with where they came from; ties break by origin.

    Scores are positive float32. `origins` are non-negative integers that name an entry; where fewer
    than k were seen the origin is -1 and the score 0. The k slots of a key are in no order: an
    entry stays in its slot until a better one takes it, so that payloads beside it need not move.
    """

    scores: Float[Tensor, "keys k"]
    origins: Int[Tensor, "keys k"]
    lowest: Float[Tensor, " keys"]
    """The score that an entry must exceed."""

    @classmethod
    def zero(cls, n_keys: int, k: int) -> Self:
        """Start with nothing seen."""
        origins = torch.full((n_keys, k), -1, dtype=torch.int64)
        return cls(torch.zeros(n_keys, k), origins, torch.zeros(n_keys))

    def entering(self, keys: Int[Tensor, " n"], scores: Float[Tensor, " n"]) -> Int[Tensor, " j"]:
        """Return which entries exceed the lowest of their key, in order."""
        return (scores > self.lowest.index_select(0, keys)).nonzero().squeeze(1)

    def add_(
        self,
        keys: Int[Tensor, " n"],
        scores: Float[Tensor, " n"],
        origins: Int[Tensor, " n"],
    ) -> "Moves":
        """Take in entries; those that cannot enter are dropped before any sorting."""
        k = self.scores.shape[1]
        entering = self.entering(keys, scores)
        touched, entry_keys = torch.unique(keys[entering], return_inverse=True)
        n_old = len(touched) * k
        all_keys = torch.cat([torch.arange(len(touched)).repeat_interleave(k), entry_keys])
        all_scores = torch.cat([self.scores[touched].flatten(), scores[entering]])
        all_origins = torch.cat([self.origins[touched].flatten(), origins[entering]])
        order, rank = _ranked(all_keys, all_scores, all_origins)
        is_old, is_kept = order < n_old, rank < k
        left, came = order[is_old & ~is_kept], order[~is_old & is_kept]  # key by key, as many
        moves = Moves(touched[left // k], left % k, entering[came - n_old])
        self.scores[moves.keys, moves.slots] = all_scores[came]
        self.origins[moves.keys, moves.slots] = all_origins[came]
        self.lowest[touched] = self.scores[touched].amin(1)
        return moves

    def merge(self, other: Self) -> Self:
        """Return the best k of both."""
        merged = type(self)(self.scores.clone(), self.origins.clone(), self.lowest.clone())
        keys, slots = (other.origins >= 0).nonzero(as_tuple=True)
        merged.add_(keys, other.scores[keys, slots], other.origins[keys, slots])
        return merged


class Moves(NamedTuple):
    """Which slots an addition filled anew, for payloads kept beside.

    The slot of the key now holds the entry `sources[i]` of the added batch.
    """

    keys: Int[Tensor, " moved"]
    slots: Int[Tensor, " moved"]
    sources: Int[Tensor, " moved"]


def _ranked(keys: Tensor, scores: Tensor, origins: Tensor) -> tuple[Tensor, Tensor]:
    """Order entries by key, then best first; return also the rank of each within its key.

    Key and score are sorted as one integer: the bits of non-negative floats are in their order.
    """
    falling = 0x7FFFFFFF - scores.view(torch.int32).long()
    order = torch.argsort(origins)
    order = order[torch.argsort((keys << 32 | falling)[order], stable=True)]
    sorted_keys = keys[order]
    first = torch.searchsorted(sorted_keys, sorted_keys)
    return order, torch.arange(len(order)) - first
