"""What each prompt makes of every latent and of the stream: one vector a prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from panscope import splice
from panscope.axes import Latents
from panscope.model import ragged
from panscope.model.load import Model
from panscope.sae.sae import Sae
from panscope.stages.contrast.prompts import Tokens

Pool = Literal["mean", "max", "last"]
POOLS: Mapping[str, Callable[[Latents], Float[Tensor, " latents"]]] = {
    "mean": lambda values: values.mean(0),
    "max": lambda values: values.amax(0),
    "last": lambda values: values[-1],
}


@dataclass(frozen=True, slots=True)
class Pooled:
    """Of one Sae, prompt by prompt: its latents, and what it read."""

    latents: Float[Tensor, "prompts latents"]
    activations: Float[Tensor, "prompts d_in"]


def pooled(
    model: Model,
    saes: Mapping[str, Sae],
    rows: Sequence[Tokens],
    pool: Pool,
    batch_rows: int,
    tell: Callable[[], None] = lambda: None,
) -> dict[str, Pooled]:
    """Run all prompts once, and pool each Sae's latents over the tokens that are not special.

    `tell` is called after each batch.
    """
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in saes}
    sites = {site for sae in saes.values() for site in sae.reads}
    for begin in range(0, len(rows), batch_rows):
        batch = rows[begin : begin + batch_rows]
        values = ragged.run(model, batch, read=sites).values
        kept = [_ordinary(model, row) for row in batch]
        for name, sae in saes.items():
            for number, which in enumerate(kept):
                x = splice.finite({site: values[site][number][which] for site in sae.reads})
                parts[name].append((POOLS[pool](sae.encode(x)).cpu(), POOLS[pool](x).cpu()))
        tell()
    return {
        name: Pooled(*map(torch.stack, zip(*part, strict=True))) for name, part in parts.items()
    }


def _ordinary(model: Model, row: Tokens) -> Tensor:
    """Say which tokens of a prompt are not special."""
    specials = torch.tensor(sorted({*model.special_ids, model.bos_id}))
    return ~torch.isin(torch.tensor(row), specials).to(model.device)
