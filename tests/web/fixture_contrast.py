"""A finished contrast with made-up numbers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from panscope import files

PROBES = ("1 latent", "5 latents", "difference of means", "logistic regression")


def build_contrast(run: Path, name: str, saes: Sequence[str]) -> None:
    """Write `contrast/<name>/` into a run folder."""
    random, out = np.random.default_rng(0), run / "contrast" / name
    found = [_found(saes[n % len(saes)], n + 1, random) for n in range(12)]
    of_saes = [_of_sae(sae, random) for sae in saes]
    facts = {"n_a": 24, "n_b": 30, "n_tested": 64 * len(saes), "n_different": 12}
    files.write_json(out / "result.json", {**facts, "found": found, "saes": of_saes})
    files.seal(out, "contrast", {}, {}, facts)


def _found(sae: str, index: int, random: np.random.Generator) -> dict[str, object]:
    sign = 1 if index % 3 else -1
    numbers = {"effect": sign * (5 - index / 4), "auroc": 0.5 + sign * (0.5 - index / 100)}
    means = dict(zip(("mean_a", "mean_b"), random.uniform(0, 9, 2).tolist(), strict=True))
    return {"sae": sae, "index": index, "p": 1e-5 * index, "q": 2e-3 * index, **numbers, **means}


def _of_sae(sae: str, random: np.random.Generator) -> dict[str, object]:
    quality = {p: {"accuracy": float(random.uniform(0.8, 1)), "auroc": 0.98} for p in PROBES}
    effects = {
        which: {
            kind: [{"mean": float(random.normal(0, size)), "error": 0.01} for _ in "ab"]
            for kind in ("loss", "lead")
        }
        for which, size in (("ablation", 0.3), ("control", 0.01))
    }
    return {"sae": sae, "n_different": 4, "probes": quality, "ablated": [3, 7, 11], **effects}
