"""The C++ body: every screen on every instruction set keeps exactly what brute force keeps."""

import ctypes
import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from panscope.errors import ConfigError, Unsupported
from panscope.kernels import cpu, dense, library
from panscope.kernels.pairs import Body, Hits, Pairs, Rows, compared_

pytestmark = pytest.mark.skipif(not library.available(), reason=str(library.why_not()))


def forget() -> None:
    """Let the next call choose its library anew."""
    library._chosen.cache_clear()
    library.why_not.cache_clear()


@pytest.fixture(params=library.INSTRUCTION_SETS)
def instruction_set(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Run with each instruction set that this processor has."""
    monkeypatch.setenv("PANSCOPE_CPU", request.param)
    forget()
    if library.instruction_set() != request.param:
        forget()
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    monkeypatch.undo()
    forget()


@pytest.fixture
def threads() -> Iterator[None]:
    """Give the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def all_pre_activations(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Every value as the library computes it: with no floor every pair is a candidate."""
    pairs = cpu.encode(x, w, b, torch.full((len(w),), -math.inf))
    dense_z = torch.full((len(x), len(w)), math.nan)
    dense_z[pairs.token.long(), pairs.latent.long()] = pairs.z
    return dense_z


def assert_kept(pairs: Pairs, z: torch.Tensor, floor: torch.Tensor) -> None:
    """Check the pairs, their order and their bits against all pre-activations."""
    token, latent = (z > floor).nonzero(as_tuple=True)
    assert torch.equal(pairs.token.long(), token)
    assert torch.equal(pairs.latent.long(), latent)
    assert torch.equal(pairs.z.view(torch.int32), z[token, latent].view(torch.int32))
    counts = torch.bincount(token, minlength=len(z))
    assert torch.equal(pairs.offsets.diff(), counts) and pairs.offsets[0] == 0


ROWS = [
    "plain",
    "one huge",
    "some huge",
    "tiny",
    "denormal",
    "alternating",
    "halves",
    "zero",
    "vast",
]
FLOORS = ["on a value", "just below a value", "high", "middling", "mixed", "infinite"]


def rows_like(kind: str, seed: int, n: int, d: int) -> torch.Tensor:
    """Make rows that are hard to round well."""
    rows = draw(seed, n, d)
    if kind == "one huge":
        rows[:, seed % d] *= 3000
    elif kind == "some huge":
        rows *= (draw(seed + 1, d) * 3).exp()
    elif kind == "tiny":
        rows *= 1e-25
    elif kind == "denormal":
        rows *= 1e-39
    elif kind == "alternating":
        rows = rows.sign() * 127.5 / 127 * (torch.arange(d) % 2 * 2 - 1)
    elif kind == "halves":  # every product by the scale lies between two integers
        rows = (rows * 20).round() + 0.5
        rows[:, 0] = 127
    elif kind == "zero":
        rows[:: seed % 3 + 1] = 0
    elif kind == "vast":
        rows *= 1e18
    return rows


def floors_like(kind: str, seed: int, z: torch.Tensor) -> torch.Tensor:
    """Make floors that some values lie on or next to."""
    on = z[draw(seed, *z.shape).argmax(0), torch.arange(z.shape[1])]
    high = z.abs().amax(0).nan_to_num(0, 0) * 0.7
    if kind == "on a value":
        return on.nan_to_num(0)
    if kind == "just below a value":
        return torch.nextafter(on, torch.tensor(-math.inf)).nan_to_num(0)
    if kind == "high":
        return high
    if kind == "middling":
        return high * 0.2
    mixed = torch.where(draw(seed + 1, z.shape[1]) > 0, on, high)
    if kind == "mixed":
        mixed[::5] = math.nan
        return mixed
    mixed[::3], mixed[1::3] = math.inf, -math.inf
    return mixed


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(65, 33, 2304, "plain", "some huge", "on a value", 0)
@example(9, 40, 100, "tiny", "vast", "just below a value", 3)
@example(40, 70, 192, "alternating", "alternating", "just below a value", 1)
@given(
    st.integers(1, 30),
    st.integers(1, 70),
    st.integers(1, 150),
    st.sampled_from(ROWS),
    st.sampled_from(ROWS),
    st.sampled_from(FLOORS),
    st.integers(0, 10_000),
)
def test_no_input_breaks_the_bound(
    instruction_set: str, n: int, latents: int, d: int, xs: str, ws: str, floors: str, seed: int
):
    """The kept set is that of brute force, whatever the screen, and the values are its bits."""
    x, w = rows_like(xs, seed, n, d), rows_like(ws, seed + 1, latents, d)
    b = draw(seed + 2, latents) * (x.norm() * w.norm() / (n * latents) ** 0.5).nan_to_num(1, 1, 1)
    z = all_pre_activations(x, w, b * 0.1)
    floor = floors_like(floors, seed + 3, z)
    for screen in ["automatic", *cpu.screens()]:
        assert_kept(cpu.encode(x, w, b * 0.1, floor, screen), z, floor)


def test_nothing_finite_is_lost_beside_inf_and_nan(instruction_set: str):
    x, w, b = draw(0, 20, 40), draw(1, 70, 40), draw(2, 70)
    x[3, 5], x[7, 0], x[8, 39], w[4, 4], w[69, 1] = (
        math.nan,
        math.inf,
        -math.inf,
        math.inf,
        math.nan,
    )
    x[9], w[:2] = 0, 0
    floor = torch.full((70,), 1.5)
    w[20:40] *= 1e-11
    floor[20:40] = 1e30  # in the units of so small rows more than float32 can say
    z = all_pre_activations(x, w, b)
    assert z[3].isnan().all() and z[:, 69].isnan().all() and (z[:, 20:40] == math.inf).any()
    for screen in ["automatic", *cpu.screens()]:
        assert_kept(cpu.encode(x, w, b, floor, screen), z, floor)


@pytest.mark.parametrize("d", [1, 3, 16, 37, 256, 300])
def test_values_are_those_of_the_product(instruction_set: str, d: int):
    x, w, b = draw(0, 50, d), draw(1, 90, d), draw(2, 90)
    exact = (x.double() @ w.double().T + b).float()
    z = all_pre_activations(x, w, b)
    assert (z - exact).abs().max() < 2e-6 * (x.norm(dim=1).max() * w.norm(dim=1).max() + 1)


def test_encode_equals_the_dense_body(instruction_set: str):
    x, w, b = draw(0, 700, 64) / 8, draw(1, 1000, 64), draw(2, 1000) / 10
    floor = 2 + draw(3, 1000) / 10
    ours, theirs = cpu.encode(x, w, b, floor), dense.encode(x, w, b, floor)
    assert torch.equal(ours.token, theirs.token) and torch.equal(ours.latent, theirs.latent)
    torch.testing.assert_close(ours.z, theirs.z, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.offsets, theirs.offsets) and ours.n_latents == 1000


@pytest.mark.parametrize(("n", "latents"), [(0, 5), (1, 1), (1, 200), (13, 1)])
def test_few_tokens_or_latents(instruction_set: str, n: int, latents: int):
    x, w, b = draw(0, n, 9), draw(1, latents, 9), torch.zeros(latents)
    floor = torch.zeros(latents)
    pairs = cpu.encode(x, w, b, floor)
    assert_kept(pairs, all_pre_activations(x, w, b), floor)
    left = cpu.residual(pairs, pairs.z, w, draw(2, n, 9), (latents,))
    assert left.error.shape == (1, n, 9) and left.squared.dtype == torch.float64
    assert (
        cpu.gradients(hits_of(pairs, pairs.z, n), x, left.error[0], None, latents)[0].shape
        == w.shape
    )


def test_no_dimensions_are_an_error():
    with pytest.raises(Unsupported, match="activations have no dimensions"):
        cpu.encode(draw(0, 3, 0), draw(1, 5, 0), torch.zeros(5), torch.zeros(5))


def test_a_huge_dimension_costs_the_int8_screens_little(instruction_set: str):
    """Without its own slots it would leave the other 255 dimensions one level."""
    d, latents = 256, 512
    x, w = draw(0, 96, d), torch.nn.functional.normalize(draw(1, latents, d), dim=1)
    x[:, 7] *= 60
    z = x @ w.T
    floor = z.flatten().kthvalue(int(0.99 * z.numel())).values.repeat(latents)
    for screen in {"vnni", "pairs"} & set(cpu.screens()):
        counts = cpu.counts(x, w, torch.zeros(latents), floor, screen)
        assert counts.pairs <= counts.candidates < 0.05 * z.numel()


def hits_of(pairs: Pairs, f: torch.Tensor, n: int, bounds: tuple[int, ...] = ()) -> Hits:
    """Pretend that each pair's slope is its sine."""
    segment = torch.bucketize(pairs.latent, torch.tensor(bounds or (pairs.n_latents,)), right=True)
    return Hits(pairs.token, pairs.latent, (segment * n + pairs.token).int(), f, pairs.z.sin())


def doubled(hits: Hits) -> Hits:
    return hits._replace(f=hits.f.double(), slope=hits.slope.double())


def some_pairs(n: int = 90, latents: int = 130, d_in: int = 50) -> tuple[torch.Tensor, Pairs]:
    x, w = draw(0, n, d_in), draw(1, latents, d_in) / d_in**0.5
    return x, cpu.encode(x, w, torch.zeros(latents), torch.full((latents,), 1.2))


@pytest.mark.parametrize("d_out", [1, 30, 64, 517])
@pytest.mark.parametrize("bounds", [(130,), (20, 50, 130)])
def test_residual_equals_the_dense_body(instruction_set: str, d_out: int, bounds: tuple[int, ...]):
    _, pairs = some_pairs()
    f = torch.where(pairs.z > 1.5, pairs.z, 0)  # some pairs are kept for their gradient alone
    w_dec, target = draw(2, 130, d_out), draw(3, 90, d_out)
    ours = cpu.residual(pairs, f, w_dec, target, bounds)
    exact = dense.residual(pairs, f.double(), w_dec.double(), target.double(), bounds)
    torch.testing.assert_close(ours.squared, exact.squared, rtol=1e-5, atol=0)
    for a, b in [(ours.error, exact.error), (ours.pull, exact.pull)]:
        torch.testing.assert_close(a.double() / b.abs().max(), b / b.abs().max(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bounds", [(130,), (0, 0, 130), (20, 130, 130)])
def test_halves_of_the_residual_are_the_residual(instruction_set: str, bounds: tuple[int, ...]):
    """Prefixes may be empty, or all: those that end before this process's latents, or after."""
    _, pairs = some_pairs()
    f = torch.where(pairs.z > 1.5, pairs.z, 0)
    w_dec, target = draw(2, 130, 67), draw(3, 90, 67)
    whole = cpu.residual(pairs, f, w_dec, target, bounds)
    error, squared = compared_(cpu.decode(pairs, f, w_dec, bounds), target)
    if len(bounds) == 1:
        assert torch.equal(error, whole.error)
    torch.testing.assert_close((error, squared), (whole.error, whole.squared))
    assert torch.equal(cpu.pull(pairs, whole.error, w_dec, bounds), whole.pull)
    exact = dense.residual(pairs, f.double(), w_dec.double(), target.double(), bounds)
    torch.testing.assert_close(whole.pull.double(), exact.pull, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("body", [cpu, dense])
def test_a_process_may_have_no_latents(body: Body):
    """Of those that are dead, say."""
    x, none = draw(0, 9, 7), torch.zeros(0, 7)
    pairs = body.encode(x, none, torch.zeros(0), torch.zeros(0))
    assert (len(pairs.z), pairs.n_tokens) == (0, 9)
    assert torch.equal(body.decode(pairs, pairs.z, none, (0,)), torch.zeros(1, 9, 7))
    assert len(body.pull(pairs, x[None], none, (0,))) == 0


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize(("d_in", "d_out"), [(50, 50), (64, 300), (7, 1)])
def test_gradients_equal_the_dense_body(
    instruction_set: str, everywhere: bool, d_in: int, d_out: int
):
    x, pairs = some_pairs(d_in=d_in)
    hits = hits_of(pairs, pairs.z, 90, (60, 130))
    shuffled = torch.randperm(len(pairs.z))
    hits = Hits(*(torch.cat([t[shuffled], t[:10]]) for t in hits))  # any order, repeats
    error = draw(2, 180, d_out)
    extra = torch.where(draw(3, 130) > 0, draw(4, 130), 0) if everywhere else None
    ours = cpu.gradients(hits, x, error, extra, 130)
    wide = None if extra is None else extra.double()
    exact = dense.gradients(doubled(hits), x.double(), error.double(), wide, 130)
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.double() / b.abs().max(), b / b.abs().max(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_twenty_updates_equal_the_dense_body(instruction_set: str, momentum: float):
    """Latents come and go, so moments must decay over the steps that a row was left alone."""
    x, pairs = some_pairs()
    w_dec = torch.nn.functional.normalize(draw(5, 130, 50), dim=1)
    ours, exact = (
        Rows.begin(draw(4, 130, 50).to(dtype), w_dec.to(dtype), momentum)
        for dtype in (torch.float32, torch.float64)
    )
    for step in range(1, 21):
        awake = pairs.latent % 5 != step % 5
        hits = Hits(*(t[awake] for t in hits_of(pairs, pairs.z * step, 90)))
        extra = torch.zeros(130)
        extra[step % 7 :: 50] = 0.1
        error = draw(10 + step, 90, 50)
        cpu.update_(hits, x, error, extra, ours, step, 1e-2)
        dense.update_(doubled(hits), x.double(), error.double(), extra.double(), exact, step, 1e-2)
    assert torch.equal(ours.seen, exact.seen) and 0 < len(ours.seen.unique()) < 21
    assert ours.tensors().keys() == exact.tensors().keys()
    for name in ours.tensors().keys() - {"seen"}:
        a, b = getattr(ours, name), getattr(exact, name)
        torch.testing.assert_close(a.double() / b.abs().max(), b / b.abs().max(), rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.w_dec.norm(dim=1), torch.ones(130))


def test_the_number_of_threads_changes_no_bit(instruction_set: str, threads: None):
    x, w, target = draw(0, 400, 70), draw(1, 600, 70), draw(2, 400, 70)
    found: list[list[torch.Tensor]] = []
    for n in (1, 2, 5):
        torch.set_num_threads(n)
        pairs = cpu.encode(x, w, torch.zeros(600), torch.full((600,), 12.0))
        left = cpu.residual(pairs, pairs.z, w, target, (100, 600))
        hits = hits_of(pairs, pairs.z, 400, (100, 600))
        rows = Rows.begin(w.clone(), torch.nn.functional.normalize(w, dim=1))
        error = left.error.flatten(0, 1)
        d_rows = cpu.gradients(hits, x, error, draw(3, 600), 600)
        cpu.update_(hits, x, error, draw(3, 600), rows, 1, 1e-3)
        found.append([pairs.latent, pairs.z, *left, *d_rows, rows.w_enc, rows.w_dec, rows.v_dec])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_no_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    forget()
    assert not library.available()
    assert "no native library" in str(library.why_not()) and "compiler" in str(library.why_not())
    monkeypatch.undo()
    forget()


def test_a_library_that_does_not_load_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    broken = tmp_path / "_native_portable.so"
    broken.write_bytes(b"not a library")
    spec = importlib.util.spec_from_file_location("broken", broken)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    forget()
    assert "cannot be loaded" in str(library.why_not())
    monkeypatch.undo()
    forget()


def test_a_wrong_instruction_set_is_answered_with_the_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PANSCOPE_CPU", "avx3")
    forget()
    with pytest.raises(ConfigError, match="avx2"):
        library.instruction_set()
    monkeypatch.undo()
    forget()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_there_is_one_openmp_runtime_and_torch_rules_it():
    """In a fresh process: other packages of this one may have brought their own."""
    program = """
from panscope.kernels import library
library.library()
import ctypes, torch
from panscope.kernels import cpu
w = torch.ones(8, 8)
cpu.encode(w, w, w[0], w[0])
libraries = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
print([path for path in libraries if "omp" in path.rsplit("/", 1)[-1]])
torch.set_num_threads(3)
print(ctypes.CDLL(None).omp_get_max_threads())
"""
    run = [sys.executable, "-c", program]
    out = subprocess.run(run, capture_output=True, text=True, check=True, env=dict(os.environ))
    runtimes, threads = out.stdout.splitlines()
    assert runtimes.count(".so") == 1 and threads == "3"


def test_structures_have_the_sizes_that_c_expects():
    assert ctypes.sizeof(cpu._Hits) == ctypes.sizeof(cpu._Rows) - 16 == 48
    assert ctypes.sizeof(cpu._Sources) == 56
