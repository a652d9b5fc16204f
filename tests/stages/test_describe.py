"""Description: exact against a plain loop, bands that do not overlap, no BOS, one context once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import pstdev

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from panscope import files
from panscope.atlas.columns import write_columns
from panscope.atlas.features import Atlas
from panscope.atlas.records import Feature
from panscope.events import silent
from panscope.kernels.firings import Codes
from panscope.model import tap, text
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.sae.sae import Sae
from panscope.sae.suite import KIND, Suite, write_sae
from panscope.sites import Site
from panscope.stages import describe
from panscope.stages.describe import Work, features, tokens
from panscope.stages.describe.bands import spans
from panscope.stages.describe.companions import companions
from panscope.stages.describe.directions import effects, elsewhere, near
from panscope.stages.describe.fired import Fired
from panscope.stages.describe.map import place
from panscope.stages.describe.tally import Tally, scale_of
from panscope.stages.describe.tokens import Text

N_ROWS, CONTEXT, LATENTS = 24, 16, 5
KINDS = ("code", "prose")


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


@dataclass
class Read:
    """A text that was read, and what fired of one Sae."""

    log: list[Codes]
    text: Text
    tally: Tally


def read(
    f: Tensor,
    mask: Tensor,
    piece_rows: int = 8,
    documents: Tensor | None = None,
    n_top: int = 3,
    seed: int = 7,
) -> Read:
    """Count what fired, activations (rows, context, latents), in pieces of so many rows."""
    if documents is None:  # one a row
        documents = torch.arange(len(f))[:, None].expand(f.shape[:2])
    kinds = [KINDS[row % 2] for row in range(len(f))]
    log, pieces = [], []
    for first in range(0, len(f), piece_rows):
        part = slice(first, first + piece_rows)
        ids = torch.zeros_like(documents[part])
        log.append(codes_of(f[part][mask[part]]))
        pieces.append((first, Rows(ids, documents[part], mask[part], tuple(kinds[part]))))
    text = Text.of(pieces)
    tally = Tally.zero(f.shape[2], 2.0, n_top, len(text.kinds), seed)
    for firings, placed in zip(Fired.of(log).by_latent, text.tokens, strict=True):
        tally.add_(firings, placed)
    return Read(log, text, tally)


def codes_of(f: Tensor) -> Codes:
    """What fired of activations (tokens, latents)."""
    counts = (f != 0).sum(1)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Codes(offsets, f.nonzero()[:, 1].int(), f[f != 0], f.shape[1])


Describe = Callable[[Read], list[Feature]]


@pytest.fixture
def described(tmp_path: Path) -> Describe:
    """Features as an atlas gives them back."""

    def described(read: Read) -> list[Feature]:
        width = len(read.tally.total)
        saes = {name: random_sae(width, seed) for seed, name in enumerate(("a/b", "a/c", "a/d"))}
        to_logits = torch.randn(4, 11, generator=torch.Generator().manual_seed(1))
        logits = effects(saes["a/b"].w_dec, to_logits, 3)
        places = place(saes["a/b"].w_dec, "pca", seed=0)
        told = features.columns(
            "a/b", saes, read.tally, Fired.of(read.log), read.text, logits, places, 3, 2
        )
        write_columns(tmp_path, "a/b", told)
        record = {"sae": "a/b", "site": "a", "width": width, "n_tokens": read.tally.n_tokens}
        facts = {"saes": [record | {"n_alive": 0, "bin_edges": []}]}
        files.seal(tmp_path, "atlas", {}, {}, facts)
        atlas = Atlas(tmp_path)
        return [atlas.feature("a/b", latent) for latent in range(width)]

    return described


def random_sae(
    width: int, seed: int, writes: tuple[Site, ...] = (Site("resid_post", 0),), d: int = 4
) -> Sae:
    generator = torch.Generator().manual_seed(seed)
    w_enc, w_dec = (torch.randn(width, d, generator=generator) for _ in range(2))
    zeros = torch.zeros(width)
    return Sae(w_enc.T, zeros, w_dec, torch.zeros(d), zeros, (Site("resid_post", 0),), writes)


def test_statistics_equal_a_plain_loop(firings: Tensor, mask: Tensor, described: Describe):
    records = described(read(firings, mask))
    for latent, record in enumerate(records):
        fired = [v for v in (firings[..., latent] * mask).flatten().tolist() if v > 0]
        assert record.count == len(fired)
        assert record.density == len(fired) / int(mask.sum())
        assert record.max == max(fired, default=0)
        assert record.mean == pytest.approx(sum(fired) / max(len(fired), 1), rel=1e-6)
        assert record.std == pytest.approx(pstdev(fired) if fired else 0, rel=1e-4)
        assert sum(record.histogram) == len(fired)


@pytest.mark.parametrize("piece_rows", [1, 5, 24])
def test_how_the_text_is_cut_changes_nothing(
    firings: Tensor, mask: Tensor, described: Describe, piece_rows: int
):
    whole = described(read(firings, mask))
    assert described(read(firings, mask, piece_rows)) == whole


def test_the_strongest_contexts_are_the_strongest(
    firings: Tensor, mask: Tensor, described: Describe
):
    for latent, record in enumerate(described(read(firings, mask))):
        peaks = (firings[..., latent] * mask).amax(1)
        expected = peaks.topk(3).indices[peaks.topk(3).values > 0].tolist()
        assert [e.context for e in record.examples if e.band == -1] == expected


def test_examples_show_true_values_and_never_the_bos(
    firings: Tensor, mask: Tensor, described: Describe
):
    n_examples = 0
    for latent, record in enumerate(described(read(firings, mask))):
        contexts = [example.context for example in record.examples]
        assert len(contexts) == len(set(contexts)), "a context stands twice"
        for example in record.examples:
            n_examples += 1
            true = firings[example.context, :, latent] * mask[example.context]
            assert example.positions == tuple(true.nonzero().squeeze(1).tolist())
            assert example.peak in example.positions
            assert 0 not in example.positions
            assert torch.equal(torch.tensor(example.values), true[true > 0])
    assert n_examples > 20


def test_an_example_lies_in_its_band(firings: Tensor, mask: Tensor, described: Describe):
    for record in described(read(firings, mask)):
        for example in record.examples:
            if example.band >= 0:
                band = record.bands[example.band]
                value = example.values[example.positions.index(example.peak)]
                assert band.low * (1 - 1e-6) <= value < band.high * (1 + 1e-6)


def test_bands_do_not_overlap_and_hold_everything(
    firings: Tensor, mask: Tensor, described: Describe
):
    for record in described(read(firings, mask)):
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


def test_firings_are_counted_by_kind(firings: Tensor, mask: Tensor, described: Describe):
    told = read(firings, mask)
    assert told.text.kinds == [{"kind": k, "n_tokens": 12 * (CONTEXT - 1)} for k in KINDS]
    fired = (firings * mask[..., None]) > 0
    for latent, record in enumerate(described(told)):
        expected = tuple(int(fired[kind::2, :, latent].sum()) for kind in (0, 1))
        assert record.kind_counts == expected


def test_kinds_beyond_the_most_are_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokens, "MOST_KINDS", 3)
    ids = torch.zeros(6, 4, dtype=torch.int64)
    rows = Rows(ids, ids, torch.ones(6, 4, dtype=torch.bool), ("d", "b", "c", "a", "b", "c"))
    text = Text.of([(0, rows)])
    assert [(k["kind"], k["n_tokens"]) for k in text.kinds] == [("b", 8), ("c", 8), ("others", 8)]
    assert text.tokens[0].kinds[::4].tolist() == [2, 0, 1, 2, 0, 1]


@given(
    seed=st.integers(0, 1000),
    density=st.sampled_from([0.02, 0.3, 1.0]),
    width=st.integers(1, 12),
    piece_rows=st.integers(1, 6),
    most_firings=st.sampled_from([1, 40, 1 << 25]),
)
def test_companions_are_those_of_the_whole_matrix(
    seed: int, density: float, width: int, piece_rows: int, most_firings: int
):
    """Exact over all tokens and pairs, however the text and the Sae are cut into blocks."""
    generator = torch.Generator().manual_seed(seed)
    f = torch.rand(6, 5, width, generator=generator).double().exp().float()
    f *= torch.rand(f.shape, generator=generator) < density
    told = read(f, torch.ones(6, 5, dtype=torch.bool), piece_rows)
    found = companions(Fired.of(told.log, most_firings), told.tally, 3, most_firings)

    dense = f.view(30, width).double()
    fired = (dense > 0).double()
    both = fired.T @ fired
    jaccards = both / (fired.sum(0) + fired.sum(0)[:, None] - both).clamp_min(1)
    jaccards.fill_diagonal_(0)
    correlations = torch.corrcoef(dense.T).view(width, width).nan_to_num()
    ends = found.counts.cumsum(0).tolist()
    for latent, (end, n) in enumerate(zip(ends, found.counts.tolist(), strict=True)):
        best = jaccards[latent].sort(descending=True).values[:3]
        assert found.jaccards[end - n : end].tolist() == best[best > 0].tolist()
        for at in range(end - n, end):
            other = found.ids[at]
            assert found.jaccards[at] == jaccards[latent, other]
            expected = float(correlations[latent, other])
            assert found.correlations[at] == pytest.approx(expected, abs=1e-6)


def test_the_strongest_are_of_different_documents(described: Describe):
    """Of a long document the best firing alone, also where it goes on in the next piece."""
    f = torch.zeros(8, CONTEXT, 1)
    f[:, 3, 0] = torch.tensor([5.0, 6.0, 7.0, 8.0, 3.0, 2.0, 1.0, 9.0])
    documents = torch.tensor([0, 1, 1, 1, 1, 2, 3, 3])[:, None].expand(8, CONTEXT)
    whole = torch.ones(8, CONTEXT, dtype=torch.bool)
    for piece_rows in (1, 3, 8):
        (feature,) = described(read(f, whole, piece_rows, documents))
        assert [e.context for e in feature.examples if e.band == -1] == [7, 3, 0]


def test_a_text_of_one_document_has_examples_too(
    firings: Tensor, mask: Tensor, described: Describe
):
    """One a row then, the strongest first."""
    one = torch.zeros(N_ROWS, CONTEXT, dtype=torch.int64)
    for latent, record in enumerate(described(read(firings, mask, documents=one))):
        peaks = (firings[..., latent] * mask).amax(1).topk(3)
        expected = peaks.indices[peaks.values > 0].tolist()
        assert [e.context for e in record.examples if e.band == -1] == expected


def test_no_document_stands_twice_while_there_are_others(
    firings: Tensor, mask: Tensor, described: Describe
):
    documents = (torch.arange(N_ROWS) // 2)[:, None].expand(N_ROWS, CONTEXT)
    for record in described(read(firings, mask, documents=documents)):
        strongest = [e.context // 2 for e in record.examples if e.band == -1]
        assert len(strongest) == len(set(strongest))


def test_logits_and_neighbours_equal_the_whole_product():
    generator = torch.Generator().manual_seed(2)
    w_dec = torch.randn(20, 6, generator=generator)
    to_logits = torch.randn(6, 30, generator=generator)
    found, closest = effects(w_dec, to_logits, 4), near(w_dec, 4)
    effect = w_dec @ to_logits
    effect -= effect.mean(1, keepdim=True)
    unit = w_dec / w_dec.norm(dim=1, keepdim=True)
    cosine = (unit @ unit.T).fill_diagonal_(-2)
    edges = np.array(found.edges)
    assert edges[-1] == pytest.approx(8 * float(effect.square().mean().sqrt()), rel=1e-5)
    for latent in range(20):
        assert found.top.ids[latent].tolist() == effect[latent].topk(4).indices.tolist()
        assert found.bottom.ids[latent].tolist() == (-effect[latent]).topk(4).indices.tolist()
        counts, _ = np.histogram(effect[latent].double().numpy(), edges)
        assert found.histogram[latent].tolist() == counts.tolist()
        assert closest.ids[latent].tolist() == cosine[latent].topk(4).indices.tolist()
        assert latent not in closest.ids[latent]


def test_logits_beyond_the_histogram_are_in_its_last_bins():
    w_dec = torch.zeros(200, 2)
    w_dec[0] = torch.tensor([5.0, 0.0])
    found = effects(w_dec, torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]), 1)
    assert found.histogram[0, [0, 20, 39]].tolist() == [1, 1, 1]
    assert found.histogram.sum() == 200 * 3


def test_a_sae_of_zeros_has_logit_effects_of_zero():
    found = effects(torch.zeros(3, 2), torch.randn(2, 5), 1)
    assert found.histogram[:, 20].tolist() == [5, 5, 5]


def test_logits_are_those_of_the_first_site_that_is_written():
    generator = torch.Generator().manual_seed(2)
    w_dec = torch.randn(20, 12, generator=generator)
    to_logits = torch.randn(6, 30, generator=generator)
    found, of_first = effects(w_dec, to_logits, 4), effects(w_dec[:, :6], to_logits, 4)
    assert (found.top.ids == of_first.top.ids).all()
    assert (near(w_dec, 4).ids != near(w_dec[:, :6], 4).ids).any(), "all that is written counts"


def test_the_nearest_elsewhere_are_those_of_the_same_space():
    """The residual stream is one space for all that add to it; heads' outputs have their own."""
    d, resid, heads = 6, (Site("resid_post", 1),), (Site("attn_z", 1),)
    saes = {
        "r": random_sae(600, 0, resid, d),
        "m": random_sae(20, 1, (Site("mlp_out", 3),), d),
        "z": random_sae(20, 2, heads, d),
        "a": random_sae(3, 3, (Site("attn_out", 0),), d),
        "both": random_sae(20, 4, (Site("resid_post", 1), Site("resid_post", 2)), d),
    }
    found = elsewhere("r", saes, 5)
    assert found.names == ["m", "a"]
    others = torch.cat([saes[name].w_dec for name in ("m", "a")])
    of = [(0, i) for i in range(20)] + [(1, i) for i in range(3)]
    unit = [w / w.norm(dim=1, keepdim=True) for w in (saes["r"].w_dec, others)]
    best = (unit[0] @ unit[1].T).topk(5, dim=1)
    for latent in (0, 511, 512, 599):
        expected = [of[i] for i in best.indices[latent]]
        pairs = zip(found.saes[latent].tolist(), found.near.ids[latent].tolist(), strict=True)
        assert list(pairs) == expected
    assert elsewhere("z", saes, 5).near.ids.shape == (20, 0)


