"""Description: exact against a plain loop, bands that do not overlap, no BOS, one context once."""

import pytest
import torch
from torch import Tensor

from panscope.stages.describe.bands import features, spans
from panscope.stages.describe.directions import Directions, directions
from panscope.stages.describe.tally import Tally

N_ROWS, CONTEXT, LATENTS = 24, 16, 5


@pytest.fixture(scope="module")
def firings() -> Tensor:
    """Activations (rows, context, latents), sparse, the last latent dead, some at the BOS."""
    generator = torch.Generator().manual_seed(0)
    shape = (N_ROWS, CONTEXT, LATENTS)
    f = torch.rand(shape, generator=generator).exp() * 2
    f *= torch.rand(shape, generator=generator) < torch.tensor([0.02, 0.1, 0.3, 0.7, 0.0])
    f[:, 0, :4] = 50.0  # what a Sae makes of a BOS is arbitrary
    return f


@pytest.fixture(scope="module")
def mask() -> Tensor:
    mask = torch.ones(N_ROWS, CONTEXT, dtype=torch.bool)
    mask[:, 0] = False
    return mask


def tally_of(firings: Tensor, mask: Tensor, batch_rows: int) -> Tally:
    tally = Tally.zero(LATENTS, 2.0, n_top=3, context=CONTEXT, seed=7)
    for first in range(0, N_ROWS, batch_rows):
        part = slice(first, first + batch_rows)
        tally.add_(firings[part].flatten(0, 1), mask[part], first)
    return tally


@pytest.fixture(scope="module")
def weights() -> Directions:
    generator = torch.Generator().manual_seed(1)
    w_dec = torch.randn(LATENTS, 4, generator=generator)
    return directions(w_dec, torch.randn(4, 11, generator=generator), 3)


def test_statistics_equal_a_plain_loop(firings: Tensor, mask: Tensor, weights: Directions):
    records = list(features(tally_of(firings, mask, 8), weights))
    for latent, record in enumerate(records):
        fired = [v for v in (firings[..., latent] * mask).flatten().tolist() if v > 0]
        assert record.count == len(fired)
        assert record.density == len(fired) / int(mask.sum())
        assert record.max == max(fired, default=0)
        assert record.mean == pytest.approx(sum(fired) / max(len(fired), 1))
        assert sum(record.histogram) == len(fired)


@pytest.mark.parametrize("batch_rows", [1, 5, 24])
def test_batches_change_nothing(
    firings: Tensor, mask: Tensor, weights: Directions, batch_rows: int
):
    whole = list(features(tally_of(firings, mask, 8), weights))
    assert list(features(tally_of(firings, mask, batch_rows), weights)) == whole


def test_the_strongest_contexts_are_the_strongest(
    firings: Tensor, mask: Tensor, weights: Directions
):
    for latent, record in enumerate(features(tally_of(firings, mask, 8), weights)):
        peaks = (firings[..., latent] * mask).amax(1)
        expected = peaks.topk(3).indices[peaks.topk(3).values > 0].tolist()
        assert [e.context for e in record.examples if e.band == -1] == expected


def test_examples_show_true_values_and_never_the_bos(
    firings: Tensor, mask: Tensor, weights: Directions
):
    n_examples = 0
    for latent, record in enumerate(features(tally_of(firings, mask, 8), weights)):
        contexts = [example.context for example in record.examples]
        assert len(contexts) == len(set(contexts)), "a context stands twice"
        for example in record.examples:
            n_examples += 1
            true = firings[example.context, :, latent] * mask[example.context]
            assert example.positions == tuple(true.nonzero().squeeze(1).tolist())
            assert example.peak in example.positions
            assert 0 not in example.positions
            shown = torch.tensor(example.values)
            torch.testing.assert_close(shown, true[true > 0], rtol=1e-3, atol=0)
    assert n_examples > 20


def test_an_example_lies_in_its_band(firings: Tensor, mask: Tensor, weights: Directions):
    for record in features(tally_of(firings, mask, 8), weights):
        for example in record.examples:
            if example.band >= 0:
                band = record.bands[example.band]
                value = example.values[example.positions.index(example.peak)]
                assert band.low * 0.999 <= value <= band.high * 1.001


def test_bands_do_not_overlap_and_hold_everything(
    firings: Tensor, mask: Tensor, weights: Directions
):
    for record in features(tally_of(firings, mask, 8), weights):
        for stronger, weaker in zip(record.bands, record.bands[1:], strict=False):
            assert stronger.low == weaker.high
        assert sum(band.share for band in record.bands) == pytest.approx(float(record.count > 0))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0, 0, 0], []),
        ([0, 4, 0], [(1, 2, 4)]),
        ([1, 1, 1, 1], [(3, 4, 1), (2, 3, 1), (1, 2, 1), (0, 1, 1)]),
        ([0, 90, 5, 5, 0], [(1, 4, 100)]),
        ([5, 90, 0, 5], [(1, 4, 95), (0, 1, 5)]),
    ],
)
def test_spans(counts: list[int], expected: list[tuple[int, int, int]]):
    assert [tuple(span) for span in spans(counts)] == expected


def test_logits_and_neighbours_equal_the_whole_product():
    generator = torch.Generator().manual_seed(2)
    w_dec = torch.randn(20, 6, generator=generator)
    to_logits = torch.randn(6, 30, generator=generator)
    found = directions(w_dec, to_logits, 4)
    effect = w_dec @ to_logits
    effect -= effect.mean(1, keepdim=True)
    unit = w_dec / w_dec.norm(dim=1, keepdim=True)
    cosine = (unit @ unit.T).fill_diagonal_(-2)
    for latent in range(20):
        fields = found.of(latent)
        assert fields["top_tokens"] == tuple(effect[latent].topk(4).indices.tolist())
        assert fields["bottom_tokens"] == tuple((-effect[latent]).topk(4).indices.tolist())
        assert fields["neighbours"] == tuple(cosine[latent].topk(4).indices.tolist())
        assert latent not in fields["neighbours"]


def test_a_sampled_firing_is_as_likely_as_any_other():
    """Over many seeds each of a band's firings is kept about equally often."""
    f = torch.zeros(1, 40, 1)
    f[0, 1:31] = 3.0
    mask = torch.ones(1, 40, dtype=torch.bool)
    kept = torch.zeros(40)
    for seed in range(600):
        tally = Tally.zero(1, 2.0, n_top=1, context=40, seed=seed)
        tally.add_(f.flatten(0, 1), mask, 0)
        origins = tally.sampled.best.origins
        kept[origins[origins >= 0]] += 1
    assert int(kept.sum()) == 1200
    assert 15 < kept[1:31].min() <= kept[1:31].max() < 70, "40 expected, give or take 6"
