"""The Triton body against float64 PyTorch: on a GPU where there is one, else interpreted on CPU.

The interpreter takes milliseconds a program, so everything here is tiny, and tiles with it.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from panscope.kernels.pairs import Hits, Pairs, Rows

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, so before it is
pytest.importorskip("triton", reason="Triton has no build for this system")

from panscope.kernels import gpu, gpu_rows, gpu_screen  # noqa: E402
from panscope.kernels.gpu_screen import Tile  # noqa: E402

SMALL = Tile(16, 16, 16, warps=1, stages=1)
LARGE = Tile(32, 64, 32, warps=4, stages=2)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_screen, "TILE", SMALL)
    monkeypatch.setattr(gpu, "ROOM_STEP", 16)
    monkeypatch.setattr(gpu, "FIRST_GUESS", 4)
    monkeypatch.setattr(gpu, "_candidates", {})


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return normal(*shape, seed=seed).to(DEVICE)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(draw(*shape, seed=seed), dim=1)


def all_dots(x: Tensor, w: Tensor) -> Tensor:
    """The body's own float32 dot of every pair: what `encode` promises to select by."""
    latent, token = torch.arange(len(w)).int().to(DEVICE), torch.arange(len(x)).int().to(DEVICE)
    rows = latent.repeat(len(x)), token.repeat_interleave(len(w))
    return gpu_rows.dots(w, x, *rows).view(len(x), len(w))


def random_pairs(n_tokens: int, n_latents: int) -> Pairs:
    """A third of all pairs; the last token has none."""
    chosen = normal(n_tokens, n_latents, seed=7) > 0.4
    chosen[-1] = False
    token, latent = (index.int().to(DEVICE) for index in chosen.nonzero().T)
    offsets = torch.cat([torch.zeros(1).long(), chosen.sum(1).cumsum(0)]).to(DEVICE)
    return Pairs(token, latent, draw(len(token)), offsets, n_latents)


def some_hits() -> tuple[Hits, Tensor, Tensor]:
    """Hits on some of 30 latents, by 9 tokens in two segments; one latent has a third of all."""
    generator = torch.Generator().manual_seed(8)
    latent = torch.randint(0, 30, (60,), generator=generator)
    latent[::3] = 12
    token = torch.randint(0, 9, (60,), generator=generator)
    error_row = token + 9 * (latent >= 15)
    indices = (index.int().to(DEVICE) for index in (token, latent, error_row))
    return Hits(*indices, draw(60, seed=1), draw(60, seed=2)), draw(9, 11), draw(18, 7, seed=3)


def close(ours: Tensor, exact: Tensor, tolerance: float = 1e-5) -> None:
    """Compare relative to the largest number."""
    scale = max(1e-30, float(exact.abs().max())) if exact.numel() else 1
    torch.testing.assert_close(ours.double() / scale, exact / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("tile", "bias"), [(SMALL, 3.0), (LARGE, 3.0), (LARGE, 4e6)])
def test_exactly_what_exceeds_its_floor_in_the_float32_dot_is_kept(
    tile: Tile, bias: float, monkeypatch: pytest.MonkeyPatch
):
    """Floors lie on, or one float below, a value that some token has: nothing is nearer."""
    monkeypatch.setattr(gpu_screen, "TILE", tile)
    x, w, b = draw(19, 37), draw(21, 37, seed=1), bias * draw(21, seed=2)
    z = all_dots(x, w) + b
    close(z, x.double() @ w.double().T + b.double())
    floor = z.topk(4, dim=0).values[3].clone()
    floor[::2] = floor[::2].nextafter(torch.tensor(-torch.inf).to(DEVICE))
    pairs = gpu.encode(x, w, b, floor)
    kept = z > floor
    assert kept[:, ::2].sum() >= 44
    assert (z == floor).any(), "no value lies on its floor"
    assert torch.equal(torch.stack([pairs.token, pairs.latent], 1), kept.nonzero().int())
    assert torch.equal(pairs.z, z[kept])
    assert torch.equal(pairs.offsets.diff(), kept.sum(1))
    assert pairs.offsets[0] == 0