def test_equal_peaks_of_a_row_are_one_example_at_the_first(described: Describe):
    f = torch.zeros(2, CONTEXT, LATENTS)
    f[0, [3, 7, 9], 1] = torch.tensor([2.0, 5.0, 5.0])
    f[1, [4, 5], 1] = 5.0
    told = read(f, torch.ones(2, CONTEXT, dtype=torch.bool))
    strongest = [e for e in described(told)[1].examples if e.band == -1]
    assert [(e.context, e.peak, e.positions) for e in strongest] == [
        (0, 7, (3, 7, 9)),
        (1, 4, (4, 5)),
    ]


def test_a_sae_that_never_fires_is_described(described: Describe):
    f = torch.zeros(1, CONTEXT, LATENTS)
    for record in described(read(f, torch.ones(1, CONTEXT, dtype=torch.bool))):
        assert (record.count, record.max, record.bands, record.examples) == (0, 0, (), ())
        assert (record.std, record.companions, record.kind_counts) == (0, (), (0,))


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

    def rows_from(row: int) -> Iterator[Rows]:
        return text.rows(config, tiny_model, "train", 4, row)

    batches = list(islice(rows_from(0), 3))
    settings = describe.Config(tokens=3 * 4 * 24, batch_rows=4, n_top=2)
    out = tmp_path / "atlas"
    describe.run(Work(settings, tiny_model, suite, rows_from, {}, {}, out, silent))
    assert not (out / ".firings").exists()

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


def test_the_scale_of_a_suite_that_says_none_is_the_median_of_maxima():
    f = torch.tensor([[1.0, 0, 0, 5], [3, 2, 0, 0], [0, 7, 0, 0]])
    assert scale_of([codes_of(f[:2]), codes_of(f[2:])]) == 5
    assert scale_of([codes_of(torch.zeros(2, 4))]) == 1


def test_a_sampled_firing_is_as_likely_as_any_other():
    """Over many seeds each of a band's firings is kept about equally often."""
    f = torch.zeros(40, 2, 1)
    f[1:31, 1] = 3.0
    mask = torch.ones(40, 2, dtype=torch.bool)
    kept = torch.zeros(80)
    for seed in range(600):
        origins = read(f, mask, 40, seed=seed).tally.sampled.origins
        kept[origins[origins >= 0]] += 1
    assert int(kept.sum()) == 1200
    of_firings = kept.view(40, 2)[1:31, 1]
    assert 15 < of_firings.min() <= of_firings.max() < 70, "40 expected, give or take 6"
