"""The closed form, against autograd through the definition."""

import pytest
import torch

from panscope.kernels import dense, reference
from panscope.kernels.dense import Parameters


def parameters(seed: int, dtype: torch.dtype) -> Parameters:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return Parameters(draw(8, 24), 0.1 * draw(24), draw(24, 8), 0.1 * draw(8), 0.3 * draw(24) - 1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("price", [0.0, 0.2])
def test_gradients_equal_autograd_of_the_definition(
    dtype: torch.dtype, tolerance: float, price: float
):
    p = parameters(0, dtype)
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x.to(dtype)
    leaves = Parameters(*(t.clone().requires_grad_() for t in p))
    loss = reference.training_loss(x, *leaves, bandwidth=0.3, penalty=lambda l0: price * l0)
    expected = Parameters(*torch.autograd.grad(loss, leaves))

    done = dense.forward(x, p)
    torch.testing.assert_close(
        done.loss + price * done.l0, loss.detach(), rtol=tolerance, atol=tolerance
    )
    ours = dense.backward(done, p, 0.3, torch.tensor(price, dtype=dtype))
    for name, a, b in zip(Parameters._fields, ours, expected, strict=True):
        scale = b.abs().max()
        torch.testing.assert_close(a / scale, b / scale, rtol=tolerance, atol=tolerance, msg=name)


def test_a_quadratic_penalty_enters_by_its_slope():
    p = parameters(2, torch.float64)
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    leaves = Parameters(*(t.clone().requires_grad_() for t in p))
    loss = reference.training_loss(
        x, *leaves, bandwidth=0.3, penalty=lambda l0: 0.7 * (l0 / 5 - 1).square()
    )
    (expected,) = torch.autograd.grad(loss, leaves.log_threshold)
    done = dense.forward(x, p)
    slope = 2 * 0.7 / 5 * (done.l0 / 5 - 1)
    ours = dense.backward(done, p, 0.3, slope).log_threshold
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
