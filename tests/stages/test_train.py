"""Training: the recipe's numbers, banks equal to Saes alone, resume to the bit, targets met."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from panscope import files
from panscope.errors import ConfigError, Corrupt
from panscope.events import Event, Finished, silent
from panscope.kernels import dense
from panscope.kernels.dense import Parameters
from panscope.sae.sae import WEIGHTS
from panscope.sae.suite import Suite
from panscope.sites import Site
from panscope.stages import train
from panscope.stages.train import bank, loop, optimiser
from panscope.stages.train.objective import Config, Schedule, Threshold

SITES = (Site("resid_post", 0), Site("mlp_out", 1))
D_IN, N_TRUE = 12, 30


def world() -> Tensor:
    """Directions that a sparse mixture is made of."""
    directions = torch.randn(N_TRUE, D_IN, generator=torch.Generator().manual_seed(9))
    return directions / directions.norm(dim=1, keepdim=True)


def batches_from(first: int, size: int = 256) -> Iterator[dict[Site, Tensor]]:
    for k in itertools.count(first):
        generator = torch.Generator().manual_seed(k)
        present = torch.rand(size, N_TRUE, generator=generator) < 0.08
        strengths = 5 * torch.rand(size, N_TRUE, generator=generator) * present
        x = strengths @ world() + 0.5
        yield {SITES[0]: x, SITES[1]: 3 * x.flip(1)}


def config(**changes: object) -> Config:
    values = {
        "widths": (48,),
        "target_l0": (3.0,),
        "tokens": 400 * 256,
        "batch_tokens": 256,
        "checkpoint_steps": 100,
        "schedule": Schedule(
            learning_rate=4e-3, warmup_steps=20, decay_share=0.3, sparsity_warmup_steps=50
        ),
        "threshold": Threshold(initial=0.01, bandwidth=0.02, rate=4.0),
    }
    return Config(**(values | changes))  # type: ignore[arg-type]


def weights_of(suite: Suite) -> dict[str, Tensor]:
    return {f"{n}:{w}": getattr(suite.load(n), w) for n in suite.names for w in WEIGHTS}


def trained(out: Path, settings: Config, sites: tuple[Site, ...] = SITES) -> Suite:
    train.run(settings, sites, batches_from, {"stream": "test"}, out, silent)
    return Suite.open(out)


def assert_equal_weights(one: Suite, other: Suite) -> None:
    a, b = weights_of(one), weights_of(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_defaults_are_the_papers_numbers():
    defaults = Config(sparsity=(6e-4,))
    assert (defaults.schedule.learning_rate, defaults.schedule.warmup_steps) == (7e-5, 1000)
    assert defaults.schedule.sparsity_warmup_steps == 10_000
    assert (defaults.threshold.initial, defaults.threshold.bandwidth) == (0.001, 0.001)
    assert (defaults.batch_tokens, defaults.tokens) == (4096, 4_000_000_000)
    assert (optimiser.BETA2, optimiser.EPSILON) == (0.999, 1e-8)


def test_schedules_begin_and_end_where_they_should():
    schedule = Schedule()
    assert schedule.learning_rate_at(0, 10**6) == pytest.approx(7e-6)
    assert schedule.learning_rate_at(500, 10**6) == pytest.approx(7e-5 * 0.55)
    assert schedule.learning_rate_at(1000, 10**6) == schedule.learning_rate_at(10**6 - 1, 10**6)
    assert [schedule.sparsity_at(t) for t in (0, 5000, 10_000, 20_000)] == [0, 0.5, 1, 1]
    falling = Schedule(decay_share=0.5, warmup_steps=0)
    assert falling.learning_rate_at(75, 100) == pytest.approx(7e-5 / 2)


def test_a_sae_begins_as_the_paper_says():
    p = bank.initial(64, 256, 0.001, seed=0)
    assert torch.equal(p.w_enc, p.w_dec.T)
    torch.testing.assert_close(p.w_dec.norm(dim=1), torch.ones(256))
    torch.testing.assert_close(p.log_threshold.exp(), torch.full((256,), 0.001))
    assert not p.b_enc.any()
    assert not p.b_dec.any()


def test_the_optimiser_is_adam_without_momentum():
    """Against torch's Adam on the same gradients, decoder projected and renormalised by hand."""
    p = Parameters(*(t.double() for t in bank.initial(6, 10, 0.05, seed=1)))
    theirs = Parameters(*(t.clone().requires_grad_() for t in p))
    adam = torch.optim.Adam(list(theirs), lr=1e-2, betas=(0.0, 0.999), eps=1e-8)
    moments = optimiser.zero_moments(p)
    for step in range(5):
        x = torch.randn(50, 6, generator=torch.Generator().manual_seed(step)).double()
        slope = torch.tensor(0.01).double()
        gradients = dense.backward(dense.forward(x, p), p, 0.02, slope)
        for leaf, gradient in zip(theirs, gradients, strict=True):
            leaf.grad = gradient.clone()
        w = theirs.w_dec.detach()
        theirs.w_dec.grad -= (theirs.w_dec.grad * w).sum(1, keepdim=True) * w
        adam.step()
        with torch.no_grad():
            theirs.w_dec.div_(theirs.w_dec.norm(dim=1, keepdim=True))
        optimiser.step_(p, gradients, moments, step, 1e-2, 1.0)
        for ours, leaf in zip(p, theirs, strict=True):
            torch.testing.assert_close(ours, leaf.detach(), rtol=1e-9, atol=1e-12)


