"""SAEBench's core evaluation of a suite trained here, beside `panscope evaluate` on the same rows.

    make saebench [ARGS=RUN]

Trains and exports as `exchanged.py` does. `sae_bench.evals.core` gets what it would fetch: the
pocket model's weights in a HookedTransformer, and the held-out rows. Its figures are also computed
here by its definitions, from our own Saes in plain hooks on the Hugging Face model: the last line
is how far those are from what it found, so that every other difference is one of definition.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from exchanged import logits_with, made, rows_measured
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.evals.core.main import run_evals
from sae_bench.sae_bench_utils.general_utils import load_and_format_sae
from sae_lens import SAE
from sae_lens.training.activations_store import ActivationsStore
from tables import machine, write_table
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gemma_weights

from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.sae.sae import Sae

BATCH_ROWS = 8
OURS = {
    "l0": "l0",
    "explained_variance": "fvu",
    "explained_variance_legacy": "fvu",
    "ce_loss_without_sae": "clean_loss",
    "ce_loss_with_sae": "loss",
    "ce_loss_with_ablation": "loss_zero",
    "ce_loss_score": "loss_recovered_zero",
    "kl_div_with_sae": "kl",
}
"""Our figure beside each of theirs; variance explained is one less the FVU."""


def main(out: Path) -> None:
    launch, suite, theirs = made(out)
    batches = rows_measured(launch, BATCH_ROWS)
    lens, clean_loss = lens_of(launch.model), suite.manifest.facts["evaluation"]["clean_loss"]
    columns, worst = dict[str, list[str]](), 0.0
    for name, fact in suite.facts.items():
        ours = here(fact["metrics"], clean_loss)
        found = there(lens, theirs / name, launch.model, batches)
        defined = by_definition(launch.model.lm, suite.load(name), batches)
        worst = max(worst, *(abs(found[figure] / defined[figure] - 1) for figure in OURS))
        columns[name] = [f"{ours[figure]:.5f} / {found[figure]:.5f}" for figure in OURS]
        print(name, *columns[name], sep="  ", flush=True)
    n_tokens = sum(batch.ids.numel() for batch in batches)
    write_table("saebench", table(columns, f"{n_tokens:,} tokens. {machine()}"))
    print(json.dumps({"worst": worst}))


def table(columns: Mapping[str, Sequence[str]], note: str) -> str:
    rows = zip(OURS, *columns.values(), strict=True)
    lines = [
        f"| ours / SAEBench's | {' | '.join(f'`{name}`' for name in columns)} |",
        "|---|" + "--:|" * len(columns),
        *(f"| `{figure}` | {' | '.join(cells)} |" for figure, *cells in rows),
    ]
    return "\n".join([*lines, "", note])


def here(metrics: dict[str, float], clean_loss: float) -> dict[str, float]:
    known = {
        **metrics,
        "clean_loss": clean_loss,
        "loss_zero": clean_loss + metrics["delta_loss_zero"],
    }
    return {
        theirs: 1 - known[ours] if ours == "fvu" else known[ours] for theirs, ours in OURS.items()
    }


def there(
    lens: HookedTransformer, folder: Path, model: Model, batches: Sequence[Rows]
) -> dict[str, float]:
    """Run the core evaluation; its two passes take rows one after the other, so all come twice."""
    _, sae, _ = load_and_format_sae("panscope", SAE.load_from_disk(folder), "cpu")
    n_batches, context = len(batches), batches[0].ids.shape[1]
    rows = [row for batch in batches for row in batch.ids.tolist()]
    store = ActivationsStore.from_sae(
        lens,
        sae,
        dataset=Dataset.from_dict({"input_ids": rows * 2}),
        streaming=False,
        context_size=context,
        store_batch_size_prompts=BATCH_ROWS,
        device="cpu",
    )
    config = CoreEvalConfig(
        model_name=model.name,
        batch_size_prompts=BATCH_ROWS,
        n_eval_reconstruction_batches=n_batches,
        n_eval_sparsity_variance_batches=n_batches,
        exclude_special_tokens_from_reconstruction=True,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
    )
    groups, _ = run_evals(sae, store, lens, config, ignore_tokens=set(model.special_ids))
    return {name: value for group in groups.values() for name, value in group.items()}


@torch.no_grad()
def by_definition(lm: Any, sae: Sae, batches: Sequence[Rows]) -> dict[str, float]:
    """Compute SAEBench 0.6.0's figures of our own Sae, by what its source says they are."""
    parts = defaultdict[str, list[Tensor]](list)
    for batch in batches:
        for name, values in parts_of(lm, sae, batch).items():
            parts[name].append(values.double())
    mean = {name: float(torch.cat(values).mean()) for name, values in parts.items()}
    saved = mean["ce_loss_with_ablation"] - mean["ce_loss_with_sae"]
    variance = mean["square"] - mean["square of a dimension"] ** 2
    return mean | {
        "explained_variance": 1 - mean["residual"] / variance,
        "ce_loss_score": saved / (mean["ce_loss_with_ablation"] - mean["ce_loss_without_sae"]),
    }


