"""Pairs: the sparse result of an encoder, and the values that all kernels pass to one another.

Of tokens x latents pre-activations only the few above their latent's floor are ever kept. Every
body (`dense`, `cpu`, `gpu`) has the same functions over these values:

    encode(x, w_enc, b_enc, floor)            -> Pairs      one dense product, then a choice
    residual(pairs, f, w_dec, target, bounds) -> Residual   decode, error, pull on each pair
    decode(pairs, f, w_dec, bounds)           -> rebuilt    the two halves of `residual`, for when
    pull(pairs, error, w_dec, bounds)         -> pull       other processes rebuild as well
    gradients(hits, x, error, everywhere)     -> (d w_enc, d w_dec)
    update_(hits, x, error, everywhere, rows, step, rate)   the same, then Adam on touched rows

Weights lie row by row, one latent a row: `w_enc` and `w_dec` are both (latents, d). Elementwise
work on pairs (the nonlinearity, its gradient, penalties) is plain PyTorch, in `stages/train`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panscope.axes import Activations

Encoder = Float[Tensor, "latents d_in"]
Decoder = Float[Tensor, "latents d_out"]
PerLatent = Float[Tensor, " latents"]
PerPair = Float[Tensor, " pairs"]
Index = Int[Tensor, " pairs"]

BETA2 = 0.999
EPSILON = 1e-8


class LatentOrder(NamedTuple):
    """Pairs latent after latent, tokens ascending in each.

    The i-th is pair number `pair[i]`, of `latent[i]`; latent l owns edges[l] : edges[l + 1].
    """

    pair: Index
    latent: Index
    edges: Int[Tensor, " latents_plus_1"]

    def sums(self, values: PerPair) -> PerLatent:
        """Sum the pairs' values latent by latent: equal inputs give equal bits, on a GPU too."""
        return torch.segment_reduce(values[self.pair], "sum", offsets=self.edges, unsafe=True)


