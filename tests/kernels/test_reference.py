"""The definition, against the analytic form of its estimator and against exact autograd."""

from collections.abc import Callable

import torch
from torch import Tensor

from panscope.kernels import reference


def training_loss(
    x: Tensor,
    w_enc: Tensor,
    b_enc: Tensor,
    w_dec: Tensor,
    b_dec: Tensor,
    threshold: Tensor,
    bandwidth: float,
    penalty: Callable[[Tensor], Tensor],
) -> Tensor:
    z = (x - b_dec) @ w_enc + b_enc
    f = reference.jumprelu(z, threshold, bandwidth)
    error = reference.squared_error(f, w_dec, b_dec, x)
    return error + penalty(reference.l0(z, threshold, bandwidth))


def random_parameters(seed: int, d_in: int = 6, latents: int = 9) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "w_enc": draw(d_in, latents),
        "b_enc": 0.1 * draw(latents),
        "w_dec": draw(latents, d_in),
        "b_dec": 0.1 * draw(d_in),
        "threshold": (0.3 * draw(latents) - 1).exp(),
    }


def random_input(seed: int, tokens: int = 40, d_in: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, d_in, generator=generator, dtype=torch.float64)


def test_a_value_on_the_threshold_does_not_pass():
    f = reference.encode(torch.eye(3), torch.eye(3), torch.zeros(3), torch.tensor([0.5, 1.0, 2.0]))
    assert f.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_threshold_gradient_is_the_kernel_estimate():
    p = {name: t.requires_grad_() for name, t in random_parameters(0).items()}
    x, bandwidth, price = random_input(1), 0.4, 0.03
    training_loss(x, **p, bandwidth=bandwidth, penalty=lambda l0: price * l0).backward()

    theta = p["threshold"].detach()
    z = (x - p["b_dec"]) @ p["w_enc"] + p["b_enc"]
    f = (z * (z > theta)).detach()
    error = f @ p["w_dec"] + p["b_dec"] - x
    pull = (2 / len(x)) * error @ p["w_dec"].T
    expected = torch.zeros_like(theta)
    for i in range(len(theta)):  # one latent and one token at a time: the formula as it is printed
        for t in range(len(x)):
            if abs(z[t, i] - theta[i]) < bandwidth / 2:
                expected[i] -= (theta[i] * pull[t, i] + price / len(x)).detach() / bandwidth
    torch.testing.assert_close(p["threshold"].grad, expected, rtol=1e-12, atol=1e-14)
    assert (expected != 0).any()


def test_other_gradients_are_exact_away_from_the_thresholds():
    """With the active set fixed the loss is smooth: autograd of the plain formula must agree."""
    p = {name: t.requires_grad_() for name, t in random_parameters(2).items()}
    x = random_input(3)
    training_loss(x, **p, bandwidth=1e-9, penalty=lambda l0: 0 * l0).backward()
    ours = {name: t.grad.clone() for name, t in p.items() if name != "threshold"}

    theta = p["threshold"].detach()
    z = (x - p["b_dec"]) @ p["w_enc"] + p["b_enc"]
    active = (z > theta).detach().double()
    smooth = ((z * active) @ p["w_dec"] + p["b_dec"] - x).square().sum(1).mean()
    for name, gradient in ours.items():
        (exact,) = torch.autograd.grad(smooth, p[name], retain_graph=True)
        torch.testing.assert_close(gradient, exact, rtol=1e-10, atol=1e-12)


def test_the_penalty_reaches_the_threshold_alone():
    p = {name: t.requires_grad_() for name, t in random_parameters(4).items()}
    x = random_input(5)

    def gradients(price: float) -> dict[str, torch.Tensor]:
        loss = training_loss(x, **p, bandwidth=0.5, penalty=lambda l0: price * l0)
        return dict(zip(p, torch.autograd.grad(loss, list(p.values())), strict=True))

    free, priced = gradients(0.0), gradients(1.0)
    for name in p:
        assert torch.equal(free[name], priced[name]) == (name != "threshold"), name
