"""The architectures: which latents are active, how strongly, and what gradients that gives.

Each is one row of this table, over the same sparse pairs and the same two weight matrices:

| row       | active where                       | f                    | made sparse by          |
|-----------|------------------------------------|----------------------|-------------------------|
| JumpReLU  | z > threshold                      | z                    | cost of L0              |
| ReLU      | z > 0                              | z                    | cost of sum of f (L1)   |
| Gated     | z > 0, z the gate                  | relu(gain u + b_mag) | cost of sum of z        |
| TopK      | among the token's k largest, z > 0 | z                    | k                       |
| BatchTopK | among the k x tokens largest       | z                    | k; a threshold when done|

A row has six functions: `vectors` (its per-latent parameters at the start), `begun` (those that
make it a Sae that is trained already), `encode`, `activity` (what is penalised), `backward`, and
`folded` (the same encoder as threshold and k of a Sae).
`cost` is d penalty / d (mean activity) of each latent.

JumpReLU: Rajamanoharan et al. 2024, arXiv:2407.14435. Gated: arXiv:2404.16014, section 3. TopK: Gao
et al. 2024, arXiv:2406.04093. BatchTopK: Bussmann et al. 2024, arXiv:2412.06410.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from panscope.dist import ALONE, Group
from panscope.kernels.pairs import Pairs, PerLatent, PerPair, Residual
from panscope.stages.train import shards

Vectors = dict[str, Tensor]
Select = Callable[[PerLatent, PerLatent, Tensor | None], Pairs]
"""Encode the batch, or only the tokens that are numbered: (bias, floor, tokens) to pairs."""
Decode = Callable[[PerPair], Residual]
"""Decode the batch's pairs with these activations."""


class Active(NamedTuple):
    """The pairs an encoder keeps and their activations; some may be 0 (kept for their slope)."""

    pairs: Pairs
    f: PerPair


class Backward(NamedTuple):
    """What a row makes of the decoder's pull."""

    residual: Residual
    slope: PerPair
    """d loss / d (w_enc row . x) of each pair."""
    vectors: Vectors
    """Gradients of the row's own vectors; without a `b_enc`, it is the sum of the slopes."""


class Folded(NamedTuple):
    """A row's encoder in the form of a Sae: z = gain (w_enc x) + b_enc, active above threshold."""

    b_enc: PerLatent
    threshold: PerLatent
    gain: PerLatent | None = None
    k: int | None = None


@runtime_checkable
class Architecture(Protocol):
    """What every row can do."""

    def vectors(self, width: int) -> Vectors:
        """Return the row's vectors at the start."""

    def begun(self, b_enc: PerLatent, threshold: PerLatent) -> Vectors:
        """Return the row's vectors that make it this encoder, as far as it can be."""

    def encode(self, select: Select, v: Vectors) -> Active:
        """Choose the active pairs of a batch."""

    def activity(self, active: Active, counts: PerLatent) -> PerLatent | None:
        """Return, latent by latent, the batch's sum of what the penalty is on; None without one.

        `counts` says how often each latent fired.
        """

    def backward(self, active: Active, decode: Decode, v: Vectors, cost: PerLatent) -> Backward:
        """Return the gradients of squared error and penalty."""

    def folded(self, v: Vectors) -> Folded:
        """Return the encoder's bias, threshold and k for the written Sae."""


@dataclass(frozen=True, slots=True)
class JumpReLU:
    """Pairs within half a `bandwidth` below the threshold are kept too: they train it."""

    initial: float
    bandwidth: float

    def vectors(self, width: int) -> Vectors:
        """Return no bias and one threshold for all."""
        return {"b_enc": torch.zeros(width), "threshold": torch.full((width,), self.initial)}

    def begun(self, b_enc: PerLatent, threshold: PerLatent) -> Vectors:
        """Return both as they are."""
        return {"b_enc": b_enc, "threshold": threshold}

    def encode(self, select: Select, v: Vectors) -> Active:
        """Pass what exceeds its threshold."""
        pairs = select(v["b_enc"], v["threshold"] - self.bandwidth / 2, None)
        f = torch.where(pairs.z > pairs.at(v["threshold"]), pairs.z, 0)
        return Active(pairs, f)

    def activity(self, active: Active, counts: PerLatent) -> PerLatent | None:
        """Penalise L0."""
        return counts

    def backward(self, active: Active, decode: Decode, v: Vectors, cost: PerLatent) -> Backward:
        """Estimate the threshold's gradient by a rectangle of one bandwidth around it."""
        pairs, f = active
        residual = decode(f)
        slope = residual.pull * (f != 0)
        threshold = pairs.at(v["threshold"])
        near = (pairs.z - threshold).abs() < self.bandwidth / 2
        push = near * (threshold * residual.pull + pairs.at(cost / pairs.n_tokens))
        return Backward(
            residual, slope, {"threshold": pairs.by_latent(push).mul_(-1 / self.bandwidth)}
        )

    def folded(self, v: Vectors) -> Folded:
        """Return bias and threshold as they are."""
        return Folded(v["b_enc"], v["threshold"])


