"""Buckets cut into batches: every token at most once, order from the seed, exact resume."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panscope.sites import Site
from panscope.store.shuffle import Batch, Bucket, Pending, Tokens, batches, permutation

SITE = Site("resid_post", 0)


def pending(sizes: list[int], filled: list[int], epochs: int = 1) -> Iterator[Pending]:
    """Buckets whose values number the tokens through; `filled` records which were filled."""
    for epoch in range(epochs):
        for number, size in enumerate(sizes):

            def fill(number: int = number, size: int = size, epoch: int = epoch) -> Bucket:
                filled.append(number)
                order = permutation(0, epoch * len(sizes) + number, size)
                ids = order + sum(sizes[:number])
                return Bucket({SITE: ids[:, None].float()}, Tokens(ids, ids, ids))

            yield Pending(epoch, size, fill)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**40), st.integers(0, 2**20), st.integers(0, 500))
def test_a_permutation_covers_each_token_once(seed: int, number: int, size: int):
    assert sorted(permutation(seed, number, size).tolist()) == list(range(size))


def test_permutations_differ_by_seed_and_number_and_repeat():
    drawn = [permutation(s, n, 100).tolist() for s, n in itertools.product(range(3), range(3))]
    assert len({tuple(order) for order in drawn}) == 9
    assert permutation(2, 2, 100).tolist() == drawn[-1]


@settings(deadline=None, max_examples=40)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), batch_tokens=st.integers(1, 12))
def test_a_batch_is_of_one_bucket_and_only_its_remainder_is_dropped(
    sizes: list[int], batch_tokens: int
):
    cut = list(batches(pending(sizes, []), batch_tokens, 0))
    assert {len(batch.tokens.ids) for batch in cut} <= {batch_tokens}
    ids = [i for batch in cut for i in batch.tokens.ids.tolist()]
    assert len(ids) == len(set(ids)) == sum(size - size % batch_tokens for size in sizes)
    ends = list(itertools.accumulate(sizes))
    for batch in cut:
        bucket_of = {sum(i >= end for end in ends) for i in batch.tokens.ids.tolist()}
        assert len(bucket_of) == 1
        assert torch.equal(batch.values[SITE][:, 0], batch.tokens.ids.float())
    assert [batch.number for batch in cut] == list(range(len(cut)))


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    batch_tokens=st.integers(3, 9),
    skip=st.integers(0, 40),
)
def test_skipping_equals_dropping(sizes: list[int], batch_tokens: int, skip: int):
    whole = list(batches(pending(sizes, [], epochs=2), batch_tokens, 0))
    rest = list(batches(pending(sizes, [], epochs=2), batch_tokens, skip))
    assert [summary(batch) for batch in rest] == [summary(batch) for batch in whole[skip:]]


def summary(batch: Batch) -> tuple[object, ...]:
    return batch.epoch, batch.number, batch.tokens.ids.tolist(), batch.values[SITE].tolist()


def test_skipped_buckets_are_not_filled():
    filled: list[int] = []
    next(batches(pending([10, 10, 10], filled), 5, skip_batches=3))
    assert filled == [1]


@pytest.mark.parametrize("sizes", [[], [3], [0, 4]])
def test_buckets_smaller_than_a_batch_give_none(sizes: list[int]):
    filled: list[int] = []
    assert list(batches(pending(sizes, filled), 5, 0)) == []
    assert filled == []
