"""What Saes' weights say by themselves: logit effects, shares of heads, which directions are near.

All products are made in blocks of rows; what is kept are the best few of each row.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from panscope.atlas.columns import Best, ElsewhereColumns, Numbers
from panscope.sae.sae import Sae
from panscope.sites import Site

ROWS = 512  # of a product at a time: 8 MB of logits at a vocabulary of 4k, 512 MB at one of 256k
LOGIT_BINS = 40
LOGIT_REACH = 8  # of the histogram on either side, in root mean squares of the Sae's logit effects
RESIDUAL = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "final_norm_in")


@dataclass(frozen=True, slots=True)
class Effects:
    """Every latent's strongest and weakest logits, and how many logits are how strong."""

    top: Best
    bottom: Best
    histogram: Numbers
    edges: tuple[float, ...]


def effects(
    w_dec: Float[Tensor, "latents d_out"], to_logits: Float[Tensor, "d_first vocab"], k: int
) -> Effects:
    """Find each latent's k strongest and weakest logits, and count all.

    Of a decoder that writes several sites the first `d_first` numbers of a row act on the logits.
    Logits are centred over the vocabulary, since a softmax does not see their common part.
    """
    w_dec, centred = w_dec[:, : len(to_logits)], to_logits - to_logits.mean(1, keepdim=True)
    edges = _logit_edges(w_dec, centred)
    top, bottom, counts = [], [], []
    for rows in torch.split(w_dec, ROWS):
        effect = rows @ centred
        top.append(effect.topk(k, dim=1))
        bottom.append(effect.topk(k, dim=1, largest=False))
        counts.append(_binned(effect, edges))
    histogram = torch.cat(counts).cpu().numpy()
    return Effects(_joined(top), _joined(bottom), histogram, tuple(edges.tolist()))


def head_shares(w_dec: Float[Tensor, "latents d_out"], n_heads: int) -> Numbers:
    """Share each latent's direction out among the heads it writes to, (latents, heads).

    A head's share is the length of its part of the row over the sum of the lengths of all parts,
    as in SAEDashboard's `decoder_weights_dist`. So shares are of lengths, not of squares: they add
    up to one, or to zero where a row is zeros. Of a Sae that writes to no heads there are none.
    """
    if not n_heads:
        return np.empty((len(w_dec), 0), np.float32)
    lengths = w_dec.reshape(len(w_dec), n_heads, -1).norm(dim=2)
    total = lengths.sum(1, keepdim=True)
    return torch.where(total > 0, lengths / total, 0).cpu().numpy()


def near(rows: Float[Tensor, "latents d"], k: int) -> Best:
    """Find the k nearest of each row by cosine, itself aside."""
    unit = normalize(rows, dim=1)
    found = []
    for first in range(0, len(unit), ROWS):
        cosine = unit[first : first + ROWS] @ unit.T
        block = torch.arange(len(cosine), device=unit.device)
        cosine[block, block + first] = -2
        found.append(cosine.topk(min(k, len(unit) - 1), dim=1))
    return _joined(found)


def elsewhere(name: str, saes: Mapping[str, Sae], k: int) -> ElsewhereColumns:
    """Find the k nearest decoder directions in all other Saes that write to the same space."""
    own = space(saes[name].writes)
    names = [n for n, sae in saes.items() if n != name and space(sae.writes) == own]
    others = [normalize(saes[n].w_dec, dim=1) for n in names]
    unit = normalize(saes[name].w_dec, dim=1)
    found = [_nearest(block, others, k) for block in torch.split(unit, ROWS)]
    of_sae, ids, cosines = (torch.cat([part[i] for part in found]).cpu() for i in range(3))
    return ElsewhereColumns(names, of_sae.numpy(), Best(ids=ids.numpy(), values=cosines.numpy()))


def space(writes: tuple[Site, ...]) -> tuple[str | Site, ...]:
    """Name the space that decoder rows lie in: the residual stream for all sites that add to it.

    Heads' outputs (`attn_z`) have one of their own in each layer; several sites, one together.
    """
    in_residual = len(writes) == 1 and writes[0].kind in RESIDUAL
    return ("residual stream",) if in_residual else writes


def _nearest(
    rows: Float[Tensor, "rows d"], others: Iterable[Float[Tensor, "_ d"]], k: int
) -> tuple[Int[Tensor, "rows k"], Int[Tensor, "rows k"], Float[Tensor, "rows k"]]:
    """Return the nearest directions of any of the others: which other, index, cosine."""
    of_other = ids = rows.new_empty(len(rows), 0, dtype=torch.int64)
    cosines = rows.new_empty(len(rows), 0)
    for number, other in enumerate(others):
        best, at = (rows @ other.T).topk(min(k, len(other)), dim=1)
        cosines, of_other, ids = (
            torch.cat(pair, dim=1)
            for pair in ((cosines, best), (of_other, torch.full_like(at, number)), (ids, at))
        )
        cosines, order = cosines.sort(dim=1, descending=True, stable=True)
        order, cosines = order[:, :k], cosines[:, :k]
        of_other, ids = of_other.gather(1, order), ids.gather(1, order)
    return of_other, ids, cosines


def _logit_edges(
    w_dec: Float[Tensor, "latents d"], centred: Float[Tensor, "d vocab"]
) -> Float[Tensor, " edges"]:
    """Space the bins evenly over eight root mean squares on either side.

    The mean square over all latents and tokens needs no product with the vocabulary but its own.
    """
    square = ((w_dec @ (centred @ centred.T)) * w_dec).sum(1).double().mean() / centred.shape[1]
    reach = LOGIT_REACH * max(float(square) ** 0.5, 1e-30)
    return torch.linspace(-reach, reach, LOGIT_BINS + 1, dtype=torch.float64)


def _binned(
    effect: Float[Tensor, "rows vocab"], edges: Float[Tensor, " edges"]
) -> Int[Tensor, "rows bins"]:
    """Count each row's values in evenly spaced bins, those beyond the ends in the outermost."""
    low, step = float(edges[0]), float(edges[1] - edges[0])
    bins = ((effect - low) / step).clamp_(0, LOGIT_BINS - 1).long()
    bins += torch.arange(len(effect), device=effect.device)[:, None] * LOGIT_BINS
    counts = torch.bincount(bins.view(-1), minlength=len(effect) * LOGIT_BINS)
    return counts.view(len(effect), LOGIT_BINS)


def _joined(parts: list["torch.return_types.topk"]) -> Best:
    values, ids = (torch.cat([part[i] for part in parts]).cpu().numpy() for i in (0, 1))
    return Best(ids=ids, values=values)
