"""Shares of heads: a plain loop's numbers, in what an atlas is made from; none at other sites."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.model.conftest import CONFIGS
from tests.stages import killed_describe

from panscope import files
from panscope.atlas.features import Atlas
from panscope.model.families import family_of
from panscope.model.load import Model
from panscope.sae.sae import Sae
from panscope.sae.suite import KIND, Suite, write_sae
from panscope.sites import Site
from panscope.stages import describe
from panscope.stages.describe.directions import head_shares

FAMILIES = ("gpt2", "gpt_neox", "gpt_neox (parallel)", "qwen2", "gemma2", "gemma3")
HEADS, WIDTH = 4, 6
WRITES = {
    "heads": (Site("attn_z", 1),),
    "stream": (Site("resid_post", 0),),
    "layers": (Site("attn_z", 0), Site("attn_z", 1)),
}


def one_by_one(row: list[float], n_heads: int) -> list[float]:
    """Shares without a tensor."""
    d_head = len(row) // n_heads
    lengths = [0.0] * n_heads
    for place, number in enumerate(row):
        lengths[place // d_head] += number * number
    lengths = [math.sqrt(square) for square in lengths]
    return [length / sum(lengths) for length in lengths]


@pytest.mark.parametrize("n_heads", [1, 2, 3, 12])
def test_shares_are_those_of_a_plain_loop(n_heads: int):
    w_dec = torch.randn(7, 24) * torch.rand(7, 24).exp()
    shares = head_shares(w_dec, n_heads)
    assert (shares.dtype, shares.shape) == ("float32", (7, n_heads))
    for row, found in zip(w_dec.tolist(), shares.tolist(), strict=True):
        assert found == pytest.approx(one_by_one(row, n_heads), rel=1e-5)
        assert sum(found) == pytest.approx(1)


def test_how_long_a_direction_is_changes_no_share():
    w_dec = torch.randn(3, 24)
    for scale in (1e-15, 1e-3, 1e15):
        assert head_shares(w_dec * scale, 4) == pytest.approx(head_shares(w_dec, 4), rel=1e-4)


def test_a_row_of_zeros_has_no_shares_but_zeros():
    w_dec = torch.eye(2, 6)
    w_dec[1] = 0
    assert head_shares(w_dec, 3).tolist() == [[1, 0, 0], [0, 0, 0]]


def test_without_heads_there_is_nothing():
    assert head_shares(torch.randn(5, 6), 0).shape == (5, 0)


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Model:
    """A random model of a family, which knows no text."""
    config: Any = CONFIGS[request.param]()
    lm = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    tokenizer = killed_describe.harvest.tiny_model().tokenizer
    family = family_of(config.to_dict(), request.param)
    return Model(lm, tokenizer, family, "random", "digest", 2, frozenset({0, 1, 2}))


def random_sae(reads: tuple[Site, ...], writes: tuple[Site, ...]) -> Sae:
    d_in, d_out = 32 * len(reads), 32 * len(writes)
    zeros = torch.zeros(WIDTH)
    w_enc, w_dec = torch.randn(WIDTH, d_in).T, torch.randn(WIDTH, d_out)
    return Sae(w_enc, zeros, w_dec, torch.zeros(d_out), zeros, reads, writes)


def suite_of(folder: Path, saes: dict[str, Sae]) -> Suite:
    for name, sae in saes.items():
        write_sae(folder, name, sae)
    facts = [{"sae": n, "site": str(s.writes[0]), "width": WIDTH} for n, s in saes.items()]
    files.seal(folder, KIND, {}, {}, {"saes": facts})
    return Suite.open(folder)


def test_features_of_heads_alone_have_shares(model: Model, tmp_path: Path):
    """An autoencoder of heads and a transcoder to them; not one from them, nor of two layers."""
    saes = {f"a/{name}": random_sae(sites, sites) for name, sites in WRITES.items()}
    saes["a/to"] = random_sae(WRITES["stream"], WRITES["heads"])
    saes["a/from"] = random_sae(WRITES["heads"], WRITES["stream"])
    suite = suite_of(tmp_path / "suite", saes)
    work = killed_describe.work(model, suite, tmp_path / "atlas")
    describe.run(work)
    atlas = Atlas(tmp_path / "atlas")
    for name in ("a/heads", "a/to"):
        for latent, row in enumerate(saes[name].w_dec.tolist()):
            found = atlas.feature(name, latent).head_shares
            assert found == pytest.approx(one_by_one(row, HEADS), rel=1e-5)
    for name in ("a/stream", "a/layers", "a/from"):
        assert all(atlas.feature(name, latent).head_shares == () for latent in range(WIDTH))
