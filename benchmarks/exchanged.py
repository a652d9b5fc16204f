"""A suite trained here, written for SAELens, loaded by sae-lens: the same figures there as here.

    .peers/bin/python benchmarks/exchanged.py [RUN]

Trains Saes of the three sites of the pocket model's layer 2 (and a TopK), measures them with
`panscope evaluate`, exports them, and measures what `sae_lens.SAE` makes of the files, by plain
hooks on the Hugging Face model with no code of ours between. Prints a row a Sae and, as JSON, the
largest relative difference of L0, FVU and delta loss.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from panscope.events import silent
from panscope.launch import Launch
from panscope.model import text
from panscope.model.text import Rows
from panscope.recipe import read_recipe
from panscope.sae.suite import Suite
from panscope.sites import Site
from panscope.stages import exchange

LAYER = 2
RECIPE = (
    "train.tokens=163840",
    "train.widths=[1024]",
    f"train.sites=['resid_post.{LAYER}', 'mlp_out.{LAYER}', 'attn_z.{LAYER}']",
    f"train.more=[{{sites=['resid_post.{LAYER}'], architecture='topk', widths=[1024], "
    "target_l0=[20.0]}]",
)
FIGURES = ("l0", "fvu", "delta_loss")


def main(out: Path) -> None:
    launch, measured, theirs = made(out)
    worst = dict.fromkeys(FIGURES, 0.0)
    for name, fact in measured.facts.items():
        there = by_hand(launch, theirs / name, Site.parse(fact["site"]))
        here = {figure: fact["metrics"][figure] for figure in FIGURES}
        print(name, *(f"{f} {here[f]:.6f} / {there[f]:.6f}" for f in FIGURES), sep="  ")
        for f in FIGURES:
            worst[f] = max(worst[f], abs(there[f] / here[f] - 1))
    print(json.dumps(worst))


def made(out: Path) -> tuple[Launch, Suite, Path]:
    """Train and measure the suite in a run folder; return it and the folder it is exported to."""
    launch = Launch(read_recipe("demo", RECIPE), out, silent)
    launch.train()
    measured = launch.evaluate()
    theirs = out / "theirs"
    shutil.rmtree(theirs, ignore_errors=True)
    exchange.write(measured.folder, "saelens", theirs, (), "pocket")
    return launch, measured, theirs


def rows_measured(launch: Launch, batch_rows: int) -> list[Rows]:
    """Return the rows that `panscope evaluate` reads, in batches of any size."""
    config = launch.recipe.text
    rows = text.rows(config, launch.model, "held_out", batch_rows, 0)
    return list(islice(rows, -(-launch.recipe.evaluate.tokens // (batch_rows * config.context))))


@torch.no_grad()
def by_hand(launch: Launch, folder: Path, site: Site) -> dict[str, float]:
    """Measure a Sae of sae-lens in the model; the mean activation is of the same tokens."""
    from sae_lens import SAE

    lm, sae = launch.model.lm, SAE.load_from_disk(folder)
    sae.turn_off_forward_pass_hook_z_reshaping()  # Hugging Face's heads lie side by side already
    batches = rows_measured(launch, launch.recipe.evaluate.batch_rows)
    seen: list[Tensor] = []
    clean = [loss_with(lm, site, b, lambda x: seen.append(x) or x) for b in batches]
    x = torch.cat([value[b.mask] for value, b in zip(seen, batches, strict=True)])
    f = sae.encode(x)
    error = (sae.decode(f) - x).double().square().sum()

    def spliced(batch: Rows) -> Callable[[Tensor], Tensor]:
        return lambda value: torch.where(batch.mask[..., None], sae(value), value)

    after = [loss_with(lm, site, b, spliced(b)) for b in batches]
    n_predictions = sum(n for _, n in clean)
    return {
        "l0": float((f != 0).sum(1).double().mean()),
        "fvu": float(error / (x - x.mean(0)).double().square().sum()),
        "delta_loss": sum(a - c for (a, _), (c, _) in zip(after, clean, strict=True))
        / n_predictions,
    }


def loss_with(
    lm: Any, site: Site, batch: Rows, change: Callable[[Tensor], Tensor]
) -> tuple[float, int]:
    """Sum the loss over predictions from and of plain tokens, with the site's value changed."""
    logits = logits_with(lm, site, batch, change)
    counted = batch.mask[:, :-1] & batch.mask[:, 1:]
    predicted, targets = logits[:, :-1][counted], batch.ids[:, 1:][counted]
    return float(cross_entropy(predicted, targets, reduction="sum").double()), int(counted.sum())


def logits_with(lm: Any, site: Site, batch: Rows, change: Callable[[Tensor], Tensor]) -> Tensor:
    with hooked(lm, site, change):
        logits: Tensor = lm(batch.ids).logits
    return logits


@contextmanager
def hooked(lm: Any, site: Site, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    layer = lm.model.layers[site.layer]
    match site.kind:
        case "resid_post":
            handle = layer.register_forward_hook(lambda m, a, out: change(out))
        case "mlp_out":
            norm = layer.post_feedforward_layernorm
            handle = norm.register_forward_hook(lambda m, a, out: change(out))
        case _:
            handle = layer.self_attn.o_proj.register_forward_pre_hook(lambda m, a: (change(a[0]),))
    yield
    handle.remove()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/exchanged"))