@dataclass(frozen=True, slots=True)
class ReLU:
    """The L1 autoencoder; unit decoder rows make sum of f the norm-weighted L1."""

    def vectors(self, width: int) -> Vectors:
        """Return no bias."""
        return {"b_enc": torch.zeros(width)}

    def begun(self, b_enc: PerLatent, threshold: PerLatent) -> Vectors:
        """Return the bias; thresholds are dropped."""
        return {"b_enc": b_enc}

    def encode(self, select: Select, v: Vectors) -> Active:
        """Pass what is positive."""
        pairs = select(v["b_enc"], torch.zeros_like(v["b_enc"]), None)
        return Active(pairs, pairs.z)

    def activity(self, active: Active, counts: PerLatent) -> PerLatent | None:
        """Penalise L1."""
        return active.pairs.by_latent(active.f)

    def backward(self, active: Active, decode: Decode, v: Vectors, cost: PerLatent) -> Backward:
        """Add the price of activity to the pull."""
        residual = decode(active.f)
        slope = residual.pull + active.pairs.at(cost / active.pairs.n_tokens)
        return Backward(residual, slope, {})

    def folded(self, v: Vectors) -> Folded:
        """Return thresholds of 0."""
        return Folded(v["b_enc"], torch.zeros_like(v["b_enc"]))


@dataclass(frozen=True, slots=True)
class Gated:
    """Whether a latent fires is learnt apart from how strongly; the gate is trained by itself too.

    u = w_enc x; gate z = u + b_enc; f = relu(exp(log_gain) u + b_mag) where z > 0. The gate's
    own loss is cost x sum of relu(z), plus the squared error of decoding relu(z) with a decoder
    that takes no gradient from it.
    """

    def vectors(self, width: int) -> Vectors:
        """Return a gate and a magnitude that agree."""
        return {name: torch.zeros(width) for name in ("b_enc", "b_mag", "log_gain")}

    def begun(self, b_enc: PerLatent, threshold: PerLatent) -> Vectors:
        """Return a magnitude with this bias and a gate that opens at the threshold."""
        gain = torch.zeros_like(b_enc)
        return {"b_enc": b_enc - threshold, "b_mag": b_enc, "log_gain": gain}

    def encode(self, select: Select, v: Vectors) -> Active:
        """Pass the magnitudes whose gate is open."""
        pairs = select(v["b_enc"], torch.zeros_like(v["b_enc"]), None)
        return Active(pairs, _magnitude(pairs, v).relu_())

    def activity(self, active: Active, counts: PerLatent) -> PerLatent | None:
        """Penalise the sum of the gates."""
        return active.pairs.by_latent(active.pairs.z)

    def backward(self, active: Active, decode: Decode, v: Vectors, cost: PerLatent) -> Backward:
        """Send the pull through the magnitude, and that of the gate's own decoding to the gate."""
        pairs, f = active
        residual = decode(f)
        through = residual.pull * (f > 0)
        gain = pairs.at(v["log_gain"].exp())
        gate = decode(pairs.z).pull + pairs.at(cost / pairs.n_tokens)
        u = pairs.z - pairs.at(v["b_enc"])
        own = {
            "b_enc": pairs.by_latent(gate),
            "b_mag": pairs.by_latent(through),
            "log_gain": pairs.by_latent(through * gain * u),
        }
        return Backward(residual, through * gain + gate, own)

    def folded(self, v: Vectors) -> Folded:
        """Write both conditions as one threshold on the magnitude: it grows with the gate."""
        gain = v["log_gain"].exp()
        threshold = (v["b_mag"] - gain * v["b_enc"]).clamp_min(0)
        return Folded(v["b_mag"], threshold, gain)


