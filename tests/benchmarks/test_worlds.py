"""Worlds: as frequent, related and reproducible as they say; scores that mean what they say."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import worlds
from hypothesis import given, settings
from hypothesis import strategies as some


def sampled(name: str, n_tokens: int = 8000) -> tuple[worlds.World, worlds.Sample]:
    world = worlds.WORLDS[name](42)
    return world, world.sample(n_tokens, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "true_l0"), [("superposed", 2.56), ("independent", 4.3), ("related", 3.7)]
)
def test_a_world_follows_from_its_seed_and_has_its_l0(name: str, true_l0: float):
    world, sample = sampled(name)
    again, repeated = sampled(name)
    assert torch.equal(world.directions, again.directions)
    assert torch.equal(sample.x, repeated.x)
    assert not torch.equal(world.directions, worlds.WORLDS[name](43).directions)
    l0 = (sample.strengths > 0).sum(1).float().mean()
    assert l0 == pytest.approx(true_l0, rel=0.04)


def test_activations_are_features_times_strengths_on_the_bias():
    world, sample = sampled("independent", 50)
    torch.testing.assert_close(sample.x, sample.strengths @ world.directions + world.bias)
    torch.testing.assert_close(world.bias.norm(), torch.tensor(0.5))


def test_children_come_with_their_parent_and_without_their_siblings():
    world = worlds.related(42)
    sure = replace(world, spreads=torch.zeros(256))  # present features are then never relu'd away
    present = sure.sample(4000, torch.Generator().manual_seed(0)).strengths > 0
    for parents, children in world.forest:
        together = present[:, children]
        assert together.any()
        assert not (together & ~present[:, parents, None]).any()
        assert together.sum(2).max() == 1


def test_features_of_a_shared_factor_come_together():
    loadings = torch.zeros(256, 1)
    loadings[:2] = 0.9
    bound = replace(worlds.independent(42), loadings=loadings)
    present = bound.sample(8000, torch.Generator().manual_seed(0)).strengths > 0
    rates = present.float().mean(0)
    assert (present[:, 0] & present[:, 1]).float().mean() > 2 * rates[0] * rates[1]
    assert (present[:, 0] & present[:, 2]).float().mean() < 1.2 * rates[0] * rates[2]


def test_directions_are_pushed_apart():
    drawn = worlds.unit(torch.randn(128, 64, generator=torch.Generator().manual_seed(0)))
    worst = [nearest(w) for w in (drawn, worlds.spread_apart(drawn.clone()))]
    assert worst[1] < 0.8 * worst[0]


def nearest(directions: torch.Tensor) -> float:
    cosines = (directions @ directions.T).abs().fill_diagonal_(0)
    return float(cosines.amax(1).mean())


@settings(max_examples=60)
@given(
    some.integers(1, 5).flatmap(
        lambda n: some.lists(
            some.lists(some.floats(-9, 9), min_size=6, max_size=6), min_size=n, max_size=n
        )
    )
)
def test_the_assignment_is_the_best_of_all(costs: list[list[float]]):
    cost = np.array(costs)
    rows = range(len(cost))
    chosen = worlds.assignment(cost)
    assert len(set(chosen)) == len(cost)
    best = min(cost[rows, list(p)].sum() for p in itertools.permutations(range(6), len(cost)))
    assert cost[rows, chosen].sum() == pytest.approx(best, abs=1e-9)


def test_the_true_dictionary_scores_one_in_any_order():
    world, sample = sampled("superposed", 2000)
    order = torch.randperm(128, generator=torch.Generator().manual_seed(1))
    w, f = world.directions[order], sample.strengths[:, order]
    scores = worlds.score(sample, f, sample.x, w, world.directions)
    assert (scores.mcc, scores.f1, scores.dead) == (pytest.approx(1), pytest.approx(1), 0)
    assert scores.fvu == pytest.approx(0, abs=1e-6)
    assert scores.l0 == scores.true_l0


def test_a_random_dictionary_scores_the_floor():
    world, sample = sampled("independent", 500)
    w = torch.randn(256, 64, generator=torch.Generator().manual_seed(1))
    scores = worlds.score(sample, sample.strengths, sample.x, w, world.directions)
    assert scores.mcc == pytest.approx(0.354, abs=0.015)  # of random unit rows of this shape
    assert scores.f1 < 0.1


def test_a_dead_latent_counts_as_a_miss():
    world, sample = sampled("superposed", 2000)
    f = sample.strengths.clone()
    f[:, :32] = 0
    scores = worlds.score(sample, f, f @ world.directions, world.directions, world.directions)
    assert scores.dead == 32
    assert scores.f1 == pytest.approx(0.75)
    assert scores.mcc == pytest.approx(1)
    assert scores.fvu == pytest.approx(0.25, abs=0.05)
