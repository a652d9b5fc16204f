"""Forward passes in which the values at some sites are replaced by what a Sae made of them.

1. `clean` runs the model as it is, once for everything that will be put into it.
2. `rebuilt` makes of what a Sae reads what it would write.
3. `logits` puts values in at the unmasked tokens and runs the model from there on: all that lies
   below the first site has the values of the clean pass already.

A Sae reads the clean pass. Where all that it reads lies before all that it writes, that is what it
would read in the spliced pass too; a crosscoder that also reads behind its first write would there
read its own reconstruction.

Special tokens are left as they were: a Sae was not trained on them, and at a BOS its reconstruction
is arbitrary (Gemma Scope, arXiv:2408.05147, section 3.1).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import embedding_bag

from panscope.axes import Activations
from panscope.errors import Unsupported
from panscope.kernels.pairs import Pairs
from panscope.model import tap
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.sae.sae import Sae
from panscope.sites import Site

Logits = Float[Tensor, "batch position vocab"]
Values = Mapping[Site, Float[Tensor, "batch position _"]]


@dataclass(frozen=True, slots=True)
class Clean:
    """The unedited pass over a batch of rows."""

    rows: Rows
    values: Values
    logits: Logits

    def at(self, sites: Sequence[Site]) -> Activations:
        """Return the values of the unmasked tokens at some sites."""
        return side_by_side(self.values, sites, self.rows.mask)


def clean(
    model: Model, rows: Rows, reads: Iterable[Site], writes: Iterable[tuple[Site, ...]]
) -> Clean:
    """Run the model as it is; keep the values at `reads`, and what each of `writes` begins from."""
    kept = set(reads)
    for sites in writes:
        found = _base(model, sites)
        kept |= {*sites, *(found.summands if found else ())}
    run = tap.run(model, rows.ids, read=kept, with_logits=True)
    assert run.logits is not None
    return Clean(rows, run.values, run.logits)


def side_by_side(
    values: Values, sites: Sequence[Site], mask: Bool[Tensor, "batch position"]
) -> Activations:
    """Lay the values of the unmasked tokens at some sites beside one another, in float32.

    Raises Unsupported as `finite` does.
    """
    return finite({site: values[site][mask] for site in sites})


def finite(values: Mapping[Site, Float[Tensor, "tokens _"]]) -> Activations:
    """Lay tokens' values at sites beside one another, in float32.

    Raises Unsupported for NaN and infinity, which fire nothing or everything and would be counted.
    """
    x = torch.cat([*values.values()], dim=1).float()
    if not x.sum().isfinite():  # one number for all: `isfinite` of each costs ten times as much
        for site, value in values.items():
            if n_bad := int((~value.isfinite()).any(1).sum()):
                found = f"hold NaN or infinity at {n_bad} of {len(value)} tokens"
                do = "load the model in another dtype: float16 ends at 65,504"
                raise Unsupported(f"activations of {site}", found, do)
    return x


def rebuilt(sae: Sae, pairs: Pairs, x: Activations) -> Float[Tensor, "tokens d_out"]:
    """Decode what a Sae made of x: the decoder's rows, each times its latent's activation."""
    decoded = sae.bias(x) + embedding_bag(
        pairs.latent,
        sae.w_dec,
        pairs.offsets.to(pairs.latent.dtype),
        per_sample_weights=pairs.z,
        mode="sum",
        include_last_offset=True,
    )
    return decoded if sae.skip is None else decoded + x @ sae.skip.T


class Sums:
    """What several Saes rebuild of the same sites, added up; `d_at` is the size of a site.

    The parts of a cross-layer transcoder are Saes of which each reads one layer and writes it and
    later ones: only their sum stands for what is there (Ameisen et al. 2025, Circuit Tracing).
    """

    def __init__(self, d_at: Callable[[Site], int]) -> None:
        self._d_at = d_at
        self._sums: dict[Site, Tensor] = {}

    def add_(self, sae: Sae, rebuilt: Float[Tensor, "tokens d_out"]) -> None:
        """Add what a Sae rebuilt to the sites that it writes."""
        parts = torch.split(rebuilt, [self._d_at(site) for site in sae.writes], dim=1)
        for site, part in zip(sae.writes, parts, strict=True):
            self._sums[site] = self._sums[site] + part if site in self._sums else part

    def at(self, sites: Sequence[Site]) -> Float[Tensor, "tokens d_out"]:
        """Return the sums at some sites, side by side."""
        return torch.cat([self._sums[site] for site in sites], dim=1)


def logits(
    model: Model, base: Clean, sites: Sequence[Site], values: Float[Tensor, "tokens d_out"]
) -> Logits:
    """Return the logits with the unmasked tokens of some sites replaced by values side by side.

    To the bit those of a whole pass with the same edits.
    """
    for site in sites:
        model.family.refuse_edit(site)
    parts = torch.split(values, [model.d_at(site) for site in sites], dim=1)
    edits: dict[Site, tap.Edit] = {
        site: partial(_placed, base.rows.mask, part)
        for site, part in zip(sites, parts, strict=True)
    }
    begin = _begin(model, base, edits)
    run = tap.run(model, base.rows.ids, edits=edits, with_logits=True, begin=begin)
    assert run.logits is not None
    return run.logits


class _Base(NamedTuple):
    """Where a pass with replaced values begins: the layer, and the sites whose sum enters it."""

    layer: int
    summands: tuple[Site, ...]


def _base(model: Model, sites: Sequence[Site]) -> _Base | None:
    """Find the highest beginning for a pass that replaces the values at `sites`.

    One site at the end of its layer spares the layer: mlp_out and the rest of the family's sum give
    resid_post. Before other sites their whole layer runs; the embedding and the logits, which are
    in no layer, take a whole pass.
    """
    first = min(sites, key=lambda site: site.order)
    if first.layer is None:
        return None
    if len(sites) > 1 or first.kind not in ("mlp_out", "resid_post"):
        return _Base(first.layer, (Site("resid_pre", first.layer),))
    kinds = model.family.resid_post_is if first.kind == "mlp_out" else (first.kind,)
    return _Base(first.layer + 1, tuple(Site(kind, first.layer) for kind in kinds))


def _begin(model: Model, base: Clean, edits: dict[Site, tap.Edit]) -> tap.Begin | None:
    """Begin as high as the edits allow; those that are in the stream already are taken out."""
    found = _base(model, tuple(edits))
    if found is None:
        return None
    values = [edits.pop(site, _as_it_was)(base.values[site]) for site in found.summands]
    return tap.Begin(found.layer, sum(values[1:], start=values[0]))


def _as_it_was(value: Tensor) -> Tensor:
    return value


def _placed(
    mask: Bool[Tensor, "batch position"],
    new: Float[Tensor, "tokens d_site"],
    value: Float[Tensor, "batch position d_site"],
) -> Float[Tensor, "batch position d_site"]:
    """Put new values at the unmasked tokens."""
    return value.masked_scatter(mask[..., None].to(value.device), new.to(value))
