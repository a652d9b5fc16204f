"""Every architecture's gradient on pairs, against autograd through its definition, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from panscope.kernels import dense, reference
from panscope.sites import Site
from panscope.stages.train.gradient import Gradient
from panscope.stages.train.member import Member, Scales
from panscope.stages.train.objective import Config, Revive, Schedule, Threshold
from panscope.stages.train.sweep import specs

TOKENS, D, WIDTH = 50, 8, 24
PRICE = 0.07
Leaves = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor, Leaves], Tensor]


def member(**changes: object) -> Member:
    """Make a member in float64 with parameters away from where they start."""
    settings = Config(
        **{"sites": ("mlp_in.0",), "widths": (WIDTH,), "tokens": 10**6} | changes,  # type: ignore[arg-type]
        schedule=Schedule(sparsity_warmup_steps=0),
        threshold=Threshold(initial=0.3, bandwidth=0.4),
    )
    (spec,) = specs(settings, 2)
    d_in, d_out = (D * len(ends) for ends in (spec.reads, spec.writes))
    made = Member.begin(
        spec, settings, Scales(torch.ones(d_in), torch.ones(d_out), torch.zeros(d_out), 1.0)
    )
    draw = torch.Generator().manual_seed(3)
    for name in ("w_enc", "w_dec"):
        weight = getattr(made.rows, name)
        noise = torch.randn(weight.shape, generator=draw, dtype=torch.float64)
        setattr(made.rows, name, weight.double() + 0.2 * noise)
    for name, vector in made.vectors.items():
        noise = torch.randn(vector.shape, generator=draw, dtype=torch.float64)
        made.vectors[name] = vector.double() + 0.1 * noise * (name not in ("floor", "least"))
    return made


def data(made: Member) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(TOKENS, len(made.scales.read), generator=draw, dtype=torch.float64)
    if made.spec.centres:
        return x, x
    return x, torch.randn(TOKENS, len(made.scales.written), generator=draw, dtype=torch.float64)


def ours(made: Member, x: Tensor, target: Tensor) -> Leaves:
    centred = x - made.vectors["b_dec"] if made.spec.centres else x
    g: Gradient = made.gradient(dense, x, centred, target, step=10)
    d_enc, d_dec = dense.gradients(g.hits, centred, g.error, g.everywhere, made.spec.width)
    return {"w_enc": d_enc, "w_dec": d_dec, **g.vectors}


def autograd(made: Member, loss: Loss, x: Tensor, target: Tensor) -> Leaves:
    before = {"w_enc": made.rows.w_enc, "w_dec": made.rows.w_dec, **made.vectors}
    leaves = {name: t.clone().requires_grad_() for name, t in before.items()}
    value = loss(x, target, leaves)
    grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {name: g for name, g in zip(leaves, grads, strict=True) if g is not None}


def pre_activations(made: Member, x: Tensor, p: Leaves) -> Tensor:
    centred = x - p["b_dec"] if made.spec.centres else x
    return centred @ p["w_enc"].T + p["b_enc"]


def rebuilt_error(made: Member, f: Tensor, x: Tensor, target: Tensor, p: Leaves) -> Tensor:
    wanted = target - x @ p["skip"].T if "skip" in p else target
    return reference.squared_error(f, p["w_dec"], p["b_dec"], wanted, made.spec.saes.prefixes)


def jumprelu(made: Member) -> Loss:
    def loss(x: Tensor, target: Tensor, p: Leaves) -> Tensor:
        z, bandwidth = pre_activations(made, x, p), 0.4
        f = reference.jumprelu(z, p["threshold"], bandwidth)
        l0 = reference.l0(z, p["threshold"], bandwidth)
        return rebuilt_error(made, f, x, target, p) + made.spec.penalty.value(l0)

    return loss


def relu(made: Member) -> Loss:
    def loss(x: Tensor, target: Tensor, p: Leaves) -> Tensor:
        f = pre_activations(made, x, p).relu()
        return rebuilt_error(made, f, x, target, p) + PRICE * f.sum(1).mean()

    return loss


def gated(made: Member) -> Loss:
    def loss(x: Tensor, target: Tensor, p: Leaves) -> Tensor:
        gate = pre_activations(made, x, p)
        u = gate - p["b_enc"]
        f = (p["log_gain"].exp() * u + p["b_mag"]).relu() * (gate > 0)
        frozen = {"w_dec": p["w_dec"].detach(), "b_dec": p["b_dec"].detach()}
        by_gate = rebuilt_error(made, gate.relu(), x, target, frozen)
        return rebuilt_error(made, f, x, target, p) + by_gate + PRICE * gate.relu().sum(1).mean()

    return loss


def k_largest(made: Member, choose: Callable[[Tensor, int], Tensor]) -> Loss:
    def loss(x: Tensor, target: Tensor, p: Leaves) -> Tensor:
        f = choose(pre_activations(made, x, p), 5)
        return rebuilt_error(made, f, x, target, p)

    return loss


def assert_same(found: Leaves, expected: Leaves) -> None:
    for name, gradient in expected.items():
        scale = gradient.abs().max()
        assert scale > 0, name
        torch.testing.assert_close(found[name] / scale, gradient / scale, rtol=1e-10, atol=1e-10)


PREFIXES = [(), (4, 10)]


@pytest.mark.parametrize("prefixes", PREFIXES)
@pytest.mark.parametrize("sparsity", [{"sparsity": (PRICE,)}, {"target_l0": (3.0,)}])
def test_jumprelu(prefixes: tuple[int, ...], sparsity: dict[str, tuple[float]]):
    made = member(prefixes=prefixes, **sparsity)
    x, target = data(made)
    expected = autograd(made, jumprelu(made), x, target)
    assert_same(ours(made, x, target), expected)


@pytest.mark.parametrize("prefixes", PREFIXES)
def test_relu(prefixes: tuple[int, ...]):
    made = member(architecture="relu", sparsity=(PRICE,), prefixes=prefixes)
    x, target = data(made)
    assert_same(ours(made, x, target), autograd(made, relu(made), x, target))


@pytest.mark.parametrize("prefixes", PREFIXES)
def test_gated(prefixes: tuple[int, ...]):
    made = member(architecture="gated", sparsity=(PRICE,), prefixes=prefixes)
    x, target = data(made)
    assert_same(ours(made, x, target), autograd(made, gated(made), x, target))


@pytest.mark.parametrize("prefixes", PREFIXES)
@pytest.mark.parametrize(
    ("architecture", "choose"), [("topk", reference.topk), ("batch_topk", reference.batch_topk)]
)
def test_k_largest(
    architecture: str, choose: Callable[[Tensor, int], Tensor], prefixes: tuple[int, ...]
):
    made = member(architecture=architecture, target_l0=(5.0,), prefixes=prefixes)
    x, target = data(made)
    for _ in range(3):  # the floor that the first step finds serves the next
        expected = autograd(made, k_largest(made, choose), x, target)
        assert_same(ours(made, x, target), expected)


@pytest.mark.parametrize("kind", ["transcoder", "skip_transcoder"])
def test_transcoders(kind: str):
    made = member(kind=kind, writes=("mlp_out.0",), sparsity=(PRICE,))
    if kind == "skip_transcoder":
        assert "skip" in made.vectors
    x, target = data(made)
    assert_same(ours(made, x, target), autograd(made, jumprelu(made), x, target))


def test_a_crosscoder_is_an_autoencoder_of_all_its_sites():
    made = member(kind="crosscoder", sites=("resid_post.*",), sparsity=(PRICE,))
    assert made.spec.reads == made.spec.writes == (Site("resid_post", 0), Site("resid_post", 1))
    x, target = data(made)
    assert x.shape[1] == 2 * D
    assert_same(ours(made, x, target), autograd(made, jumprelu(made), x, target))


def kill(made: Member, latents: list[int]) -> None:
    """Let the meter believe that these have not fired for long."""
    made.meter.idle_tokens[latents] = made.spec.saes.revive.dead_after_tokens


def test_the_pre_activation_loss_pulls_dead_latents_up():
    revive = Revive(preact_strength=0.3)
    made, dead = member(sparsity=(PRICE,), revive=revive), [1, 5, 20]
    kill(made, dead)
    x, target = data(made)

    def loss(x: Tensor, target: Tensor, p: Leaves) -> Tensor:
        below = (p["threshold"] - pre_activations(made, x, p)).relu()[:, dead]
        return jumprelu(made)(x, target, p) + 0.3 * below.sum(1).mean()

    assert_same(ours(made, x, target), autograd(made, loss, x, target))


@pytest.mark.parametrize("prefixes", PREFIXES)
def test_dead_latents_rebuild_what_the_living_left_over(prefixes: tuple[int, ...]):
    revive = Revive(aux_strength=0.3, aux_k=2)
    settings = {"architecture": "topk", "target_l0": (5.0,), "prefixes": prefixes}
    made, dead = member(revive=revive, **settings), [1, 5, 11, 20]
    kill(made, dead)
    x, target = data(made)

    def loss(x: Tensor, target: Tensor, p: Leaves) -> Tensor:
        z = pre_activations(made, x, p)
        f = reference.topk(z, 5)
        left_over = (target - f @ p["w_dec"] - p["b_dec"]).detach()
        by_dead = reference.topk(z[:, dead], 2) @ p["w_dec"][dead]
        aux = (by_dead - left_over).square().sum(1).mean()
        return k_largest(made, reference.topk)(x, target, p) + 0.3 * aux

    found, expected = ours(made, x, target), autograd(made, loss, x, target)
    assert_same(found, expected)
    unaided = autograd(made, k_largest(made, reference.topk), x, target)
    assert not torch.equal(unaided["w_enc"][dead], expected["w_enc"][dead])


ROWS = [
    {"sparsity": (PRICE,)},
    {"architecture": "relu", "sparsity": (PRICE,)},
    {"architecture": "gated", "sparsity": (PRICE,)},
    {"architecture": "topk", "target_l0": (5.0,)},
    {"kind": "skip_transcoder", "writes": ("mlp_out.0",), "sparsity": (PRICE,)},
]


@pytest.mark.parametrize("changes", ROWS, ids=lambda row: "_".join(map(str, row.values())))
def test_the_written_sae_computes_what_was_trained(changes: dict[str, object]):
    made = member(**changes)
    x, _ = data(made)
    centred = x - made.vectors["b_dec"] if made.spec.centres else x
    active = made._encode(dense, centred)
    rebuilt = active.pairs.scatter(active.f) @ made.rows.w_dec + made.vectors["b_dec"]
    if "skip" in made.vectors:
        rebuilt += x @ made.vectors["skip"].T
    sae = made.sae()
    torch.testing.assert_close(sae.encode(x), active.pairs.scatter(active.f))
    torch.testing.assert_close(sae.rebuild(x), rebuilt)


def test_batch_topk_is_written_with_the_threshold_it_converged_to():
    made = member(architecture="batch_topk", target_l0=(5.0,))
    x, target = data(made)
    for _ in range(3):
        ours(made, x, target)
    sae = made.sae()
    assert sae.k is None
    # The threshold is one of the values: whether that one exceeds it is a matter of rounding.
    assert (sae.encode(x) != 0).sum() in (5 * TOKENS - 1, 5 * TOKENS)
