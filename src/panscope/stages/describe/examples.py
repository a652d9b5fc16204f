"""Examples: each chosen firing with all that its latent does in the same row of text."""

import torch
from jaxtyping import Int
from torch import Tensor

from panscope.atlas.columns import ExampleColumns
from panscope.kernels.bodies import counting
from panscope.kernels.firings import Firings
from panscope.stages.describe.bands import Chosen
from panscope.stages.describe.fired import Fired
from panscope.stages.describe.tokens import Text, Tokens

Found = tuple[Int[Tensor, " firings"], Int[Tensor, " firings"], Tensor]


def columns(chosen: Chosen, fired: Fired, text: Text) -> ExampleColumns:
    """Look the chosen firings' rows up in what fired, piece by piece."""
    rows = chosen.origins // text.context
    pieces = zip(fired.by_latent, text.tokens, strict=True)
    found = [_in_piece(*piece, chosen.latents, rows, text.context) for piece in pieces]
    which, positions, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = which.argsort(stable=True)
    return ExampleColumns(
        counts=torch.bincount(chosen.latents, minlength=fired.codes[0].width).numpy(),
        band=chosen.bands.numpy(),
        context=rows.numpy(),
        peak=(chosen.origins % text.context).numpy(),
        lengths=torch.bincount(which, minlength=len(rows)).numpy(),
        positions=positions[order].numpy(),
        values=values[order].numpy(),
    )


def _in_piece(
    firings: Firings, tokens: Tokens, latents: Tensor, rows: Tensor, context: int
) -> Found:
    """Return the firings of `latents` in the `rows` beside them: of which, position, value."""
    asked = torch.isin(rows, tokens.rows).nonzero().squeeze(1)
    begin, end = (
        counting().find(firings, latents[asked], torch.searchsorted(tokens.rows, edge.int()).int())
        for edge in (rows[asked], rows[asked] + 1)
    )
    lengths = end - begin
    skipped = begin - (lengths.cumsum(0) - lengths)  # firings that are not asked for, up to each
    at = torch.arange(int(lengths.sum())) + skipped.repeat_interleave(lengths)
    positions = tokens.origins[firings.tokens[at]] % context
    return asked.repeat_interleave(lengths), positions, firings.values[at]
