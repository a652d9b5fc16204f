"""Suites of one random Sae, and how they are read and written."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from panscope import files
from panscope.events import silent
from panscope.sae.sae import Sae
from panscope.sae.suite import KIND, Suite, write_sae
from panscope.sites import Site
from panscope.stages import exchange
from panscope.stages.exchange import Ends

Made = Callable[..., Suite]
Taken = Callable[..., Suite]

D, WIDTH = 6, 10


def random_sae(
    reads: str = "resid_post.1",
    writes: str | None = None,
    *,
    k: int | None = None,
    thresholds: bool = True,
    skips: bool = False,
) -> Sae:
    """Make a Sae whose every number matters."""
    threshold = torch.rand(WIDTH) if thresholds else torch.zeros(WIDTH)
    ends = (Site.parse(reads),), (Site.parse(writes or reads),)
    weights = torch.randn(D, WIDTH), torch.randn(WIDTH), torch.randn(WIDTH, D), torch.randn(D)
    return Sae(*weights, threshold, *ends, k=k, skip=torch.randn(D, D) if skips else None)


def make_suite(folder: Path, saes: Mapping[str, Sae], facts: Mapping[str, object]) -> Suite:
    """Seal a suite of Saes by id, each with these facts."""
    for name, sae in saes.items():
        write_sae(folder, name, sae)
    known = [
        {"sae": name, "site": name.partition("/")[0], "width": sae.width, **facts}
        for name, sae in saes.items()
    ]
    files.seal(folder, KIND, {}, {}, {"saes": known})
    return Suite.open(folder)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Make a suite of Saes by id."""
    return lambda saes, **facts: make_suite(tmp_path / "made", saes, facts)


@pytest.fixture
def taken(tmp_path: Path) -> Taken:
    """Read a foreign folder."""

    def take(
        folder: Path, *only: str, reads: str | None = None, writes: str | None = None
    ) -> Suite:
        return exchange.read(str(folder), tmp_path / "taken", only, Ends(reads, writes), silent)

    return take
