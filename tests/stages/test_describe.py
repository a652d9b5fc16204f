"""Description: exact against a plain loop, bands that do not overlap, no BOS, one context once."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from panscope import files
from panscope.atlas.columns import write_columns
from panscope.atlas.features import Atlas
from panscope.atlas.records import Feature
from panscope.events import silent
from panscope.kernels.pairs import Pairs
from panscope.model import tap, text
from panscope.model.load import Model
from panscope.sae.sae import Sae
from panscope.sae.suite import KIND, Suite, write_sae
from panscope.sites import Site
from panscope.stages import describe
from panscope.stages.describe.bands import columns, spans
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


def pairs_of(firings: Tensor, mask: Tensor) -> Pairs:
    """The pairs of the unmasked tokens of whole rows."""
    f = firings[mask]
    token, latent = (index.int() for index in f.nonzero(as_tuple=True))
    counts = (f != 0).sum(1)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Pairs(token, latent, f[f != 0], offsets, f.shape[1])


def tally_of(firings: Tensor, mask: Tensor, batch_rows: int) -> Tally:
    tally = Tally.zero(LATENTS, 2.0, n_top=3, context=CONTEXT, seed=7)
    for first in range(0, N_ROWS, batch_rows):
        part = slice(first, first + batch_rows)
        tally.add_(pairs_of(firings[part], mask[part]), mask[part], first)
    return tally


Describe = Callable[[Tally], list[Feature]]


@pytest.fixture
def described(tmp_path: Path, weights: Directions) -> Describe:
    """Features as an atlas gives them back."""

    def described(tally: Tally) -> list[Feature]:
        write_columns(tmp_path, "a/b", columns(tally, weights))
        record = {"sae": "a/b", "site": "a", "width": LATENTS, "n_tokens": tally.n_tokens}
        facts = {"saes": [record | {"n_alive": 0, "bin_edges": []}]}
        files.seal(tmp_path, "atlas", {}, {}, facts)
        atlas = Atlas(tmp_path)
        return [atlas.feature("a/b", latent) for latent in range(LATENTS)]

    return described


@pytest.fixture(scope="module")
def weights() -> Directions:
    generator = torch.Generator().manual_seed(1)
    w_dec = torch.randn(LATENTS, 4, generator=generator)
    return directions(w_dec, torch.randn(4, 11, generator=generator), 3)


def test_statistics_equal_a_plain_loop(firings: Tensor, mask: Tensor, described: Describe):
    records = described(tally_of(firings, mask, 8))
    for latent, record in enumerate(records):
        fired = [v for v in (firings[..., latent] * mask).flatten().tolist() if v > 0]
        assert record.count == len(fired)
        assert record.density == len(fired) / int(mask.sum())
        assert record.max == max(fired, default=0)
        assert record.mean == pytest.approx(sum(fired) / max(len(fired), 1), rel=1e-6)
        assert sum(record.histogram) == len(fired)


@pytest.mark.parametrize("batch_rows", [1, 5, 24])
def test_batches_change_nothing(
    firings: Tensor, mask: Tensor, described: Describe, batch_rows: int
):
    whole = described(tally_of(firings, mask, 8))
    assert described(tally_of(firings, mask, batch_rows)) == whole


def test_the_strongest_contexts_are_the_strongest(
    firings: Tensor, mask: Tensor, described: Describe
):
    for latent, record in enumerate(described(tally_of(firings, mask, 8))):
        peaks = (firings[..., latent] * mask).amax(1)
        expected = peaks.topk(3).indices[peaks.topk(3).values > 0].tolist()
        assert [e.context for e in record.examples if e.band == -1] == expected


def test_examples_show_true_values_and_never_the_bos(
    firings: Tensor, mask: Tensor, described: Describe
):
    n_examples = 0
    for latent, record in enumerate(described(tally_of(firings, mask, 8))):
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


def test_an_example_lies_in_its_band(firings: Tensor, mask: Tensor, described: Describe):
    for record in described(tally_of(firings, mask, 8)):
        for example in record.examples:
            if example.band >= 0:
                band = record.bands[example.band]
                value = example.values[example.positions.index(example.peak)]
                assert band.low * 0.999 <= value <= band.high * 1.001


def test_bands_do_not_overlap_and_hold_everything(
    firings: Tensor, mask: Tensor, described: Describe
):
    for record in described(tally_of(firings, mask, 8)):
        for stronger, weaker in zip(record.bands, record.bands[1:], strict=False):
            assert stronger.low == weaker.high
        assert sum(band.share for band in record.bands) == pytest.approx(
            float(record.count > 0), rel=1e-6
        )


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
        assert found.top.ids[latent].tolist() == effect[latent].topk(4).indices.tolist()
        assert found.bottom.ids[latent].tolist() == (-effect[latent]).topk(4).indices.tolist()
        assert found.near.ids[latent].tolist() == cosine[latent].topk(4).indices.tolist()
        assert latent not in found.near.ids[latent]


def test_logits_are_those_of_the_first_site_that_is_written():
    generator = torch.Generator().manual_seed(2)
    w_dec = torch.randn(20, 12, generator=generator)
    to_logits = torch.randn(6, 30, generator=generator)
    found, of_first = directions(w_dec, to_logits, 4), directions(w_dec[:, :6], to_logits, 4)
    assert (found.top.ids == of_first.top.ids).all()
    assert (found.near.ids != of_first.near.ids).any(), "all that is written is compared"


def test_equal_peaks_of_a_row_are_one_example_at_the_first(described: Describe):
    f = torch.zeros(2, CONTEXT, LATENTS)
    f[0, [3, 7, 9], 1] = torch.tensor([2.0, 5.0, 5.0])
    f[1, [4, 5], 1] = 5.0
    mask = torch.ones(2, CONTEXT, dtype=torch.bool)
    tally = Tally.zero(LATENTS, 2.0, n_top=3, context=CONTEXT, seed=7)
    tally.add_(pairs_of(f, mask), mask, 0)
    strongest = [e for e in described(tally)[1].examples if e.band == -1]
    assert [(e.context, e.peak, e.positions) for e in strongest] == [
        (0, 7, (3, 7, 9)),
        (1, 4, (4, 5)),
    ]


def test_two_firings_of_one_row_are_both_kept_with_their_whole_row():
    """A sampled firing brings the row's other firings of its latent, and only those."""
    f = torch.zeros(1, 40, 2)
    f[0, [3, 30], 1] = torch.tensor([2.5, 2.6])  # one sample bin
    f[0, 4, 0] = 2.5
    mask = torch.ones(1, 40, dtype=torch.bool)
    tally = Tally.zero(2, 2.0, n_top=1, context=40, seed=0)
    tally.add_(pairs_of(f, mask), mask, 0)
    keys, ranks = (tally.sampled.best.origins >= 0).nonzero(as_tuple=True)
    windows = tally.sampled.windows[keys, ranks]
    latents = keys // (len(tally.sampled.windows) // 2)
    assert latents.tolist() == [0, 1, 1]
    for latent, window in zip(latents, windows, strict=True):
        assert torch.equal(window, f[0, :, latent].half())


