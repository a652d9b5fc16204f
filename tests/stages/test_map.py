import importlib.util

import numpy as np
import pytest
import torch

from panscope.errors import Unsupported
from panscope.stages.describe.map import place

HAS_UMAP = importlib.util.find_spec("umap") is not None


def test_pca_is_that_of_the_singular_vectors() -> None:
    w_dec = torch.randn(200, 24) * torch.linspace(4, 0.1, 24)
    found = place(w_dec, "pca", seed=0)
    unit = torch.nn.functional.normalize(w_dec, dim=1)
    centred = (unit - unit.mean(0)).double()
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    expected = (u * s)[:, :2].numpy()
    assert np.allclose(np.abs(found), np.abs(expected), atol=1e-5)
    assert found[:, 0].var() > found[:, 1].var()


def test_a_map_is_the_same_each_time_and_does_not_see_lengths() -> None:
    w_dec = torch.randn(100, 16)
    found = place(w_dec, "pca", seed=0)
    assert np.array_equal(found, place(w_dec.clone(), "pca", seed=1))
    longer = place(w_dec * torch.rand(100, 1).add(0.5), "pca", seed=0)
    assert np.allclose(found, longer, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8), (2, 8), (5, 1)])
def test_few_features_or_dimensions_still_have_places(shape: tuple[int, int]) -> None:
    found = place(torch.randn(shape), "pca", seed=0)
    assert found.shape == (shape[0], 2)
    assert np.isfinite(found).all()


def test_dead_directions_of_length_zero_have_places() -> None:
    w_dec = torch.randn(20, 8)
    w_dec[3] = 0
    assert np.isfinite(place(w_dec, "pca", seed=0)).all()


@pytest.mark.skipif(HAS_UMAP, reason="umap-learn is installed")
def test_umap_that_is_not_there_says_what_installs_it() -> None:
    with pytest.raises(Unsupported, match=r"panscope\[umap\]"):
        place(torch.randn(20, 8), "umap", seed=0)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_UMAP, reason="umap-learn is not installed")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::ImportWarning")
def test_umap_keeps_two_bundles_apart_and_is_the_same_each_time() -> None:
    bundles = torch.eye(16)[:2].repeat_interleave(60, 0)
    w_dec = bundles + 0.1 * torch.randn(120, 16)
    found = place(w_dec, "umap", seed=0)
    assert np.array_equal(found, place(w_dec, "umap", seed=0))
    centres = found[:60].mean(0), found[60:].mean(0)
    spread = max(found[:60].std(), found[60:].std())
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread
