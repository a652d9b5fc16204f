"""Accumulators are monoids: any split of the data gives what the whole gives."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from panscope.stats import LogHistogram, Moments, Ratio, TopK


def vectors(seed: int, n: int = 40, d: int = 5) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + 3


@given(cut=st.integers(0, 40), seed=st.integers(0, 5))
def test_moments_merge(cut: int, seed: int):
    x = vectors(seed)
    left, right, whole = (Moments.zero(5) for _ in range(3))
    left.add_(x[:cut])
    right.add_(x[cut:])
    whole.add_(x)
    merged = left.merge(right)
    torch.testing.assert_close(merged.mean, x.double().mean(0))
    expected = (x.double() - x.double().mean(0)).square().sum(1).mean()
    assert merged.variance == pytest.approx(float(expected), rel=1e-9)
    assert whole.variance == pytest.approx(merged.variance, rel=1e-9)


def test_the_standard_error_is_clustered_by_sequence():
    """Repeating each sequence's tokens changes no standard error; the bootstrap agrees."""
    generator = torch.Generator().manual_seed(0)
    sums = torch.rand(200, generator=generator) * 10
    counts = torch.randint(5, 15, (200,), generator=generator).float()
    ratio, tenfold = Ratio.zero(), Ratio.zero()
    ratio.add_(sums, counts)
    tenfold.add_(sums * 10, counts * 10)
    assert tenfold.standard_error == pytest.approx(ratio.standard_error)
    draws = torch.randint(0, 200, (2000, 200), generator=generator)
    bootstrap = (sums[draws].sum(1) / counts[draws].sum(1)).std()
    assert ratio.standard_error == pytest.approx(float(bootstrap), rel=0.1)


def test_a_ratio_of_nothing_is_not_a_number():
    assert Ratio.zero().value != Ratio.zero().value
    assert Ratio.zero().standard_error != Ratio.zero().standard_error


@given(cut=st.integers(0, 60), seed=st.integers(0, 5))
def test_histograms_merge_and_count_every_value_once(cut: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(60, generator=generator) * 8 + 1e-6
    latents = torch.randint(0, 3, (60,), generator=generator)

    def of(part: slice) -> LogHistogram:
        histogram = LogHistogram.zero(3, 2.0, range(-4, 2), 2)
        histogram.add_(latents[part], histogram.bins(values[part]))
        return histogram

    merged, whole = of(slice(0, cut)).merge(of(slice(cut, 60))), of(slice(0, 60))
    assert torch.equal(merged.counts, whole.counts)
    assert int(whole.counts.sum()) == 60


@given(st.floats(2**-4, 2**5, exclude_max=True))
def test_a_value_lies_within_its_bin(value: float):
    histogram = LogHistogram.zero(1, 1.0, range(-4, 5), 3)
    (i,) = histogram.bins(torch.tensor([value], dtype=torch.float64)).tolist()
    assert histogram.edges[i] <= value < histogram.edges[i + 1]


def test_histograms_with_other_edges_do_not_merge():
    one, two = (LogHistogram.zero(1, scale, range(-1, 1), 1) for scale in (1.0, 2.0))
    with pytest.raises(ValueError, match="do not merge"):
        one.merge(two)


@given(
    entries=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=40),
    group_size=st.integers(1, 9),
    cut=st.integers(0, 40),
)
def test_top_k_equals_a_sort_however_the_entries_arrive(
    entries: list[tuple[int, int]], group_size: int, cut: int
):
    """The best three of each key, one a group, are those of all entries; groups may be cut."""

    def of(part: list[tuple[int, int]], first: int) -> TopK:
        best = TopK.zero(4, 3)
        keys = torch.tensor([key for key, _ in part], dtype=torch.int64)
        scores = torch.tensor([float(score) for _, score in part])
        origins = torch.arange(first, first + len(part))
        best.add_(keys, scores, origins, origins // group_size)
        return best

    cut = min(cut, len(entries))
    merged = of(entries[:cut], 0).merge(of(entries[cut:], cut))
    for key in range(4):
        ranked = sorted((-score, i) for i, (k, score) in enumerate(entries) if k == key)
        one_a_group = list({i // group_size: i for _, i in reversed(ranked)}.values())
        expected = [i for _, i in ranked if i in one_a_group][:3]
        padded = expected + [-1] * (3 - len(expected))
        assert merged.origins[key].tolist() == padded
        assert merged.groups[key].tolist() == [i // group_size if i >= 0 else -1 for i in padded]
        assert merged.scores[key].tolist() == [entries[i][1] if i >= 0 else 0 for i in padded]
