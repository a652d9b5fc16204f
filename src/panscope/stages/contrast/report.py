"""A contrast as a Markdown page."""

from collections.abc import Iterable

from panscope.stages.contrast.ablation import Ablation
from panscope.stages.contrast.probe import Quality
from panscope.stages.contrast.result import Found, OfSae, Result

HEAD = ("Sae", "feature", "d", "AUROC", "q", "mean in a", "mean in b")


def report(result: Result, rate: float) -> str:
    """Write three tables: features, probes, ablations."""
    note = (
        f"{result.n_a} prompts of set a, {result.n_b} of b; half of each to find features and fit "
        f"probes, the other half for all else. Of {result.n_tested} features {result.n_different} "
        f"differ at a false discovery rate of {rate:g} (Mann-Whitney, Benjamini-Hochberg). AUROC "
        "over 0.5 is more in a."
    )
    parts = ["# Contrast", note, _features(result.found), *_of_saes(result.saes)]
    return "\n\n".join(parts) + "\n"


def _features(found: Iterable[Found]) -> str:
    rows = (
        (
            f"`{one.sae}`",
            str(one.index),
            f"{one.effect:.2f}",
            f"{one.auroc:.3f}",
            f"{one.q:.2g}",
            f"{one.mean_a:.3g}",
            f"{one.mean_b:.3g}",
        )
        for one in found
    )
    return _table(HEAD, rows)


def _of_saes(saes: tuple[OfSae, ...]) -> Iterable[str]:
    """Write what probes reach and what ablations change."""
    yield "Accuracy (AUROC) of probes on held-out prompts, both sets weighing the same:"
    names = list(saes[0].probes)
    quality = ([f"`{one.sae}`", *(_quality(one.probes[name]) for name in names)] for one in saes)
    yield _table(("Sae", *names), quality)
    yield (
        "What ablating the features with the largest effect changes on held-out prompts, ± one "
        "standard error; in brackets as many others that fire there:"
    )
    has_lead = saes[0].ablation.lead is not None
    head = ["Sae", "ablated", "loss on a (nats)", "loss on b (nats)"]
    head += ["answers in a (logits)", "answers in b (logits)"] * has_lead
    yield _table(head, map(_ablation, saes))


def _ablation(one: OfSae) -> list[str]:
    indices = " ".join(map(str, one.ablated))
    return [
        f"`{one.sae}`",
        indices,
        *map(" ".join, zip(_cells(one.ablation), _others(one.control), strict=True)),
    ]


def _others(control: Ablation) -> list[str]:
    return [f"({cell})" for cell in _cells(control)]


def _cells(ablation: Ablation) -> list[str]:
    changes = [*ablation.loss, *(ablation.lead or ())]
    return [f"{change.mean:+.3f} ± {change.error:.3f}" for change in changes]


def _quality(quality: Quality) -> str:
    return f"{quality.accuracy:.2f} ({quality.auroc:.2f})"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [f"| {' | '.join(names)} |", "|---" + "|---:" * (len(names) - 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
