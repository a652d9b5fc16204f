"""The watch: sentences about Saes that are going wrong, from what was measured of them.

Pure: numbers in, sentences out. Each is said once a Sae, with the step and what to change.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from panscope.stages.train.course import Course
from panscope.stages.train.sweep import Spec

SILENT_L0 = 0.1
"""Mean L0 below which hardly a latent fires for any token."""
DENSE_SHARE = 0.25
"""Mean share of latents that fire above which nothing is sparse."""
COLLAPSED_SHARE = 0.5
"""Share of latents that did not fire above which training has collapsed."""
FIRINGS_WANTED = 10
"""How often a latent should have fired on average, for that share to be judged."""
TARGET_MISS = 0.1
"""Share by which the mean L0 may miss its target at the end."""

LASTING = ("collapse", "dense")

Metrics = Mapping[str, float]


class Aim(NamedTuple):
    """What a Sae is to become, as far as its warnings need it."""

    sae: str
    width: int
    learning_rate: float
    n_steps: int
    warm_steps: int
    """After which the whole penalty applies."""
    target_l0: float | None
    sparsity: float | None
    takes_k: bool

    @classmethod
    def of(cls, spec: Spec, course: Course) -> "Aim":
        """Take it from a Sae in training."""
        return cls(
            sae=spec.sae,
            width=spec.width,
            learning_rate=course.learning_rate,
            n_steps=course.n_steps,
            warm_steps=course.sparsity_warmup_steps,
            target_l0=getattr(spec.penalty, "target_l0", None),
            sparsity=getattr(spec.penalty, "sparsity", None),
            takes_k=spec.takes_k,
        )


class Reading(NamedTuple):
    """What was measured of it over the last `n_tokens` tokens, when `step` steps were done."""

    step: int
    n_tokens: int
    metrics: Metrics


def problems(aim: Aim, reading: Reading) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a Sae: the kind, and the sentence."""
    l0, at = reading.metrics["l0"], f"{aim.sae}: at step {reading.step:,} of {aim.n_steps:,}"
    if l0 < SILENT_L0:
        yield "silent", f"{at} no latent fires any more (L0 {l0:.2g}); {_gentler(aim)}"
    elif (share := _collapsed_share(aim, reading)) > COLLAPSED_SHARE:
        found = f"{share:.0%} of the latents did not fire on the last {reading.n_tokens:,} tokens"
        yield "collapse", f"{at} {found}; {_gentler(aim)}"
    is_last = reading.step >= aim.n_steps
    if (is_last or reading.step > aim.warm_steps) and l0 > max(
        DENSE_SHARE * aim.width, aim.target_l0 or 0
    ):
        found = f"a token activates {l0:,.0f} of {aim.width:,} latents, which is not sparse"
        yield "dense", f"{at} {found}; {_stricter(aim)}"
    elif is_last and _misses(aim, l0):
        found = f"L0 is {l0:.3g}, its target was {aim.target_l0:g}"
        yield "target", f"{at} {found}; train on more tokens, or {_stricter(aim)}"


def _collapsed_share(aim: Aim, reading: Reading) -> float:
    """Return the share of latents that did not fire, or 0 if too few tokens were seen to tell."""
    wanted = max(reading.metrics["l0"], aim.target_l0 or 0) * reading.n_tokens / aim.width
    return reading.metrics["silent_share"] if wanted >= FIRINGS_WANTED else 0.0


def _misses(aim: Aim, l0: float) -> bool:
    return (
        not aim.takes_k and aim.target_l0 is not None and abs(l0 / aim.target_l0 - 1) > TARGET_MISS
    )


def _gentler(aim: Aim) -> str:
    first = f"lower its learning rate (now {aim.learning_rate:g}) first"
    if aim.sparsity is not None:
        return f"{first}, then its sparsity (now {aim.sparsity:g})"
    return f"{first}, then raise its target_l0 (now {aim.target_l0:g})"


def _stricter(aim: Aim) -> str:
    if aim.sparsity is not None:
        return f"raise its sparsity (now {aim.sparsity:g})"
    return "raise train.target_strength or train.threshold.rate"


@dataclass(slots=True)
class Watch:
    """Remembers what was said of each Sae, and what its last reading showed.

    Collapsed or dense codes are believed when two readings in a row show them, or the last one:
    warming up may brush past either, and the first reading after it still holds some of its steps.
    """

    said: set[tuple[str, str]] = field(default_factory=set)
    seen: dict[str, set[str]] = field(default_factory=dict)

    def new(self, aim: Aim, reading: Reading) -> list[str]:
        """Return what is wrong with a Sae and has not been said yet."""
        found = dict(problems(aim, reading))
        before, is_last = self.seen.get(aim.sae, set()), reading.step >= aim.n_steps
        self.seen[aim.sae] = set(found)
        new = {
            kind: text
            for kind, text in found.items()
            if (aim.sae, kind) not in self.said
            and (is_last or kind in before or kind not in LASTING)
        }
        self.said.update((aim.sae, kind) for kind in new)
        return list(new.values())
