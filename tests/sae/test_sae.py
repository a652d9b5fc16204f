"""A Sae is a value: folding changes the units and nothing else; a suite gives back what it took."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from panscope import files
from panscope.errors import Corrupt, NotFound
from panscope.sae.sae import WEIGHTS, Sae, fold
from panscope.sae.suite import KIND, Suite, write_sae
from panscope.sites import Site

SITE = Site("resid_post", 0)


def random_sae(seed: int, d: int = 6, width: int = 10, scale: float = 1.0) -> Sae:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    threshold = draw(width).exp() / 4
    return fold(draw(d, width), draw(width), draw(width, d), draw(d), threshold, scale, SITE)


@given(scale=st.floats(0.1, 50), seed=st.integers(0, 20))
def test_folding_gives_raw_units(scale: float, seed: int):
    """The folded Sae on raw x equals the training form on x / C, times C (Gemma Scope, app. B)."""
    generator = torch.Generator().manual_seed(seed)
    w_enc, w_dec = (torch.randn(s, generator=generator).double() for s in ((6, 10), (10, 6)))
    b_enc, b_dec = (torch.randn(n, generator=generator).double() for n in (10, 6))
    threshold = torch.rand(10, generator=generator).double()
    x = scale * torch.randn(30, 6, generator=generator).double()

    z = (x / scale - b_dec) @ w_enc + b_enc
    f = z * (z > threshold)
    sae = fold(w_enc, b_enc, w_dec, b_dec, threshold, scale, SITE)
    torch.testing.assert_close(sae.encode(x), scale * f)
    torch.testing.assert_close(sae.decode(sae.encode(x)), scale * (f @ w_dec + b_dec))


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


def test_a_flipped_bit_in_the_weights_is_found_before_use(suite_folder: Path):
    path = suite_folder / "resid_post.0/w10_l0_3_s0/sae.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    suite = Suite.open(suite_folder)
    with pytest.raises(Corrupt, match=r"sae\.safetensors: sha256 is"):
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
