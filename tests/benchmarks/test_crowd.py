"""What steps are timed on: activations of unit norm, weights of the wanted L0."""

import crowd
import pytest
import torch


@pytest.mark.parametrize("l0", [16, 32])
def test_the_start_has_the_wanted_l0_and_a_filled_window(l0: int):
    generator = torch.Generator().manual_seed(0)
    world = crowd.crowd(32, generator)
    x = crowd.activations(world, 1024, generator)
    torch.testing.assert_close(x.square().sum(1).mean(), torch.tensor(1.0), rtol=0.05, atol=0)
    begun = crowd.weights(world, x, 512, generator)(l0)
    z = (x - begun.b_dec) @ begun.w_enc.T + begun.b_enc
    assert (z > begun.threshold).sum(1).float().mean() == pytest.approx(l0, rel=0.05)
    window = ((z - begun.threshold).abs() < begun.bandwidth / 2).sum(1).float().mean()
    assert 0.02 * l0 < window < l0


def test_quantiles_are_each_columns_own():
    z = torch.stack([torch.arange(100.0), 2 * torch.arange(100.0)], dim=1)
    assert crowd.quantiles(z, torch.tensor([0.9, 0.5])).tolist() == [90, 100]
