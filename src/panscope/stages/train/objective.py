"""What training minimises and how its strengths change over time: the recipe's words.

What is None follows from the run's length and the activations' scale (`course`). The numbers of
Gemma Scope (Lieberum et al. 2024, arXiv:2408.05147, section 3.2), which presume a million steps,
are in the packaged recipe `gemma_scope_1`; those of its successor, as known, in `gemma_scope_2`.
"""

import math
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from panscope import config

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AtLeastZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0)]
Steps = Annotated[int, Field(ge=0)]
Some = Field(min_length=1)

Kind = Literal["autoencoder", "transcoder", "skip_transcoder", "crosscoder"]
ArchitectureName = Literal["jumprelu", "relu", "gated", "topk", "batch_topk"]


class Schedule(config.Config):
    """How the learning rate and the sparsity penalty change over the steps."""

    learning_rate: Positive | None = None
    """None follows the rule of `course`, as every None here does."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Adam's beta1. With 0 a Sae needs a third less memory, and higher L0 are met less well."""
    bias_rate: Positive = 0.1
    """The learning rate of biases, thresholds and gains as a multiple of the rows'."""
    warmup_steps: Steps | None = None
    """Cosine from a tenth of the rate to the whole of it."""
    decay_share: Share | None = None
    """The last share of all steps over which the rate falls linearly to nothing."""
    sparsity_warmup_steps: Steps | None = None
    """From hardly any penalty to the whole of it: linear for a price, geometric for a target."""


class Threshold(config.Config):
    """The thresholds: their start, the width of the kernel that trains them, their own rate.

    In units of the input's root mean square norm, which is 1 in training.
    """

    initial: Positive | None = None
    bandwidth: Positive | None = None
    rate: Positive = 1.0
    """The thresholds' learning rate as a multiple of the biases'."""


class Revive(config.Config):
    """What is done for dead latents, which have not fired for `dead_after_tokens`."""

    dead_after_tokens: Count = 10_000_000
    aux_strength: AtLeastZero = 1 / 32
    """TopK and BatchTopK: the weight of the auxiliary loss, in which the `aux_k` largest dead
    latents rebuild what the living left over (Gao et al. 2024, arXiv:2406.04093, appendix A.2)."""
    aux_k: Count = 512
    preact_strength: AtLeastZero = 0.0
    """JumpReLU: the weight of relu(threshold - z), summed over dead latents."""


class Frequency(config.Config):
    """A penalty on latents that fire often: strength x sum of p^2 / scale over firing shares p.

    Beside the L0 penalty, as in Gemma Scope 2; its constants are not published.
    """

    strength: AtLeastZero = 0.0
    scale: Positive = 0.1


class Saes(config.Config):
    """A product of Saes to train: sites x widths x sparsities x learning rates x seeds."""

    kind: Kind = "autoencoder"
    architecture: ArchitectureName = "jumprelu"
    sites: Annotated[tuple[str, ...], Some] = ("resid_post.*", "mlp_out.*", "attn_z.*")
    """What is read: one Sae each; a crosscoder reads and writes all of them."""
    writes: tuple[str, ...] = ()
    """Transcoders: what is written, paired with `sites` in the order of a forward pass."""
    widths: Annotated[tuple[Count, ...], Some] = (16_384,)
    sparsity: tuple[Positive, ...] = ()
    """The price of activity (lambda), one Sae each: of L0 for jumprelu, L1 for relu and gated."""
    target_l0: tuple[Positive, ...] = ()
    """Wanted mean L0, one Sae each: by a quadratic penalty for jumprelu; k for topk, batch_topk."""
    target_strength: Positive = 1.0
    """Strength of the quadratic penalty of a target L0."""
    learning_rates: tuple[Positive, ...] = ()
    """One Sae each; empty for the schedule's."""
    prefixes: tuple[Count, ...] = ()
    """Matryoshka: numbers of first latents that must rebuild the target by themselves."""
    frequency: Frequency = Frequency()
    revive: Revive = Revive()
    seeds: Annotated[tuple[Seed, ...], Some] = (0,)
    tokens: Count | None = None
    """How many they are trained on; None for as many as the recipe's first product."""

    @model_validator(mode="after")
    def _is_possible(self) -> "Saes":
        for problem in _problems(self):
            raise ValueError(problem)
        return self