def between_halves(n: int, d: int, sign: float) -> Tensor:
    """Rows that lose in each number as much as rounding can take, all in one direction."""
    return torch.full((n, d), 1 + sign * 0.98 * 2.0**-11)


HARD = {
    "normal": (normal(16, 40), normal(16, 40, seed=1)),
    "both rounded": (between_halves(16, 40, 1), between_halves(16, 40, 1)),
    "w rounded": (torch.ones(16, 40), between_halves(16, 40, 1)),
    "x rounded": (between_halves(16, 40, 1), torch.ones(16, 40)),
    "below zero": (between_halves(16, 40, -1), -between_halves(16, 40, -1)),
    "outliers": (normal(16, 40) * 10 ** normal(40, seed=2), normal(16, 40, seed=1)),
    "far scales": (1e-18 * normal(16, 40), 1e15 * normal(16, 40, seed=1)),
    "cancelling": (
        normal(16, 20).repeat_interleave(2, dim=1),
        normal(16, 20, seed=1).repeat_interleave(2, dim=1) * torch.tensor([1.0, -0.999]).repeat(20),
    ),
}


@pytest.mark.parametrize("case", HARD)
def test_the_screen_misses_nothing(case: str):
    """What passes in float64 is among the candidates, even where the bound is reached."""
    x, w = (rows.to(DEVICE) for rows in HARD[case])
    exact = x.double() @ w.double().T
    for rank in (0, 5):
        top = exact.topk(rank + 1, dim=0).values[rank]
        reach = (top - 1e-7 * top.abs()).float()
        keys, found = gpu_screen.screen(
            gpu_screen.halves(x), gpu_screen.halves(w), reach, 256, x.shape[1]
        )
        chosen = torch.zeros(256, dtype=torch.bool, device=DEVICE)
        chosen[(keys & 0xFFFF_FFFF)[:found] * 16 + (keys >> 32)[:found]] = True
        passes = exact > reach.double()
        assert passes.any()
        assert chosen.view(16, 16)[passes].all()


def test_the_screen_lets_little_else_through():
    x, w = draw(48, 400), draw(48, 400, seed=1)
    reach = torch.full((48,), 20.0).to(DEVICE)
    _, found = gpu_screen.screen(gpu_screen.halves(x), gpu_screen.halves(w), reach, 64, 400)
    passing = int((x.double() @ w.double().T > 20).sum())
    assert passing > 200
    assert found <= 1.05 * passing


def test_room_grows_and_tokens_are_split_without_a_trace(monkeypatch: pytest.MonkeyPatch):
    x, w, b = draw(12, 8), draw(10, 8, seed=1), torch.zeros(10).to(DEVICE)
    everything = torch.full((10,), -torch.inf).to(DEVICE)
    monkeypatch.setattr(gpu, "FIRST_GUESS", 0)
    pairs = gpu.encode(x, w, b, everything)
    assert len(pairs.z) == 120
    assert torch.equal(pairs.scatter(pairs.z), all_dots(x, w))
    monkeypatch.setattr(gpu, "MOST", 50)
    split = gpu.encode(x, w, b, everything)
    for name in ("token", "latent", "z", "offsets"):
        assert torch.equal(getattr(split, name), getattr(pairs, name)), name


def test_what_is_not_a_number_passes_no_floor():
    x, w, b, floor = draw(6, 8), draw(10, 8, seed=1), draw(10, seed=2), draw(10, seed=3)
    kept = all_dots(x, w) + b > floor
    x[2, 3], w[4, 0], floor[5], b[6] = (torch.nan,) * 4
    kept[2], kept[:, 4:7] = False, False
    pairs = gpu.encode(x, w, b, floor)
    assert torch.equal(pairs.scatter(torch.ones_like(pairs.z)), kept.float())
    assert kept.any()


