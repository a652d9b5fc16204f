"""A Sae in training: its parameters and one step of them.

A step has one dense product at most, in `encode`; everything after it is on the pairs that were
kept. Inputs have unit mean square norm; `scales` is what raw activations were divided by. In a
group of processes a member is this one's shard of the Sae's latents (`shards`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from panscope.axes import Activations
from panscope.dist import ALONE, Group
from panscope.kernels.bodies import body_for
from panscope.kernels.pairs import Body, Pairs, PerLatent, PerPair, Residual, Rows
from panscope.sae.sae import Sae, fold
from panscope.stages.train import optimiser, shards, start
from panscope.stages.train.architectures import Active, Architecture, Backward, Vectors
from panscope.stages.train.course import Course, course
from panscope.stages.train.draw import draw
from panscope.stages.train.gradient import Gradient, pulled_up, rebuilding
from panscope.stages.train.meter import Meter
from panscope.stages.train.objective import Config
from panscope.stages.train.sweep import Spec

Target = Float[Tensor, "tokens d_out"]
TENTHS = torch.tensor([0.1, 0.5, 0.9])


@dataclass(frozen=True, slots=True)
class Scales:
    """What brings a Sae's raw activations to unit mean square norm, and the target's moments."""

    read: Float[Tensor, " d_in"]
    written: Float[Tensor, " d_out"]
    mean: Float[Tensor, " d_out"]
    variance: float
    """Of the scaled target, summed over dimensions: the denominator of FVU."""


@dataclass(slots=True)
class Member:
    """A Sae in training."""

    spec: Spec
    config: Config
    course: Course
    row: Architecture
    scales: Scales
    rows: Rows
    vectors: Vectors
    """The architecture's own, `b_dec`, and `skip` if there is one."""
    moments: Vectors
    means: Vectors
    """Of the vectors' gradients; none without momentum."""
    meter: Meter
    group: Group = ALONE
    density: float = field(default=1.0)
    """Share of pre-activations kept in the last step; it chooses the body of the next."""

    @classmethod
    def begin(
        cls,
        spec: Spec,
        config: Config,
        scales: Scales,
        group: Group = ALONE,
        begin_from: Sae | None = None,
    ) -> Self:
        """Make a member at step 0, on the device of its scales: drawn, or from a Sae."""
        device = scales.read.device
        is_centred = spec.centres and config.bias == "mean"  # what the encoder reads at first
        seen = scales.variance if is_centred else float(len(spec.reads))
        row = spec.architecture(config, len(scales.read), seen, group)
        width = spec.width // group.size
        if begin_from is None:
            vectors = row.vectors(width) | _vectors(spec, config, scales)
            w_enc, w_dec = draw(spec, len(scales.read), len(scales.written), group)
        else:
            ends = scales.read, scales.written
            w_enc, w_dec, vectors = start.begun(spec, begin_from, *ends, row, group)
        vectors = {name: vector.to(device) for name, vector in vectors.items()}
        moments = {name: torch.zeros_like(vector) for name, vector in vectors.items()}
        momentum = config.schedule.momentum
        return cls(
            spec=spec,
            config=config,
            course=course(config.schedule, spec.n_steps, len(scales.read), spec.learning_rate),
            row=row,
            scales=scales,
            rows=Rows.begin(w_enc.to(device), w_dec.to(device), momentum),
            vectors=vectors,
            moments=moments,
            means={name: vector.clone() for name, vector in moments.items()} if momentum else {},
            meter=Meter.begin(width, scales.variance, device, group),
            group=group,
        )

    def step_(self, x: Activations, target: Target, step: int) -> None:
        """Train on one batch of scaled activations; `step` counts from 0."""
        body = body_for(x, self.density)
        centred = x - self.vectors["b_dec"] if self.spec.centres else x
        gradient = self.gradient(body, x, centred, target, step)
        self._move_(body, centred, gradient, step)

    def gradient(
        self, body: Body, x: Activations, centred: Activations, target: Target, step: int
    ) -> Gradient:
        """Return the gradient of one batch, and measure; `centred` is what the encoder reads."""
        active = self._encode(body, centred)
        counts = active.pairs.by_latent((active.f != 0).to(x.dtype))
        cost, penalty = self._cost(active, counts, self.course.warmed_at(step))
        wanted = centred if self.spec.centres else self._wanted(x, target)
        made = self._backward(body, active, wanted, cost)
        gradient = self._revived(body, centred, active, made)
        self.density = active.pairs.density
        self.meter.add_(counts, made.residual.squared, penalty, len(x))
        return replace(gradient, vectors=gradient.vectors | self._of_output(gradient, x))

    def _encode(self, body: Body, x: Activations) -> Active:
        def select(b_enc: PerLatent, floor: PerLatent, tokens: Tensor | None) -> Pairs:
            if tokens is None:
                return body.encode(x, self.rows.w_enc, b_enc, floor)
            pairs = body.encode(x[tokens], self.rows.w_enc, b_enc, floor)
            return pairs.among(tokens, len(x))

        return self.row.encode(select, self.vectors)

    def _cost(
        self, active: Active, counts: PerLatent, warmed: float
    ) -> tuple[PerLatent, Float[Tensor, ""]]:
        """Return d penalty / d mean activity of each latent, and the penalty."""
        activity = self.row.activity(active, counts)
        if activity is None:
            return torch.zeros_like(counts), counts.new_zeros(())
        frequency, n_tokens = self.spec.saes.frequency, active.pairs.n_tokens
        often = counts / n_tokens
        pressed = often * (frequency.strength / frequency.scale)
        # In float64, where the order of a sum over threads or shards changes no bit of a count.
        sums = torch.stack([activity.double().sum(), (pressed * often).sum().double()])
        total, pressure = self.group.sum_(sums)
        mean = (total / n_tokens).to(activity.dtype)
        cost = self.spec.penalty.slope(mean) + 2 * pressed
        share = self.spec.penalty.share_at(warmed)
        return share * cost, share * (self.spec.penalty.value(mean) + pressure.to(mean.dtype))

    def _wanted(self, x: Activations, target: Target) -> Target:
        """Return what a transcoder's decoder rows must sum to."""
        wanted = target - self.vectors["b_dec"]
        return wanted.addmm_(x, self.vectors["skip"].T, alpha=-1) if self._skips else wanted

    @property
    def bounds(self) -> tuple[int, ...]:
        """Before which of this process's latents each prefix ends."""
        return shards.bounds_here(self.spec.bounds, self.group)

    @property
    def _skips(self) -> bool:
        return "skip" in self.vectors

    def _backward(self, body: Body, active: Active, wanted: Target, cost: PerLatent) -> Backward:
        def decode(f: PerPair) -> Residual:
            weights = self.rows.w_dec, wanted, self.bounds
            return shards.residual(body, active.pairs, f, *weights, self.group)

        return self.row.backward(active, decode, self.vectors, cost)

    def _revived(self, body: Body, x: Activations, active: Active, made: Backward) -> Gradient:
        """Gather the gradient, with what dead latents get."""
        gradient = Gradient.of(active, made, self.bounds)
        revive = self.spec.saes.revive
        dead = self.meter.idle_tokens >= revive.dead_after_tokens
        if "threshold" in self.vectors and revive.preact_strength:
            return pulled_up(gradient, active, dead, revive.preact_strength)
        if self.spec.takes_k and revive.aux_strength:
            left_over = made.residual.error[-1] * (-len(x) / 2)
            ends = (self.rows, self.vectors["b_enc"], dead, left_over)
            how = (revive.aux_strength, revive.aux_k, self.group)
            return rebuilding(gradient, body, x, *ends, *how)
        return gradient

    def _of_output(self, gradient: Gradient, x: Activations) -> Vectors:
        """Return the gradients of `b_dec`, through the encoder too where that centres, and skip."""
        error = gradient.error[: len(x)]
        through = self._through(gradient.slopes) if self.spec.centres else 0
        skip = {"skip": error.T @ x} if self._skips else {}
        return {"b_dec": error.sum(0) - through, **skip}

    def _through(self, slopes: PerLatent) -> Float[Tensor, " d_in"]:
        """Pull the slopes of all processes' latents back through the encoder."""
        return self.group.sum_(slopes @ self.rows.w_enc)

    def _move_(self, body: Body, x: Activations, gradient: Gradient, step: int) -> None:
        """Move all parameters; `x` is what the encoder read."""
        rate = self.course.learning_rate * self.course.share_of_rate_at(step)
        rates = dict.fromkeys(gradient.vectors, rate * self.course.bias_rate)
        if "threshold" in rates:
            rates["threshold"] *= self.config.threshold.rate
        if self._skips:
            rates["skip"] = rate  # a matrix like the rows
        state = (self.vectors, gradient.vectors, self.moments, self.means)
        optimiser.step_(*state, self.course.momentum, step + 1, rates)
        if "threshold" in rates:
            self.vectors["threshold"].clamp_min_(0)
        ends = (gradient.hits, x, gradient.error, gradient.everywhere)
        body.update_(*ends, self.rows, step + 1, rate)

    def check_alike(self) -> None:
        """Raise if what belongs to no latent is not the same in all processes."""
        for name in sorted({"b_dec", "skip"} & self.vectors.keys()):
            shards.check_alike(f"{self.spec.sae}:{name}", self.vectors[name], self.group)

    def read(self) -> dict[str, float]:
        """Return the metrics since the last reading, for the host."""
        found = self.meter.read(self.spec.saes.revive.dead_after_tokens)
        rows, all_of = self.rows, self.group.gathered
        found["encoder_norm"] = float(all_of(rows.w_enc.norm(dim=1)).mean())
        if rows.w_enc.shape == rows.w_dec.shape:
            alignment = torch.cosine_similarity(rows.w_enc, rows.w_dec, dim=1)
            found["encoder_decoder_cosine"] = float(all_of(alignment).mean())
        if "threshold" in self.vectors:
            thresholds = all_of(self.vectors["threshold"])
            low, middle, high = thresholds.quantile(TENTHS.to(rows.w_enc)).tolist()
            found |= {"threshold_p10": low, "threshold_p50": middle, "threshold_p90": high}
        return found

    def sae(self) -> Sae:
        """Fold scales, gain and pre-encoder bias away and return the Sae, or the shard of it."""
        folded, b_dec = self.row.folded(self.vectors), self.vectors["b_dec"]
        w_enc, b_enc = self.rows.w_enc, folded.b_enc
        if folded.gain is not None:
            w_enc = folded.gain[:, None] * w_enc
        if self.spec.centres:
            b_enc = b_enc - w_enc @ b_dec
        trained = Sae(
            w_enc=w_enc.T,
            b_enc=b_enc,
            w_dec=self.rows.w_dec,
            b_dec=b_dec,
            threshold=folded.threshold,
            reads=self.spec.reads,
            writes=self.spec.writes,
            k=folded.k,
            skip=self.vectors.get("skip"),
        )
        return fold(trained, self.scales.read, self.scales.written)

    def state(self) -> dict[str, Tensor]:
        """Return everything a checkpoint must hold, by name."""
        moments = {f"{name}:moment": moment for name, moment in self.moments.items()}
        means = {f"{name}:mean": mean for name, mean in self.means.items()}
        density = {"density": torch.tensor(self.density, dtype=torch.float64)}
        adam = {**self.rows.tensors(), **self.vectors, **moments, **means}
        parts = {**adam, **self.meter.state(), **density}
        return {f"{self.spec.sae}:{name}": tensor for name, tensor in parts.items()}

    def load_(self, state: Mapping[str, Tensor]) -> None:
        """Take a checkpoint's tensors."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        self.density = float(state[f"{self.spec.sae}:density"])


def _vectors(spec: Spec, config: Config, scales: Scales) -> Vectors:
    """Return the vectors that every architecture has, at step 0."""
    d_in, d_out = len(scales.read), len(scales.written)
    b_dec = scales.mean.clone() if config.bias == "mean" else torch.zeros(d_out)
    skip = {"skip": torch.zeros(d_out, d_in)} if spec.saes.kind == "skip_transcoder" else {}
    return {"b_dec": b_dec, **skip}
