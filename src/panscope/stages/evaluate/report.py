"""The measurements of a suite as a Markdown page, for people and pull requests."""

from collections.abc import Iterable, Mapping
from typing import Any

Facts = Mapping[str, Any]

COLUMNS = ("Sae", "L0", "FVU", "delta loss (nats)", "loss recovered", "KL (nats)", "dead")


def report(saes: Iterable[Facts], evaluation: Facts) -> str:
    """Write a table with a row a Sae; standard errors are clustered by row of text."""
    head = [f"| {' | '.join(COLUMNS)} |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
    rows = [f"| {' | '.join(_cells(sae))} |" for sae in saes]
    clean = f"{evaluation['clean_loss']:.3f} ± {evaluation['clean_loss_se']:.3f}"
    note = (
        f"The unedited model's loss is {clean} nats a token. Loss recovered is against zero "
        "ablation. Special tokens are left as they were and count nowhere; ± is one standard "
        "error, clustered by row."
    )
    return "\n".join(["# Evaluation", "", note, "", *head, *rows, ""])


def _cells(sae: Facts) -> list[str]:
    m = sae["metrics"]
    return [
        f"`{sae['sae']}`",
        f"{m['l0']:.1f} ± {m['l0_se']:.1f}",
        f"{m['fvu']:.3f} ± {m['fvu_se']:.3f}",
        f"{m['delta_loss']:.3f} ± {m['delta_loss_se']:.3f}",
        f"{m['loss_recovered_zero']:.1%}",
        f"{m['kl']:.3f} ± {m['kl_se']:.3f}",
        f"{m['dead_share']:.1%}",
    ]
