"""A Sae is a value: folding changes the units and nothing else; a suite gives back what it took."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from panscope import files
from panscope.errors import Corrupt, NotFound
from panscope.sae import pieces
from panscope.sae.sae import WEIGHTS, Sae, Size, fold, size_of
from panscope.sae.suite import KIND, Suite, write_sae
from panscope.sites import Site

SITE = Site("resid_post", 0)


def random_sae(
    seed: int, d: int = 6, width: int = 10, k: int | None = None, skips: bool = False
) -> Sae:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Sae(
        w_enc=draw(d, width),
        b_enc=draw(width),
        w_dec=draw(width, d),
        b_dec=draw(d),
        threshold=draw(width).exp() / 4,
        reads=(SITE,),
        writes=(SITE,),
        k=k,
        skip=draw(d, d) if skips else None,
    )


@given(scale=st.floats(0.1, 50), seed=st.integers(0, 20), skips=st.booleans())
def test_folding_gives_raw_units(scale: float, seed: int, skips: bool):
    """The folded Sae on raw x equals the training form on x / C, times C (Gemma Scope, app. B)."""
    trained = random_sae(seed, skips=skips)
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(seed))
    sae = fold(trained, torch.full((6,), scale), torch.full((6,), scale))
    f = trained.encode(x)
    margin = (x @ trained.w_enc + trained.b_enc - trained.threshold).abs().min(1).values > 1e-4
    torch.testing.assert_close(
        sae.encode(scale * x)[margin], scale * f[margin], rtol=1e-4, atol=1e-4
    )
    expected = scale * trained.rebuild(x)[margin]
    torch.testing.assert_close(sae.rebuild(scale * x)[margin], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae.w_dec, trained.w_dec)


def test_folding_several_sites_scales_each_by_its_own():
    trained = random_sae(1)
    read, written = torch.tensor([2.0, 2, 2, 5, 5, 5]), torch.tensor([3.0, 3, 3, 7, 7, 7])
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(2))
    sae = fold(trained, read, written)
    torch.testing.assert_close(sae.rebuild(read * x), written * trained.rebuild(x))


def test_a_k_keeps_the_largest_of_each_token():
    sae, x = random_sae(3, k=2), torch.randn(20, 6, generator=torch.Generator().manual_seed(4))
    z = x @ sae.w_enc + sae.b_enc
    largest = (z * (z > sae.threshold)).topk(2)
    expected = torch.zeros_like(z).scatter(1, largest.indices, largest.values)
    torch.testing.assert_close(sae.encode(x), expected)


@pytest.fixture
def suite_folder(tmp_path: Path) -> Path:
    write_sae(tmp_path, "resid_post.0/w10_l0_3_s0", random_sae(0))
    facts = {"saes": [{"sae": "resid_post.0/w10_l0_3_s0", "site": "resid_post.0", "width": 10}]}
    files.seal(tmp_path, KIND, {}, {}, facts)
    return tmp_path


def test_what_is_written_is_read(suite_folder: Path):
    suite = Suite.open(suite_folder)
    (name,) = suite.names
    read, written = suite.load(name), random_sae(0)
    assert all(torch.equal(getattr(read, w), getattr(written, w)) for w in WEIGHTS)
    assert (read.reads, read.writes) == ((SITE,), (SITE,))


@given(seed=st.integers(0, 20), size=st.sampled_from(get_args(Size)), scale=st.floats(0.1, 50))
def test_biases_in_each_tokens_own_size_grow_with_it(seed: int, size: Size, scale: float):
    sae = replace(random_sae(seed), size=size)
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(seed))
    rebuilt, f = sae.rebuild(x), sae.encode(x)
    sizes = size_of(x, size)[:, None]
    z = x @ sae.w_enc + sizes * sae.b_enc
    expected = torch.where(z > sizes * sae.threshold, z, 0)
    margin = (z - sizes * sae.threshold).abs().min(1).values > 1e-4
    torch.testing.assert_close(f[margin], expected[margin], rtol=1e-4, atol=1e-4)
    again = sae.rebuild(scale * x)[margin] / scale
    torch.testing.assert_close(again, rebuilt[margin], rtol=1e-4, atol=1e-4)


def test_a_token_of_no_size_has_no_latents():
    sae = replace(random_sae(0), size="deviation", b_enc=torch.zeros(10))
    rebuilt = sae.rebuild(torch.zeros(2, 6))
    torch.testing.assert_close(rebuilt, torch.zeros(2, 6), rtol=0, atol=1e-6)


def test_k_skip_and_size_are_written_and_read(tmp_path: Path):
    written = replace(random_sae(0, k=3, skips=True), size="deviation")
    write_sae(tmp_path, "resid_post.0/topk", written)
    facts = {"saes": [{"sae": "resid_post.0/topk", "site": "resid_post.0", "width": 10}]}
    files.seal(tmp_path, KIND, {}, {}, facts)
    read = Suite.open(tmp_path).load("resid_post.0/topk")
    assert (read.k, read.size, read.skip.tolist()) == (3, "deviation", written.skip.tolist())
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(4))
    assert torch.equal(read.rebuild(x), written.rebuild(x))


@pytest.mark.parametrize("piece", [1, 7, 1 << 24])
def test_pieces_make_the_file_that_safetensors_would(
    tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pieces, "PIECE_NUMBERS", piece)
    sae = random_sae(0, skips=True)
    write_sae(tmp_path, "a/b", sae)
    whole = {name: getattr(sae, name) for name in (*WEIGHTS, "skip")}
    assert (tmp_path / "a/b/sae.safetensors").read_bytes() == save(whole)


def test_a_flipped_bit_in_the_weights_is_found_before_use(suite_folder: Path):
    path = suite_folder / "resid_post.0/w10_l0_3_s0/sae.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    suite = Suite.open(suite_folder)
    with pytest.raises(Corrupt, match=r"sae\.safetensors: blake3 is"):
        suite.load(suite.names[0])


def test_an_unknown_sae_is_answered_with_the_nearest(suite_folder: Path):
    with pytest.raises(NotFound, match=r"did you mean resid_post\.0/w10_l0_3_s0"):
        Suite.open(suite_folder).load("resid_post.0/w10_l0_4_s0")


def test_metrics_join_the_facts_and_leave_the_weights(suite_folder: Path):
    suite = Suite.open(suite_folder)
    measured = suite.with_metrics({suite.names[0]: {"l0": 3.0}}, {"evaluation": {"digest": "d"}})
    again = Suite.open(suite_folder)
    assert again.facts[suite.names[0]]["metrics"] == {"l0": 3.0}
    assert (
        again.manifest.facts["evaluation"]
        == {"digest": "d"}
        == measured.manifest.facts["evaluation"]
    )
    assert files.verify(suite_folder) == []