def _magnitude(pairs: Pairs, v: Vectors) -> PerPair:
    gain = v["log_gain"].exp()
    return pairs.z * pairs.at(gain) + pairs.at(v["b_mag"] - gain * v["b_enc"])


@dataclass(frozen=True, slots=True)
class TopK:
    """The k largest of each token, over all processes' latents."""

    k: int
    group: Group = ALONE

    def vectors(self, width: int) -> Vectors:
        """Return no bias, and a floor below most tokens' k-th largest, found as it goes."""
        return {"b_enc": torch.zeros(width), "floor": torch.zeros(())}

    def begun(self, b_enc: PerLatent, threshold: PerLatent) -> Vectors:
        """Return the bias; thresholds are dropped."""
        return {"b_enc": b_enc, "floor": b_enc.new_zeros(())}

    def encode(self, select: Select, v: Vectors) -> Active:
        """Select above a floor that nearly every token's k-th largest exceeds; else above 0."""
        pairs = select(v["b_enc"], v["floor"].expand_as(v["b_enc"]), None)
        short = (self.group.sum_(pairs.offsets.diff()) < self.k).nonzero().squeeze(1)
        pairs = shards.largest(pairs, self.k, self.group)
        if len(short) and v["floor"] > 0:
            again = select(v["b_enc"], torch.zeros_like(v["b_enc"]), short)
            pairs = pairs.replaced(short, shards.largest(again, self.k, self.group))
        least = torch.full_like(pairs.offsets[1:], torch.inf, dtype=pairs.z.dtype)
        least.scatter_reduce_(0, pairs.token.long(), pairs.z, "amin")
        least = self.group.gathered(least[None]).amin(0)
        v["floor"].copy_(0.9 * least.nan_to_num(0, 0, 0).quantile(0.02))
        return Active(pairs, pairs.z)

    def activity(self, active: Active, counts: PerLatent) -> PerLatent | None:
        """Penalise nothing."""
        return None

    def backward(self, active: Active, decode: Decode, v: Vectors, cost: PerLatent) -> Backward:
        """Pass the pull on."""
        return _plain(active, decode)

    def folded(self, v: Vectors) -> Folded:
        """Return k beside thresholds of 0."""
        return Folded(v["b_enc"], torch.zeros_like(v["b_enc"]), k=self.k)


@dataclass(frozen=True, slots=True)
class BatchTopK:
    """The k x tokens largest of a batch, wherever they fall, over all processes' latents."""

    k: int
    group: Group = ALONE

    def vectors(self, width: int) -> Vectors:
        """Return no bias, and the running mean of the least activation that passed."""
        return {"b_enc": torch.zeros(width), "least": torch.zeros(())}

    def begun(self, b_enc: PerLatent, threshold: PerLatent) -> Vectors:
        """Return the bias, and the mean threshold as the least that passes."""
        return {"b_enc": b_enc, "least": self.group.gathered(threshold).mean()}

    def encode(self, select: Select, v: Vectors) -> Active:
        """Select above a floor a little below the last batch's, then take the largest."""
        wanted = n_found = 0
        for share in (0.8, 0.0):
            pairs = select(v["b_enc"], (share * v["least"]).expand_as(v["b_enc"]), None)
            wanted, n_found = self.k * pairs.n_tokens, self.group.total(len(pairs.z))
            if n_found >= wanted or not v["least"]:
                break
        if n_found > wanted:
            pairs = pairs.kept(shards.are_largest(pairs.z[None], wanted, self.group)[0])
        least = self.group.gathered(_least(pairs)[None]).amin().nan_to_num(posinf=0)
        v["least"].copy_(torch.where(v["least"] > 0, v["least"].lerp(least, 0.01), least))
        return Active(pairs, pairs.z)

    def activity(self, active: Active, counts: PerLatent) -> PerLatent | None:
        """Penalise nothing."""
        return None

    def backward(self, active: Active, decode: Decode, v: Vectors, cost: PerLatent) -> Backward:
        """Pass the pull on."""
        return _plain(active, decode)

    def folded(self, v: Vectors) -> Folded:
        """Return the running threshold: a token is then encoded without its batch."""
        return Folded(v["b_enc"], v["least"].expand_as(v["b_enc"]).clone())


def _least(pairs: Pairs) -> Tensor:
    return pairs.z.min() if len(pairs.z) else pairs.z.new_full((), torch.inf)


def _plain(active: Active, decode: Decode) -> Backward:
    residual = decode(active.f)
    return Backward(residual, residual.pull, {})