def test_a_sae_that_never_fires_is_described(described: Describe):
    f = torch.zeros(1, CONTEXT, LATENTS)
    mask = torch.ones(1, CONTEXT, dtype=torch.bool)
    tally = Tally.zero(LATENTS, 2.0, n_top=3, context=CONTEXT, seed=7)
    tally.add_(pairs_of(f, mask), mask, 0)
    for record in described(tally):
        assert (record.count, record.max, record.bands, record.examples) == (0, 0, (), ())


def test_a_sae_is_described_by_what_it_reads_and_writes(
    tmp_path: Path, tiny_model: Model, tiny_text: Path
):
    """A crosscoder that reads two layers and writes a third: firings against a plain loop."""
    reads, writes = (Site("resid_post", 0), Site("mlp_in_unit", 2)), (Site("mlp_out", 2),)
    generator = torch.Generator().manual_seed(6)
    d = tiny_model.d_model
    sae = Sae(
        w_enc=torch.randn(2 * d, 30, generator=generator) / d,
        b_enc=torch.zeros(30),
        w_dec=torch.randn(30, d, generator=generator),
        b_dec=torch.zeros(d),
        threshold=torch.full((30,), 0.3),
        reads=reads,
        writes=writes,
    )
    write_sae(tmp_path / "suite", "a/b", sae)
    fact = {"sae": "a/b", "site": "mlp_out.2", "width": 30, "scale": 1.0}
    files.seal(tmp_path / "suite", KIND, {}, {}, {"saes": [fact]})
    suite = Suite.open(tmp_path / "suite")
    config = text.Config(path=str(tiny_text), context=24, held_out=0.0)
    batches = list(islice(text.rows(config, tiny_model, "train", 4), 3))
    settings = describe.Config(tokens=3 * 4 * 24, batch_rows=4, n_top=2)
    out = tmp_path / "atlas"
    describe.run(settings, tiny_model, suite, batches, {}, {}, out, silent)

    atlas, rows = Atlas(out), [row for batch in batches for row in batch.ids]
    f = torch.zeros(len(rows), 24, 30)
    for number, row in enumerate(rows):
        values = tap.run(tiny_model, row[None], reads).values
        x = torch.cat([values[site][0] for site in reads], dim=1)
        f[number] = sae.encode(x)
    f *= torch.cat([batch.mask for batch in batches])[..., None]
    effect = sae.w_dec @ tiny_model.logit_directions()
    effect -= effect.mean(1, keepdim=True)
    for latent in range(30):
        feature = atlas.feature("a/b", latent)
        assert feature.count == int((f[..., latent] > 0).sum())
        assert feature.max == pytest.approx(float(f[..., latent].max()), rel=1e-5)
        assert feature.top_tokens == tuple(effect[latent].topk(10).indices.tolist())
        for example in feature.examples:
            assert atlas.contexts[example.context].tokens == tuple(rows[example.context].tolist())
            fired = f[example.context, :, latent].nonzero().squeeze(1)
            assert example.positions == tuple(fired.tolist())


def test_a_sampled_firing_is_as_likely_as_any_other():
    """Over many seeds each of a band's firings is kept about equally often."""
    f = torch.zeros(1, 40, 1)
    f[0, 1:31] = 3.0
    mask = torch.ones(1, 40, dtype=torch.bool)
    kept = torch.zeros(40)
    for seed in range(600):
        tally = Tally.zero(1, 2.0, n_top=1, context=40, seed=seed)
        tally.add_(pairs_of(f, mask), mask, 0)
        origins = tally.sampled.best.origins
        kept[origins[origins >= 0]] += 1
    assert int(kept.sum()) == 1200
    assert 15 < kept[1:31].min() <= kept[1:31].max() < 70, "40 expected, give or take 6"
