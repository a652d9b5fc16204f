"""From a Sae's log and weights to the columns of its features."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32

from panscope.atlas.columns import FeatureColumns
from panscope.sae.sae import Sae
from panscope.stages.describe import bands, directions, examples
from panscope.stages.describe.companions import companions
from panscope.stages.describe.directions import Effects
from panscope.stages.describe.fired import Fired
from panscope.stages.describe.tally import Tally
from panscope.stages.describe.tokens import Text


def columns(
    name: str,
    saes: Mapping[str, Sae],
    tally: Tally,
    fired: Fired,
    text: Text,
    effects: Effects,
    places: Float32[np.ndarray, "latents 2"],
    n_listed: int,
    n_heads: int,
) -> FeatureColumns:
    """Lay out all that is known of a Sae's latents; it writes to `n_heads` heads, or to none."""
    sae, n_firings = saes[name], tally.histogram.counts.sum(1)
    mean = tally.total / n_firings.clamp_min(1)
    variance = tally.square / n_firings.clamp_min(1) - mean.square()
    joined = bands.joined(tally)
    chosen = bands.chosen(tally, joined, text.documents, text.context)
    return FeatureColumns(
        count=n_firings.numpy(),
        density=(n_firings.double() / max(tally.n_tokens, 1)).numpy(),
        max=tally.maximum.numpy(),
        mean=mean.numpy(),
        std=variance.clamp_min(0).sqrt().numpy(),
        histogram=tally.histogram.counts.numpy(),
        kind_counts=tally.kind_counts.numpy(),
        top=effects.top,
        bottom=effects.bottom,
        logit_histogram=effects.histogram,
        near=directions.near(sae.w_dec, n_listed),
        encoder_near=directions.near(sae.w_enc.T, n_listed),
        elsewhere=directions.elsewhere(name, saes, n_listed),
        companions=companions(fired, tally, n_listed),
        x=places[:, 0],
        y=places[:, 1],
        head_shares=directions.head_shares(sae.w_dec, n_heads),
        bands=bands.columns(tally, joined),
        examples=examples.columns(chosen, fired, text),
    )