@dataclass(frozen=True)
class Pairs:
    """The (token, latent) pairs that were kept, token after token, latents ascending in each.

    `token` and `latent` are int32; token t owns the slice offsets[t] : offsets[t + 1] (int64).
    """

    token: Index
    latent: Index
    z: PerPair
    offsets: Int[Tensor, " tokens_plus_1"]
    n_latents: int

    @property
    def n_tokens(self) -> int:
        """How many tokens were encoded."""
        return len(self.offsets) - 1

    @property
    def density(self) -> float:
        """The share of all pre-activations that was kept."""
        return len(self.z) / max(1, self.n_tokens * self.n_latents)

    @property
    def slot(self) -> Int[Tensor, " pairs"]:
        """Each pair's place among its token's."""
        first = self.offsets[:-1].repeat_interleave(self.offsets.diff())
        return torch.arange(len(self.z), device=self.z.device) - first

    def padded(self) -> Float[Tensor, "tokens longest"]:
        """Lay the values out token by token, from the left, with -inf behind them."""
        counts = self.offsets.diff()
        longest = int(counts.max()) if len(counts) else 0
        padded = self.z.new_full((self.n_tokens, longest), -torch.inf)
        padded[self.token.long(), self.slot] = self.z
        return padded

    def at(self, per_latent: PerLatent) -> PerPair:
        """Give each pair its latent's value."""
        return per_latent.index_select(0, self.latent)

    @cached_property
    def latent_order(self) -> LatentOrder:
        """The order in which a GPU adds up what belongs to a latent; sorted once."""
        latent, pair = self.latent.sort(stable=True)
        numbers = torch.arange(self.n_latents + 1, dtype=latent.dtype, device=latent.device)
        return LatentOrder(pair, latent, torch.searchsorted(latent, numbers))

    def by_latent(self, values: PerPair) -> PerLatent:
        """Sum the pairs' values latent by latent, in an order that equal inputs repeat."""
        if not values.is_cuda:
            return values.new_zeros(self.n_latents).index_add_(0, self.latent, values)
        return self.latent_order.sums(values)  # index_add_ would add as threads come there

    def kept(self, is_kept: Bool[Tensor, " pairs"]) -> "Pairs":
        """Drop the other pairs."""
        token = self.token[is_kept]
        counts = torch.bincount(token, minlength=self.n_tokens)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Pairs(token, self.latent[is_kept], self.z[is_kept], offsets, self.n_latents)

    def largest(self, k: int) -> "Pairs":
        """Keep each token's k largest values, or all where there are fewer."""
        padded = self.padded()
        if padded.shape[1] <= k:
            return self
        chosen = torch.zeros_like(padded, dtype=torch.bool).scatter_(
            1, padded.topk(k).indices, True
        )
        return self.kept(chosen[self.token.long(), self.slot])

    def among(self, tokens: Int[Tensor, " tokens"], n_tokens: int) -> "Pairs":
        """Renumber: these pairs' tokens are, in order, `tokens` of a batch of `n_tokens`."""
        counts = self.offsets.new_zeros(n_tokens).index_add_(0, tokens, self.offsets.diff())
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        token = tokens.int().index_select(0, self.token)
        return Pairs(token, self.latent, self.z, offsets, self.n_latents)

    def replaced(self, tokens: Int[Tensor, " some"], other: "Pairs") -> "Pairs":
        """Take the pairs of these tokens from `other`, which numbers the same tokens."""
        is_theirs = torch.zeros(self.n_tokens, dtype=torch.bool, device=self.z.device)
        is_theirs[tokens] = True
        ours = self.kept(~is_theirs[self.token.long()])
        token, order = torch.cat([ours.token, other.token]).sort(stable=True)
        latent, z = torch.cat([ours.latent, other.latent]), torch.cat([ours.z, other.z])
        counts = ours.offsets.diff() + other.offsets.diff()
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Pairs(token, latent[order], z[order], offsets, self.n_latents)

    def scatter(self, values: PerPair) -> Float[Tensor, "tokens latents"]:
        """Lay the pairs' values out with zeros between them."""
        dense = values.new_zeros(self.n_tokens, self.n_latents)
        dense.view(-1).index_add_(0, self.token.long() * self.n_latents + self.latent, values)
        return dense


class Residual(NamedTuple):
    """What decoding left over.

    With bounds b_1 < ... < b_P = latents, prefix p rebuilds `target` from latents below b_p alone
    (Matryoshka; P = 1 otherwise). error[p] is 2 / tokens times the sum over prefixes q >= p of
    (rebuilt_q - target): the loss gradient that latents of segment p (b_{p-1} <= latent < b_p) see.
    """

    error: Float[Tensor, "prefixes tokens d_out"]
    pull: PerPair
    """d loss / d f of each pair: its decoder row times the error of its segment."""
    squared: Float[Tensor, " prefixes"]
    """Squared error of each prefix, summed over tokens and dimensions; float64."""


def compared_(
    rebuilt: Float[Tensor, "prefixes tokens d_out"], target: Float[Tensor, "tokens d_out"]
) -> tuple[Float[Tensor, "prefixes tokens d_out"], Float[Tensor, " prefixes"]]:
    """Make `rebuilt` the `error` of a Residual, in place; return it with `squared`."""
    error = rebuilt.sub_(target)
    squared = torch.linalg.vector_norm(error, dim=2).double().square_().sum(1)
    error *= 2 / max(1, len(target))
    for prefix in reversed(range(len(error) - 1)):
        error[prefix] += error[prefix + 1]
    return error, squared


class Hits(NamedTuple):
    """What each pair adds to the gradients: f to its decoder row, slope to its encoder row.

        d w_dec[latent] += f     * error[error_row]
        d w_enc[latent] += slope * x[token]

    In any order, with repeats; a pair without effect may be left out. `error_row` indexes the first
    axis of error flattened to rows: segment * tokens + token.
    """

    token: Index
    latent: Index
    error_row: Index
    f: PerPair
    slope: PerPair