@pytest.mark.parametrize("bounds", [(40,), (5, 12, 40)])
@pytest.mark.parametrize("d_out", [13, 600])
def test_the_residual_of_each_prefix(bounds: tuple[int, ...], d_out: int):
    pairs = random_pairs(9, 40)
    f, target = draw(len(pairs.z)), draw(9, d_out, seed=4)
    w_dec = unit(40, d_out, seed=5)
    error, pull, squared = gpu.residual(pairs, f, w_dec, target, bounds)

    codes, w = pairs.scatter(f.double()), w_dec.double()
    missing = torch.stack([codes[:, :b] @ w[:b] - target for b in bounds])
    seen = missing.flip(0).cumsum(0).flip(0) * 2 / 9
    close(error, seen)
    close(squared, missing.square().sum((1, 2)))
    segment = torch.bucketize(pairs.latent, torch.tensor(bounds).to(DEVICE), right=True)
    close(pull, (seen[segment, pairs.token.long()] * w[pairs.latent.long()]).sum(1))
    assert pairs.offsets.diff()[-1] == 0, "a token without pairs is rebuilt as zero"


def test_sums_by_latent_have_the_same_bits_each_time():
    """Among many pairs of few latents; on a GPU plain index_add_ fails this at the second sum."""
    n_tokens, n_latents = 3_000, 30
    pairs = random_pairs(n_tokens, n_latents)
    values = draw(len(pairs.z), seed=1)
    sums = [replace(pairs).by_latent(values) for _ in range(20)]
    exact = torch.zeros(n_latents, dtype=torch.float64).index_add_(
        0, pairs.latent.long().cpu(), values.double().cpu()
    )
    close(sums[0].cpu(), exact, 1e-4)
    assert all(torch.equal(again, sums[0]) for again in sums)


def test_sums_in_order_are_those_of_each_latent():
    """As a GPU makes them; one latent has no pair."""
    pairs = random_pairs(40, 30).kept(random_pairs(40, 30).latent != 4)
    values = draw(len(pairs.z), seed=1)
    exact = torch.zeros(30, dtype=torch.float64, device=DEVICE)
    exact.index_add_(0, pairs.latent.long(), values.double())
    close(pairs.latent_order.sums(values), exact)
    assert pairs.latent_order.sums(values)[4] == 0


def test_pairs_in_the_order_of_their_latents():
    """One of them has none."""
    pairs = random_pairs(9, 30).kept(random_pairs(9, 30).latent != 4)
    order = pairs.latent_order
    places = pairs.latent.long() * 9 + pairs.token
    assert torch.equal(order.pair, places.argsort())
    assert torch.equal(order.latent, pairs.latent[order.pair])
    counts = torch.bincount(pairs.latent, minlength=30)
    assert counts[4] == 0
    assert torch.equal(order.edges, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))


@pytest.mark.parametrize("with_all", [False, True])
def test_gradients_of_hits_in_any_order(with_all: bool):
    hits, x, error = some_hits()
    everywhere = draw(30, seed=9) if with_all else None
    d_enc, d_dec = gpu.gradients(hits, x, error, everywhere, 30)
    slope, f = torch.zeros(30, len(x)).double(), torch.zeros(30, len(error)).double()
    slope, f = slope.to(DEVICE), f.to(DEVICE)
    latent = hits.latent.long()
    slope.index_put_((latent, hits.token.long()), hits.slope.double(), accumulate=True)
    f.index_put_((latent, hits.error_row.long()), hits.f.double(), accumulate=True)
    expected = slope @ x.double()
    if everywhere is not None:
        expected += everywhere.double()[:, None] * x.double().sum(0)
    close(d_enc, expected)
    close(d_dec, f @ error.double())