def test_a_bank_of_many_equals_each_alone(tmp_path: Path):
    together = trained(tmp_path / "bank", config(seeds=(0, 1), tokens=60 * 256))
    for site in SITES:
        for seed in (0, 1):
            settings = config(seeds=(seed,), tokens=60 * 256)
            alone = trained(tmp_path / f"{site}-{seed}", settings, (site,))
            (name,) = alone.names
            one, many = alone.load(name), together.load(name)
            assert all(torch.equal(getattr(one, w), getattr(many, w)) for w in WEIGHTS)


def test_a_target_l0_is_met_within_a_fifth(tmp_path: Path):
    suite = trained(tmp_path, config(target_l0=(2.0, 4.0)))
    x = torch.cat([b[SITES[0]] for b in itertools.islice(batches_from(10_000), 20)])
    for name, facts in suite.facts.items():
        if facts["site"] == str(SITES[0]):
            l0 = float((suite.load(name).encode(x) != 0).sum(1).float().mean())
            assert l0 == pytest.approx(facts["target_l0"], rel=0.2)


def test_training_explains_what_chance_does_not(tmp_path: Path):
    suite = trained(tmp_path, config())
    sae = suite.load(suite.names[0])
    x = next(batches_from(10_000, 4096))[SITES[0]]
    error = (sae.decode(sae.encode(x)) - x).square().sum()
    assert error / (x - x.mean(0)).square().sum() < 0.2
    torch.testing.assert_close(sae.w_dec.norm(dim=1), torch.ones(48))


@pytest.mark.parametrize("killed_after", [1, 99, 100, 101, 150])
def test_killed_anywhere_it_resumes_to_the_same_bits(tmp_path: Path, killed_after: int):
    settings = config(tokens=180 * 256)
    whole = trained(tmp_path / "whole", settings)

    def dying(first: int) -> Iterator[dict[Site, Tensor]]:
        stream = batches_from(first)
        for _ in range(killed_after + loop.SCALE_BATCHES):
            yield next(stream)
        raise KeyboardInterrupt

    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        train.run(settings, SITES, dying, {"stream": "test"}, out, silent)
    assert not (out / files.MANIFEST).exists()
    assert_equal_weights(trained(out, settings), whole)
    assert not (out / loop.CHECKPOINT).exists()


def test_a_finished_suite_is_reused_and_another_recipe_refused(tmp_path: Path):
    settings = config(tokens=30 * 256)
    trained(tmp_path, settings)
    events: list[Event] = []
    train.run(settings, SITES, batches_from, {"stream": "test"}, tmp_path, events.append)
    assert next(event for event in events if isinstance(event, Finished)).reused
    with pytest.raises(ConfigError, match="holds a suite made from another recipe"):
        trained(tmp_path, config(tokens=40 * 256))


def test_leftovers_of_an_interrupted_writer_are_not_sealed(tmp_path: Path):
    (tmp_path / "resid_post.0" / "old").mkdir(parents=True)
    (tmp_path / "resid_post.0" / "old" / "sae.safetensors").write_bytes(b"stale")
    (tmp_path / f".{loop.CHECKPOINT}.1.tmp").write_bytes(b"half a checkpoint")
    suite = trained(tmp_path, config(tokens=30 * 256))
    assert not [name for name in suite.manifest.files if "old" in name]
    assert not list(tmp_path.glob(".*"))


def test_the_same_sae_twice_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"asks for resid_post\.0/w48_l0_3_s1 twice"):
        trained(tmp_path, config(seeds=(1, 1)))


def test_a_damaged_checkpoint_is_named(tmp_path: Path):
    settings = config(tokens=120 * 256)

    def dying(first: int) -> Iterator[dict[Site, Tensor]]:
        yield from itertools.islice(batches_from(first), 110)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.run(settings, SITES, dying, {"stream": "test"}, tmp_path, silent)
    path = tmp_path / loop.CHECKPOINT
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(Corrupt, match="delete it to train from the start"):
        trained(tmp_path, settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": [0.1], "target_l0": [3.0]}, "give either sparsity or target_l0"),
        ({}, "give either sparsity or target_l0"),
        ({"target_l0": [64.0], "widths": [64]}, "target_l0 64 is not below the width"),
        ({"target_l0": [3.0], "tokens": 100}, "tokens is less than one batch"),
        ({"target_l0": [3.0], "widths": [0]}, "widths.0 is 0"),
        ({"target_l0": [3.0], "seeds": []}, "seeds is"),
        ({"target_l0": [3.0], "schedule": {"sparsity_warmup_steps": -1}}, "is -1"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        Config.parse(changes, "r.toml")


def test_scale_gives_unit_mean_square():
    x = next(batches_from(0))[SITES[1]]
    scaled = x / bank.scale_of(x)
    assert math.isclose(float(scaled.square().sum(1).mean()), 1, rel_tol=1e-5)
