"""Random Saes that fit the tiny model, and rows of token ids."""

from collections.abc import Callable

import pytest
import torch
from tests.model.conftest import folder as folder
from tests.model.conftest import precise as precise

from panscope.model import tap
from panscope.model.load import Model
from panscope.sae.sae import Sae
from panscope.sites import Site

WIDTH = 16
MakeSae = Callable[..., Sae]


@pytest.fixture(scope="session")
def make_sae(tiny_model: Model) -> MakeSae:
    """Make a Sae of random directions; about half of its latents fire on a token."""

    def make(reads: str, writes: str | None = None, seed: int = 0, k: int | None = None) -> Sae:
        generator = torch.Generator().manual_seed(seed)
        read, written = (
            tuple(map(Site.parse, sites.split())) for sites in (reads, writes or reads)
        )
        d_in, d_out = (sum(map(tiny_model.d_at, sites)) for sites in (read, written))
        w_dec = torch.randn(WIDTH, d_out, generator=generator)
        return Sae(
            w_enc=torch.randn(d_in, WIDTH, generator=generator),
            b_enc=torch.randn(WIDTH, generator=generator),
            w_dec=torch.nn.functional.normalize(w_dec, dim=1),
            b_dec=torch.randn(d_out, generator=generator),
            threshold=torch.zeros(WIDTH) if k is None else torch.full((WIDTH,), -torch.inf),
            reads=read,
            writes=written,
            k=k,
        )

    return make


@pytest.fixture(scope="session")
def row(tiny_model: Model) -> list[int]:
    """A BOS and eleven tokens: longer than the model's window."""
    return tiny_model.encode("The old lamp stood on the table, and rain fell.")


def values_at(model: Model, ids: list[int], *sites: Site) -> torch.Tensor:
    """The values of an unedited pass at some sites, side by side: (position, d)."""
    read = tap.run(model, torch.tensor([ids]), read=sites).values
    return torch.cat([read[site][0] for site in sites], -1)