@dataclass(slots=True)
class Rows:
    """The weight rows that training changes, with Adam's moments of their gradients.

    `seen` (int32) is the step, counted from 1, at which a latent's rows were last updated, 0 if
    never. A row without gradient stays, and its moments decay by (steps missed) when it is next
    touched. Without momentum that is Adam to the letter; with it, Adam would carry the row on.
    """

    w_enc: Encoder
    w_dec: Decoder
    v_enc: Encoder
    v_dec: Decoder
    m_enc: Float[Tensor, "means d_in"]
    m_dec: Float[Tensor, "means d_out"]
    """The gradients' means; no rows where `momentum` (Adam's beta1) is 0."""
    seen: Int[Tensor, " latents"]
    momentum: float

    @classmethod
    def begin(cls, w_enc: Encoder, w_dec: Decoder, momentum: float = 0.0) -> "Rows":
        """Start with no moments."""
        v_enc, v_dec = torch.zeros_like(w_enc), torch.zeros_like(w_dec)
        n_means = len(w_enc) if momentum else 0
        m_enc, m_dec = (torch.zeros_like(w[:n_means]) for w in (w_enc, w_dec))
        seen = torch.zeros(len(w_enc), dtype=torch.int32, device=w_enc.device)
        return cls(w_enc, w_dec, v_enc, v_dec, m_enc, m_dec, seen, momentum)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that training changes, by name."""
        moments = {"m_enc": self.m_enc, "m_dec": self.m_dec} if self.momentum else {}
        kept = {"w_enc": self.w_enc, "w_dec": self.w_dec, "v_enc": self.v_enc, "v_dec": self.v_dec}
        return {**kept, **moments, "seen": self.seen}


@runtime_checkable
class Body(Protocol):
    """The signature that every body has; the bodies are modules."""

    def encode(self, x: Activations, w_enc: Encoder, b_enc: PerLatent, floor: PerLatent) -> Pairs:
        """Keep the pairs with x w_enc + b_enc > floor, strictly.

        Equal in every body up to the rounding of a float32 product. NaN passes no floor.
        """

    def residual(
        self,
        pairs: Pairs,
        f: PerPair,
        w_dec: Decoder,
        target: Float[Tensor, "tokens d_out"],
        bounds: tuple[int, ...],
    ) -> Residual:
        """Decode f and compare with `target` (biases already taken off it)."""

    def decode(
        self, pairs: Pairs, f: PerPair, w_dec: Decoder, bounds: tuple[int, ...]
    ) -> Float[Tensor, "prefixes tokens d_out"]:
        """Return what each prefix rebuilds."""

    def pull(
        self,
        pairs: Pairs,
        error: Float[Tensor, "prefixes tokens d_out"],
        w_dec: Decoder,
        bounds: tuple[int, ...],
    ) -> PerPair:
        """Return each pair's decoder row times the error of its segment."""

    def gradients(
        self,
        hits: Hits,
        x: Activations,
        error: Float[Tensor, "rows d_out"],
        everywhere: PerLatent | None,
        n_latents: int,
    ) -> tuple[Encoder, Decoder]:
        """Return d w_enc and d w_dec; `everywhere` adds itself times the sum of x to d w_enc."""

    def update_(
        self,
        hits: Hits,
        x: Activations,
        error: Float[Tensor, "rows d_out"],
        everywhere: PerLatent | None,
        rows: Rows,
        step: int,
        rate: float,
    ) -> None:
        """Update each touched latent's rows in place; `step` counts from 1.

        A latent is touched if a hit names it or `everywhere` is not 0 there. The decoder's gradient
        loses its component along its row; Adam moves both rows by `rate`; the decoder row is
        brought back to unit norm (Gemma Scope, arXiv:2408.05147, section 3.2).
        """
