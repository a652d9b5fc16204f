"""A Model with Saes in it: run a forward pass in which the values at some sites are replaced.

Special tokens are left as they were: a Sae was not trained on them, and at a BOS its reconstruction
is arbitrary (Gemma Scope, arXiv:2408.05147, section 3.1).
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from panscope.model import tap
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.sae.sae import Sae
from panscope.sites import Site

Replace = Callable[[Float[Tensor, "tokens d_in"]], Float[Tensor, "tokens d_in"]]


def logits(
    model: Model, rows: Rows, replacements: Mapping[Site, Replace]
) -> Float[Tensor, "batch position vocab"]:
    """Return the model's logits with the values at the unmasked tokens of some sites replaced."""
    edits = {site: _at_tokens(rows.mask, replace) for site, replace in replacements.items()}
    run = tap.run(model, rows.ids, edits=edits, with_logits=True)
    assert run.logits is not None
    return run.logits


def reconstruction(sae: Sae) -> Replace:
    """Replace activations by what a Sae makes of them."""
    return lambda x: sae.decode(sae.encode(x.float())).to(x.dtype)


def zeros(x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
    """Replace activations by nothing: zero ablation."""
    return torch.zeros_like(x)


def constant(vector: Float[Tensor, " d_in"]) -> Replace:
    """Replace activations by one vector: mean ablation, given the mean."""
    return lambda x: vector.to(x).expand_as(x)


def _at_tokens(
    mask: Bool[Tensor, "batch position"], replace: Replace
) -> Callable[[Tensor], Tensor]:
    def edit(value: Float[Tensor, "batch position d_in"]) -> Tensor:
        return value.masked_scatter(mask[..., None].to(value.device), replace(value[mask]))

    return edit