def _problems(saes: Saes) -> list[str]:
    """List, in one sentence each, what no training could do."""
    widest, by_k = min(saes.widths), saes.architecture in ("topk", "batch_topk")
    revive, usual = saes.revive, Revive()
    found = []
    if bool(saes.sparsity) == bool(saes.target_l0):
        found.append("give either sparsity or target_l0, one value or more")
    if by_k and saes.sparsity:
        found.append(f"{saes.architecture} takes its k from target_l0, not a sparsity")
    if saes.architecture in ("relu", "gated") and saes.target_l0:
        found.append(f"{saes.architecture} has no target_l0: give sparsity, the price of L1")
    found += [f"target_l0 {l0:g} is not below the width" for l0 in saes.target_l0 if l0 >= widest]
    if by_k:
        found += [f"k = {l0:g} is no whole number" for l0 in saes.target_l0 if l0 % 1]
    found += [f"prefix {p} is not below the width {widest}" for p in saes.prefixes if p >= widest]
    if saes.frequency.strength and saes.architecture != "jumprelu":
        found.append("the frequency penalty acts on thresholds: it needs jumprelu")
    if saes.architecture != "jumprelu" and revive.preact_strength:
        found.append("revive.preact_strength acts on thresholds: it needs jumprelu")
    if not by_k and (revive.aux_strength, revive.aux_k) != (usual.aux_strength, usual.aux_k):
        found.append("revive.aux_strength and aux_k are those of topk and batch_topk")
    if list(saes.prefixes) != sorted(set(saes.prefixes)):
        found.append("prefixes must ascend")
    if ("transcoder" in saes.kind) != bool(saes.writes):
        found.append("transcoders, and nothing else, need writes: the sites they write")
    return found


class Config(Saes):
    """A suite to train over one stream: one product of Saes, and `more` of them."""

    tokens: Count = 4_000_000_000
    more: tuple[Saes, ...] = ()
    batch_tokens: Count = 4096
    schedule: Schedule = Schedule()
    threshold: Threshold = Threshold()
    bias: Literal["mean", "zero"] = "mean"
    """Where `b_dec` starts: at the mean of the stream's first batches, or at 0 (Gemma Scope)."""
    begin_from: str | None = None
    """The folder of a suite from whose Saes training begins, each from the one of its sites and
    width; none for a random draw."""
    checkpoint_steps: Count = 200
    latent_shards: Count = 1
    """Over how many processes the latents of every Sae are split: more than 1 under torchrun."""
    memory_gb: Positive | None = None
    """What the Saes trained together may take; none for half of what the device, or the host's
    container, has. What does not fit is trained in several passes over the stream."""

    @model_validator(mode="after")
    def _has_a_batch(self) -> "Config":
        if not all(map(self.steps_of, (self, *self.more))):
            raise ValueError("tokens is less than one batch")
        return self

    @model_validator(mode="after")
    def _splits_evenly(self) -> "Config":
        for width in (width for saes in (self, *self.more) for width in saes.widths):
            if width % self.latent_shards:
                shards = self.latent_shards
                raise ValueError(f"width {width} does not split into {shards} equal latent_shards")
        return self

    def steps_of(self, saes: Saes) -> int:
        """Return the number of whole batches that one of the products is trained on."""
        return (saes.tokens or self.tokens) // self.batch_tokens


class Price(config.Config):
    """Sparsity by price: `sparsity` times mean activity (lambda of the papers)."""

    sparsity: float

    @property
    def label(self) -> str:
        """How a Sae's name says it."""
        return f"lambda_{self.sparsity:g}"

    def value(self, activity: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return the penalty."""
        return self.sparsity * activity

    def slope(self, activity: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return d penalty / d mean activity."""
        return activity.new_full((), self.sparsity)

    def share_at(self, progress: float) -> float:
        """Return the share that applies at some progress of the warm-up: linear."""
        return progress


class TargetL0(config.Config):
    """Sparsity by target: target_strength * (L0 / target_l0 - 1)^2 of the batch's mean L0."""

    target_l0: float
    target_strength: float

    @property
    def label(self) -> str:
        """How a Sae's name says it."""
        return f"l0_{self.target_l0:g}"

    def value(self, l0: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return the penalty."""
        return self.target_strength * (l0 / self.target_l0 - 1).square()

    def slope(self, l0: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return d penalty / d mean L0."""
        return (2 * self.target_strength / self.target_l0) * (l0 / self.target_l0 - 1)

    def share_at(self, progress: float) -> float:
        """Return the share that applies at some progress of the warm-up: geometric.

        Untrained codes are several times too dense, so the whole penalty, or a linear warm-up,
        would press a hundred times harder than the target needs in the end: latents die, and Adam,
        which remembers the size of a thousand gradients, moves thresholds too little afterwards.
        The pressure on dense codes falls with the square of the target; beginning at (target / 300)
        squared it is the same for all targets. With less, codes of large targets grow so dense that
        the steps of their many latents add up, and training collapses.
        """
        begin = min(1.0, (self.target_l0 / 300) ** 2)
        return math.pow(begin, 1 - progress)


Penalty = Price | TargetL0


def penalties(saes: Saes) -> tuple[Penalty, ...]:
    """List the penalties a product asks for, one Sae each; of a k, the target is the k."""
    by_price = tuple(Price(sparsity=s) for s in saes.sparsity)
    strength = saes.target_strength
    by_target = tuple(TargetL0(target_l0=t, target_strength=strength) for t in saes.target_l0)
    return by_price or by_target