@pytest.mark.parametrize("with_all", [False, True])
def test_slabs_leave_no_trace(with_all: bool, monkeypatch: pytest.MonkeyPatch):
    hits, x, error = some_hits()
    everywhere = (draw(30, seed=9) * (torch.arange(30) % 3 == 0).to(DEVICE)) if with_all else None
    whole, parts = (Rows.begin(unit(30, 11, seed=2), unit(30, 7, seed=3)) for _ in range(2))
    gpu.update_(hits, x, error, everywhere, whole, 1, 0.01)
    monkeypatch.setattr(gpu, "SLAB", 7)
    gpu.update_(hits, x, error, everywhere, parts, 1, 0.01)
    for name in ("w_enc", "w_dec", "v_enc", "v_dec", "seen"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name
    touched = torch.zeros(30, dtype=torch.bool)
    touched[hits.latent.long().cpu()] = True
    if with_all:
        touched[::3] = True
    assert (whole.seen.cpu() == touched).all()
    assert not touched.all()


def test_nothing_at_all():
    """No tokens; and tokens that fire nothing."""
    w_enc, w_dec, b = unit(10, 8), unit(10, 8, seed=1), torch.zeros(10).to(DEVICE)
    never = torch.full((10,), torch.inf).to(DEVICE)
    for n_tokens in (0, 3):
        x = draw(n_tokens, 8)
        pairs = gpu.encode(x, w_enc, b, never)
        assert pairs.offsets.tolist() == [0] * (n_tokens + 1)
        error, pull, squared = gpu.residual(pairs, pairs.z, w_dec, x, (4, 10))
        assert error.shape == (2, n_tokens, 8)
        close(squared, x.double().square().sum().expand(2))
        hits = Hits(pairs.token, pairs.latent, pairs.token, pull, pull)
        rows = Rows.begin(w_enc.clone(), w_dec.clone())
        gpu.update_(hits, x, error.flatten(0, 1), None, rows, 1, 0.1)
        assert torch.equal(rows.w_enc, w_enc)
        assert torch.equal(rows.w_dec, w_dec)
        assert not rows.seen.any()


def test_weights_that_do_not_lie_row_by_row_are_refused():
    hits, x, error = some_hits()
    rows = Rows.begin(unit(11, 30).T, unit(30, 7))
    with pytest.raises(ValueError, match="row by row"):
        gpu.update_(hits, x, error, None, rows, 1, 0.1)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_twenty_steps_are_those_of_dense_adam(momentum: float):
    """Latents that miss steps included: their moments decay all the same, and the rows stay."""
    n_latents, d, rate, floor = 16, 8, 0.02, torch.full((16,), 0.9).to(DEVICE)
    b = 0.1 * draw(n_latents, seed=1)
    rows = Rows.begin(unit(n_latents, d, seed=2), unit(n_latents, d, seed=3), momentum)
    w_enc, w_dec = (w.double().clone().requires_grad_() for w in (rows.w_enc, rows.w_dec))
    adam = torch.optim.Adam([w_enc, w_dec], lr=rate, betas=(momentum, 0.999), eps=1e-8)
    missed = 0
    for step in range(1, 21):
        x = draw(10, d, seed=100 + step)
        pairs = gpu.encode(x, rows.w_enc, b, floor)
        error, pull, squared = gpu.residual(pairs, pairs.z, rows.w_dec, x, (n_latents,))
        hits = Hits(pairs.token, pairs.latent, pairs.token, pairs.z, pull)
        gpu.update_(hits, x, error[0], None, rows, step, rate)
        missed += n_latents - int((rows.seen == step).sum())

        z = x.double() @ w_enc.T + b.double()
        loss = ((z * (z > floor)) @ w_dec - x).square().sum()
        close(squared[0], loss.detach(), 1e-4)
        adam.zero_grad()
        (loss / 10).backward()
        with torch.no_grad():
            w_dec.grad -= (w_dec.grad * w_dec).sum(1, keepdim=True) * w_dec
            alone, before = rows.seen != step, (w_enc.clone(), w_dec.clone())
            adam.step()
            w_dec /= w_dec.norm(dim=1, keepdim=True)
            for w, old in zip((w_enc, w_dec), before, strict=True):
                w[alone] = old[alone]
    assert missed > 10
    close(rows.w_enc, w_enc.detach(), 1e-4)
    close(rows.w_dec, w_dec.detach(), 1e-4)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="the other tests compile for this machine's GPU")
def test_kernels_compile_for_gpus_that_are_not_here(tmp_path: Path):
    script = Path(__file__).with_name("compile_gpu.py")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
