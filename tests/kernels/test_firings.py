"""The C++ body of what is counted of firings does the same as the definitions, to the bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from panscope.kernels import cpu_firings, firings, library
from panscope.kernels.bodies import counting
from panscope.kernels.firings import Codes
from panscope.stats import LogHistogram, TopK

pytestmark = pytest.mark.skipif(not library.available(), reason=str(library.why_not()))

WIDTH, N_CLASSES = 9, 4


def codes_of(f: Tensor) -> Codes:
    """What fired of activations (tokens, latents)."""
    counts = (f != 0).sum(1)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Codes(offsets, f.nonzero()[:, 1].int(), f[f != 0], f.shape[1])


@st.composite
def activations(draw: st.DrawFn) -> Tensor:
    """Sparse activations (tokens, latents), many of them equal."""
    seed, n_tokens = draw(st.integers(0, 10_000)), draw(st.integers(0, 40))
    generator = torch.Generator().manual_seed(seed)
    f = torch.randint(1, 6, (n_tokens, WIDTH), generator=generator) / 2
    return f * (torch.rand(f.shape, generator=generator) < draw(st.sampled_from([0.05, 0.4, 1.0])))


@given(f=activations(), threads=st.sampled_from([1, 3]))
def test_codes_are_sorted_by_latent(f: Tensor, threads: int):
    torch.set_num_threads(threads)
    told = [body.by_latent(codes_of(f)) for body in (firings, cpu_firings)]
    torch.set_num_threads(1)
    for found in told:
        assert found.n_latents == WIDTH
        for latent in range(WIDTH):
            mine = slice(*found.starts[latent : latent + 2].tolist())
            fired = f[:, latent].nonzero().squeeze(1)
            assert found.tokens[mine].tolist() == fired.tolist()
            assert torch.equal(found.values[mine], f[fired, latent])


@given(f=activations())
def test_firings_are_found_by_latent_and_token(f: Tensor):
    """Of every latent at every token, and after the last."""
    asked = torch.cartesian_prod(torch.arange(WIDTH), torch.arange(len(f) + 1))
    latents, tokens = asked[:, 0].contiguous(), asked[:, 1].int()
    before = [(f[:, :i] != 0).sum() + (f[:t, i] != 0).sum() for i, t in asked.tolist()]
    for body in (firings, cpu_firings):
        found = body.find(body.by_latent(codes_of(f)), latents, tokens)
        assert found.tolist() == [int(n) for n in before]


def test_bins_are_those_of_the_edges():
    """Also on the edges themselves, beside them, and beyond the ends."""
    histogram = LogHistogram.zero(1, 0.37, range(-8, 3), 4)
    inner = torch.tensor(histogram.edges[1:-1])
    around = [torch.nextafter(inner, torch.tensor(to)) for to in (0.0, torch.inf)]
    values = torch.cat([inner, *around, torch.tensor([1e-30, 1e30]), torch.rand(2000) * 3])
    expected = torch.bucketize(values, inner, right=True)
    for body in (firings, cpu_firings):
        assert torch.equal(body.bins_of(values, inner).long(), expected)


@given(batches=st.lists(activations(), min_size=1, max_size=3), threads=st.sampled_from([1, 3]))
def test_what_is_counted_is_the_same_to_the_bit(batches: list[Tensor], threads: int):
    torch.set_num_threads(threads)
    told = [_told(body, batches) for body in (firings, cpu_firings)]
    torch.set_num_threads(1)
    for defined, found in zip(*told, strict=True):
        assert torch.equal(defined, found)


def _told(body: firings.Counting, batches: list[Tensor]) -> list[Tensor]:
    counts, by_token = (torch.zeros(WIDTH, N_CLASSES, dtype=torch.int64) for _ in range(2))
    total, square = (torch.zeros(WIDTH, dtype=torch.float64) for _ in range(2))
    best, drawn = (TopK.zero(WIDTH * N_CLASSES, 3) for _ in range(2))
    n_firings = sum((f != 0).sum(0) for f in batches)
    codes = [codes_of(f) for f in batches]
    seen = 0
    for read in codes:
        fired = body.by_latent(read)
        classes = (fired.tokens % N_CLASSES).to(torch.uint8)
        origins = torch.arange(seen, seen + read.n_tokens)
        seen += read.n_tokens
        groups = (origins // 7).int()
        body.count_(counts, fired, classes)
        body.count_tokens_(by_token, fired, (groups % N_CLASSES).to(torch.uint8))
        body.sum_(total, square, fired)
        body.offer_(best, fired, fired.values, origins, groups, classes)
        lots = body.lots_of(fired, origins, 1 << 61)
        body.offer_(drawn, fired, lots, origins, groups, classes)
    together = firings.Together.zero(WIDTH, 4)
    for first, end in ((0, 2), (2, 7), (7, WIDTH)):
        body.accompany_(together, codes, n_firings, first, end)
    products = torch.zeros_like(together.jaccards)
    for read in codes:
        body.multiply_(products, body.by_latent(read), read.n_tokens, together.ids)
    kept = (part for top in (best, drawn) for part in (top.scores, top.origins, top.groups))
    return [counts, by_token, total, square, *kept, *together, products]


def test_the_native_body_is_the_one_that_counts():
    assert counting() is cpu_firings