def parts_of(lm: Any, sae: Sae, batch: Rows) -> dict[str, Tensor]:
    """Return what is averaged: values of every token, and means of the batch."""
    (site,) = sae.reads
    seen = list[Tensor]()
    clean = logits_with(lm, site, batch, lambda value: seen.append(value) or value)
    x = seen[0][batch.mask]
    f = sae.encode(x)
    rebuilt = sae.decode(f)
    spliced = logits_with(
        lm, site, batch, lambda value: value.masked_scatter(batch.mask[..., None], rebuilt)
    )
    zeroed = logits_with(lm, site, batch, torch.zeros_like)  # the BOS too
    squared = (x - rebuilt).square().sum(1)
    return {
        "l0": (f != 0).sum(1),
        "explained_variance_legacy": 1 - squared / (x - x.mean(0)).square().sum(1),
        "residual": squared.mean()[None],
        "square": x.square().sum(1).mean()[None],
        "square of a dimension": x.square().mean()[None],
        "kl_div_with_sae": kl(clean, spliced)[batch.mask],
        "ce_loss_without_sae": losses(clean, batch),
        "ce_loss_with_sae": losses(spliced, batch),
        "ce_loss_with_ablation": losses(zeroed, batch),
    }


def losses(logits: Tensor, batch: Rows) -> Tensor:
    """Return the losses of predictions from plain tokens, those of a BOS among them."""
    counted = batch.mask[:, :-1]
    return cross_entropy(logits[:, :-1][counted], batch.ids[:, 1:][counted], reduction="none")


def kl(clean: Tensor, edited: Tensor) -> Tensor:
    logs = edited.log_softmax(-1), clean.log_softmax(-1)
    return kl_div(*logs, log_target=True, reduction="none").sum(-1)


def lens_of(model: Model) -> HookedTransformer:
    """Put a Gemma 2's weights into a HookedTransformer, which knows the released ones by name."""
    config = model.lm.config
    cfg = HookedTransformerConfig(
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        d_head=config.head_dim,
        n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads,
        d_mlp=config.intermediate_size,
        n_ctx=config.max_position_embeddings,
        d_vocab=config.vocab_size,
        eps=config.rms_norm_eps,
        act_fn=config.hidden_activation,
        gated_mlp=True,
        normalization_type="RMS",
        final_rms=True,
        use_normalization_before_and_after=True,
        positional_embedding_type="rotary",
        rotary_base=config.rope_parameters["rope_theta"],
        use_attn_scale=True,
        attn_scale=config.query_pre_attn_scalar**0.5,
        attn_types=["local" if "sliding" in kind else "global" for kind in config.layer_types],
        use_local_attn=True,
        window_size=config.sliding_window,
        attn_scores_soft_cap=config.attn_logit_softcapping,
        output_logits_soft_cap=config.final_logit_softcapping,
    )
    lens = HookedTransformer(cfg)
    lens.load_state_dict(convert_gemma_weights(model.lm, cfg), strict=False)  # without its masks
    return lens


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/exchanged"))
