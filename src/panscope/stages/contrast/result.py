"""What a contrast found, as frozen values: `result.json` holds the same."""

from dataclasses import dataclass

from panscope.stages.contrast.ablation import Ablation
from panscope.stages.contrast.probe import Quality


@dataclass(frozen=True, slots=True)
class Found:
    """A feature that differs: Cohen's d on the half where it was found, p and q on the other.

    `auroc` is the chance that a held-out prompt of set a has the larger value. Means are over all
    prompts of a set.
    """

    sae: str
    index: int
    effect: float
    auroc: float
    p: float
    q: float
    mean_a: float
    mean_b: float


@dataclass(frozen=True, slots=True)
class OfSae:
    """What one Sae tells of the two sets; `ablated` lists the features with the largest effect.

    `control` is the ablation of as many others, drawn from those that fire in the prompts.
    """

    sae: str
    n_different: int
    probes: dict[str, Quality]
    ablated: tuple[int, ...]
    ablation: Ablation
    control: Ablation


@dataclass(frozen=True, slots=True)
class Result:
    """A finished contrast; its `n_tested` features were corrected for together."""

    n_a: int
    n_b: int
    n_tested: int
    n_different: int
    found: tuple[Found, ...]
    saes: tuple[OfSae, ...]
