"""Training: the recipe's numbers, banks equal to Saes alone, bodies that agree, targets met."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from panscope.errors import ConfigError
from panscope.events import Event, Finished, silent
from panscope.kernels import bodies, cpu, dense, library
from panscope.kernels.pairs import BETA2, EPSILON
from panscope.recipe import read_recipe
from panscope.sae.sae import WEIGHTS
from panscope.sae.suite import Suite
from panscope.sites import Site
from panscope.stages import train
from panscope.stages.train import bank, course, member, memory, optimiser, sweep
from panscope.stages.train.course import Course
from panscope.stages.train.draw import draw
from panscope.stages.train.objective import (
    Config,
    Frequency,
    Price,
    Revive,
    Saes,
    Schedule,
    TargetL0,
    Threshold,
)

SITES = (Site("resid_post", 0), Site("mlp_out", 1))
ONE_SITE = ("resid_post.0",)
D_IN, N_TRUE = 12, 30
CPU = torch.device("cpu")


def world() -> Tensor:
    """Directions that a sparse mixture is made of."""
    directions = torch.randn(N_TRUE, D_IN, generator=torch.Generator().manual_seed(9))
    return directions / directions.norm(dim=1, keepdim=True)


LAYERS = 2


def batches_from(
    first: int, sites: tuple[Site, ...] = SITES, size: int = 256
) -> Iterator[dict[Site, Tensor]]:
    for k in itertools.count(first):
        generator = torch.Generator().manual_seed(k)
        present = torch.rand(size, N_TRUE, generator=generator) < 0.08
        strengths = 5 * torch.rand(size, N_TRUE, generator=generator) * present
        x = strengths @ world() + 0.5
        values = {SITES[0]: x, SITES[1]: 3 * x.flip(1)}
        yield {site: values[site] for site in sites}


def config(**changes: object) -> Config:
    values = {
        "sites": tuple(map(str, SITES)),
        "widths": (48,),
        "target_l0": (3.0,),
        "tokens": 250 * 256,
        "batch_tokens": 256,
        "checkpoint_steps": 100,
        "schedule": Schedule(
            learning_rate=4e-3,
            bias_rate=1.0,  # the runs are short
            warmup_steps=20,
            decay_share=0.3,
            sparsity_warmup_steps=50,
        ),
        "threshold": Threshold(initial=0.01, bandwidth=0.02, rate=4.0),
    }
    return Config(**(values | changes))  # type: ignore[arg-type]


def weights_of(suite: Suite) -> dict[str, Tensor]:
    return {f"{n}:{w}": getattr(suite.load(n), w) for n in suite.names for w in WEIGHTS}


def trained(out: Path, settings: Config) -> Suite:
    specs = sweep.specs(settings, LAYERS)
    banks = memory.groups(specs, dict.fromkeys(SITES, D_IN), settings, CPU)
    train.run(train.Work(settings, banks, batches_from, {"stream": "test"}, out, silent))
    return Suite.open(out)


def assert_equal_weights(one: Suite, other: Suite) -> None:
    a, b = weights_of(one), weights_of(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_gemma_scopes_recipe_has_the_papers_numbers():
    recipe = read_recipe("gemma_scope_1").train
    assert recipe.schedule == Schedule(
        learning_rate=7e-5,
        momentum=0.0,
        bias_rate=1.0,
        warmup_steps=1000,
        decay_share=0.0,
        sparsity_warmup_steps=10_000,
    )
    assert recipe.threshold == Threshold(initial=0.001, bandwidth=0.001, rate=1.0)
    assert (recipe.batch_tokens, recipe.tokens, recipe.bias) == (4096, 4_000_000_000, "zero")
    assert (BETA2, EPSILON) == (0.999, 1e-8)
    assert read_recipe("gemma_scope_2").train.schedule.sparsity_warmup_steps == 50_000


def test_what_a_recipe_leaves_open_follows_from_its_length():
    def of(n_steps: int, d_in: int, **schedule: float) -> Course:
        return course.course(Schedule(**schedule), n_steps, d_in)

    long, short = of(10**6, 2304, momentum=0), of(100, 64, momentum=0)
    assert long.learning_rate == pytest.approx(7e-5, rel=0.05)
    assert (long.warmup_steps, long.sparsity_warmup_steps) == (1000, 10_000)
    assert short.learning_rate == course.MOST / 8
    assert of(100, 64).learning_rate == pytest.approx(short.learning_rate * 19 ** (1 / 3))
    assert short.warmup_steps + short.sparsity_warmup_steps < 100 / 2
    given = of(100, 64, learning_rate=0.5, decay_share=0.0)
    assert (given.learning_rate, given.decay_share) == (0.5, 0)
    assert course.thresholds(Threshold(initial=0.5, bandwidth=0.2), 64, 512, 1.0) == (0.5, 0.2)


def test_a_targets_penalty_grows_geometrically_and_a_prices_linearly():
    price, shares = Price(sparsity=0.1), {}
    for l0 in (3.0, 30.0, 3000.0):  # large targets begin with more of it: pressure is the same
        target = TargetL0(target_l0=l0, target_strength=1.0)
        shares[l0] = [target.share_at(progress) for progress in (0.0, 0.5, 1.0)]
    assert shares[3.0] == pytest.approx([1e-4, 1e-2, 1])
    assert shares[30.0] == pytest.approx([1e-2, 1e-1, 1])
    assert shares[3000.0] == [1, 1, 1]
    assert [price.share_at(progress) for progress in (0.0, 0.5, 1.0)] == [0, 0.5, 1]


def test_thresholds_start_where_an_untrained_sae_rebuilds_the_right_size():
    x = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0)) / 8
    settings = config(sites=("resid_post.0",), widths=(512,), threshold=Threshold())
    specs = sweep.specs(settings, LAYERS)
    (made,) = bank.begin(settings, specs, [{SITES[0]: x}]).members
    rebuilt = made.sae().rebuild(x)
    assert float((rebuilt * x).sum() / x.square().sum()) == pytest.approx(1, abs=0.05)


def test_schedules_begin_and_end_where_they_should():
    paper = Course(10**6, 7e-5, 0.0, 1.0, 1000, 0.0, 10_000)
    assert paper.share_of_rate_at(0) == pytest.approx(0.1)
    assert paper.share_of_rate_at(500) == pytest.approx(0.55)
    assert paper.share_of_rate_at(1000) == paper.share_of_rate_at(10**6 - 1) == 1
    assert [paper.warmed_at(t) for t in (0, 5000, 10_000, 20_000)] == [0, 0.5, 1, 1]
    falling = Course(100, 7e-5, 0.0, 1.0, 0, 0.5, 0)
    assert falling.share_of_rate_at(75) == pytest.approx(1 / 2)


def begun(settings: Config) -> bank.Bank:
    return bank.begin(settings, sweep.specs(settings, LAYERS), [next(batches_from(0))])


def test_a_sae_begins_as_the_paper_says():
    made = begun(config(threshold=Threshold(initial=0.001), bias="zero")).members[0]
    assert torch.equal(made.rows.w_enc, made.rows.w_dec)
    torch.testing.assert_close(made.rows.w_dec.norm(dim=1), torch.ones(48))
    torch.testing.assert_close(made.vectors["threshold"], torch.full((48,), 0.001))
    assert not made.vectors["b_enc"].any()
    assert not made.vectors["b_dec"].any()
    centred = begun(config()).members[0]
    x = next(batches_from(0))[SITES[0]]
    torch.testing.assert_close(centred.vectors["b_dec"], x.mean(0) / bank.scale_of(x))


def test_a_transcoders_encoder_is_drawn_by_itself():
    changes = {"kind": "transcoder", "sites": ("mlp_in.*",), "writes": ("mlp_out.*",)}
    spec = sweep.specs(config(**changes), LAYERS)[0]
    w_enc, w_dec = draw(spec, 64, 64)
    assert not torch.equal(w_enc, w_dec)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_small_parameters_move_by_adam(momentum: float):
    draw = torch.Generator().manual_seed(0)
    ours = {name: torch.randn(7, generator=draw).double() for name in ("b_enc", "threshold")}
    theirs = {name: value.clone().requires_grad_() for name, value in ours.items()}
    moments, means = (
        {name: torch.zeros_like(value) for name, value in ours.items()} for _ in range(2)
    )
    adam = torch.optim.Adam(list(theirs.values()), lr=1e-2, betas=(momentum, 0.999), eps=1e-8)
    for step in range(1, 6):
        gradients = {name: torch.randn(7, generator=draw).double() for name in ours}
        for name, leaf in theirs.items():
            leaf.grad = gradients[name].clone()
        adam.step()
        rates = dict.fromkeys(ours, 1e-2)
        optimiser.step_(ours, gradients, moments, means, momentum, step, rates)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name].detach(), rtol=1e-9, atol=1e-12)


def after(settings: Config, steps: int) -> dict[str, Tensor]:
    """Train a bank for some steps and return its state."""
    with torch.inference_mode():
        made = begun(settings)
        for step, batch in enumerate(itertools.islice(batches_from(0), steps)):
            made.step_(batch, step)
        return made.state()


ROWS = [
    {},
    {"target_l0": (), "sparsity": (0.01,)},
    {"prefixes": (8, 20)},
    {"architecture": "topk"},
    {"architecture": "batch_topk"},
    {"architecture": "gated", "target_l0": (), "sparsity": (0.05,)},
    {"architecture": "relu", "target_l0": (), "sparsity": (0.05,)},
    {"kind": "skip_transcoder", "sites": ("resid_post.0",), "writes": ("mlp_out.1",)},
    {"kind": "crosscoder", "sites": ("resid_post.0", "mlp_out.1")},
]


@pytest.mark.skipif(not library.available(), reason="the native kernels were not compiled")
@pytest.mark.parametrize("changes", ROWS, ids=lambda row: "-".join(map(str, row.values())))
def test_native_and_dense_bodies_train_alike(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    """Float32 rounding moves a pair across a threshold now and then; the runs stay side by side."""
    gentle = Schedule(learning_rate=5e-4, warmup_steps=20, sparsity_warmup_steps=50)
    settings = config(**({"schedule": gentle, "sites": ONE_SITE} | changes))
    steps = 40 if changes else 200
    native = after(settings, steps)
    monkeypatch.setattr(member, "body_for", lambda x, density: dense)
    plain = after(settings, steps)
    for name, value in plain.items():
        if name.endswith((":w_enc", ":w_dec", ":threshold", ":b_dec")):
            difference = (native[name] - value).norm() / value.norm()
            assert difference < 0.02, (name, float(difference))


@pytest.mark.skipif(not library.available(), reason="the native kernels were not compiled")
def test_changing_the_body_on_the_way_leaves_no_jump(monkeypatch: pytest.MonkeyPatch):
    settings = config()
    expected = after(settings, 30)
    chosen = itertools.cycle([cpu, dense])
    monkeypatch.setattr(member, "body_for", lambda x, density: next(chosen))
    mixed = after(settings, 30)
    for name, value in expected.items():
        if name.endswith((":w_enc", ":w_dec", ":threshold")):
            one_step = settings.schedule.learning_rate
            torch.testing.assert_close(mixed[name], value, rtol=0, atol=one_step)


def test_dense_codes_choose_the_dense_body():
    x = torch.zeros(2, 3)
    assert bodies.body_for(x, 0.5) is dense
    assert bodies.body_for(x, 0.01) is (cpu if library.available() else dense)
    assert bodies.body_for(x.double(), 0.01) is dense


def test_a_mixed_bank_equals_each_alone(tmp_path: Path):
    """Widths, architectures, penalties, rates, sites and kinds side by side."""
    products = [
        Saes(**row)  # type: ignore[arg-type]
        for row in (
            {
                "sites": ("resid_post.0",),
                "widths": (32,),
                "architecture": "topk",
                "target_l0": (3,),
            },
            {"sites": ("mlp_out.1",), "widths": (48,), "sparsity": (0.01,), "prefixes": (8,)},
            {"sites": ("resid_post.0",), "writes": ("mlp_out.1",), "kind": "transcoder"}
            | {"widths": (40,), "target_l0": (4.0,), "learning_rates": (1e-3,)},
        )
    ]
    short = 25 * 256
    together = weights_of(trained(tmp_path / "bank", config(tokens=short, more=tuple(products))))
    alone = dict(weights_of(trained(tmp_path / "alone", config(tokens=short))))
    for number, product in enumerate(products):
        changes = {"target_l0": ()} | product.model_dump(exclude_unset=True)
        settings = config(tokens=short, **changes)
        alone |= weights_of(trained(tmp_path / str(number), settings))
    assert together.keys() == alone.keys()
    assert all(torch.equal(together[name], alone[name]) for name in alone)


def test_a_bank_of_many_equals_each_alone(tmp_path: Path):
    together = trained(tmp_path / "bank", config(seeds=(0, 1), tokens=30 * 256))
    for site in SITES:
        for seed in (0, 1):
            settings = config(seeds=(seed,), tokens=30 * 256, sites=(str(site),))
            alone = trained(tmp_path / f"{site}-{seed}", settings)
            (name,) = alone.names
            one, many = alone.load(name), together.load(name)
            assert all(torch.equal(getattr(one, w), getattr(many, w)) for w in WEIGHTS)


@pytest.fixture(scope="module")
def targeted(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """Two Saes of one site, of L0 2 and 4."""
    return trained(
        tmp_path_factory.mktemp("targeted"), config(sites=ONE_SITE, target_l0=(2.0, 4.0))
    )


def test_a_target_l0_is_met_within_a_fifth(targeted: Suite):
    x = torch.cat([b[SITES[0]] for b in itertools.islice(batches_from(10_000), 20)])
    for name, facts in targeted.facts.items():
        l0 = float((targeted.load(name).encode(x) != 0).sum(1).float().mean())
        assert l0 == pytest.approx(facts["target_l0"], rel=0.2)


def test_training_explains_what_chance_does_not(targeted: Suite):
    sae = targeted.load(targeted.names[1])
    x = next(batches_from(10_000, size=4096))[SITES[0]]
    error = (sae.decode(sae.encode(x)) - x).square().sum()
    assert error / (x - x.mean(0)).square().sum() < 0.2
    torch.testing.assert_close(sae.w_dec.norm(dim=1), torch.ones(48))


def test_the_frequency_penalty_thins_out_what_fires_often(targeted: Suite, tmp_path: Path):
    pressed = Frequency(strength=1.0, scale=0.1)
    settings = config(sites=ONE_SITE, target_l0=(4.0,), frequency=pressed)
    thinned = trained(tmp_path, settings)
    x = torch.cat([b[SITES[0]] for b in itertools.islice(batches_from(10_000), 20)])

    def most_frequent(suite: Suite) -> float:
        return float((suite.load(suite.names[-1]).encode(x) != 0).float().mean(0).max())

    assert most_frequent(thinned) < 0.8 * most_frequent(targeted)


def test_a_finished_suite_is_reused_and_another_recipe_refused(tmp_path: Path):
    settings = config(tokens=30 * 256)
    trained(tmp_path, settings)
    events: list[Event] = []
    banks = [sweep.specs(settings, LAYERS)]
    work = settings, banks, batches_from, {"stream": "test"}, tmp_path, events.append
    train.run(train.Work(*work))
    assert next(event for event in events if isinstance(event, Finished)).reused
    with pytest.raises(ConfigError, match="holds a suite made from another recipe"):
        trained(tmp_path, config(tokens=40 * 256))


def test_the_same_sae_twice_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"asks for resid_post\.0/w48_l0_3_s1 twice"):
        trained(tmp_path, config(seeds=(1, 1)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": [0.1], "target_l0": [3.0]}, "give either sparsity or target_l0"),
        ({}, "give either sparsity or target_l0"),
        ({"target_l0": [64.0], "widths": [64]}, "target_l0 64 is not below the width"),
        ({"target_l0": [3.0], "tokens": 100}, "tokens is less than one batch"),
        ({"target_l0": [3.0], "widths": [0]}, "widths.0 is 0"),
        ({"target_l0": [3.0], "seeds": []}, "seeds is"),
        (
            {"target_l0": [64.0], "widths": [64], "architecture": "topk"},
            "64 is not below the width",
        ),
        ({"target_l0": [2.5], "architecture": "topk"}, "k = 2.5 is no whole number"),
        ({"sparsity": [1.0], "architecture": "batch_topk"}, "takes its k from target_l0"),
        ({"target_l0": [3.0], "architecture": "gated"}, "gated has no target_l0"),
        ({"target_l0": [3.0], "widths": [64], "prefixes": [64]}, "prefix 64 is not below"),
        ({"target_l0": [3.0], "prefixes": [9, 5]}, "prefixes must ascend"),
        ({"target_l0": [3.0], "kind": "transcoder"}, "need writes"),
        ({"target_l0": [3.0], "writes": ["mlp_out.0"]}, "need writes"),
        ({"sparsity": [1.0], "architecture": "relu", "frequency": {"strength": 1.0}}, "jumprelu"),
        ({"target_l0": [3.0], "schedule": {"sparsity_warmup_steps": -1}}, "is -1"),
        ({"target_l0": [3.0], "revive": {"aux_k": 4}}, "those of topk"),
        ({"target_l0": [3], "architecture": "topk", "revive": {"preact_strength": 1}}, "jumprelu"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        Config.parse(changes, "r.toml")


def test_transcoders_need_as_many_sites_to_write_as_to_read():
    settings = config(kind="transcoder", sites=("mlp_in.*",), writes=("mlp_out.0",))
    with pytest.raises(ConfigError, match="reads 2 sites and writes 1"):
        sweep.specs(settings, LAYERS)


def test_saes_may_differ_in_prefixes_or_strengths_alone():
    more = (
        Saes(target_l0=(3.0,), widths=(48,), prefixes=(8, 16)),
        Saes(target_l0=(3.0,), widths=(48,), prefixes=(8, 24)),
        Saes(target_l0=(3.0,), widths=(48,), revive=Revive(preact_strength=0.1)),
        Saes(target_l0=(3.0,), widths=(48,), frequency=Frequency(strength=2), target_strength=3),
    )
    names = [spec.name for spec in sweep.specs(config(more=more), LAYERS) if spec.site == SITES[0]]
    assert names == [
        "w48_l0_3_s0",
        "w48_l0_3_matryoshka_8_16_s0",
        "w48_l0_3_matryoshka_8_24_s0",
        "w48_l0_3_preact_0.1_s0",
        "w48_l0_3_strength_3_frequency_2_s0",
    ]
    with pytest.raises(ConfigError, match="twice"):
        sweep.specs(config(more=more[:1] * 2), LAYERS)


def test_memory_is_bounded_by_training_in_groups():
    settings = config(seeds=tuple(range(6)))
    wanted = sweep.specs(settings, LAYERS)
    d_at = dict.fromkeys(SITES, D_IN)
    assert memory.groups(wanted, d_at, settings, CPU) == [wanted]
    three = memory.group_bytes(wanted[:3], d_at, settings, CPU) / 1e9
    split = memory.groups(wanted, d_at, config(seeds=tuple(range(6)), memory_gb=three), CPU)
    assert [len(group) for group in split] == [3, 3, 3, 3]
    assert tuple(itertools.chain(*split)) == wanted
    with pytest.raises(ConfigError, match=r"more than the 0\.0 GB it may take"):
        memory.groups(wanted, d_at, config(memory_gb=1e-6), CPU)


def test_each_worker_gets_a_group_of_neighbours_of_about_equal_cost():
    settings = config(widths=(16, 32), seeds=(0, 1, 2), memory_gb=1.0)
    wanted = sweep.specs(settings, LAYERS)
    d_at = dict.fromkeys(SITES, D_IN)
    for n in (1, 2, 3, 5, 100):
        split = memory.groups(wanted, d_at, settings, CPU, n)
        assert tuple(itertools.chain(*split)) == wanted
        assert len(split) == min(n, len(wanted))
    three = memory.groups(wanted, d_at, settings, CPU, 3)
    widths = [sum(spec.width for spec in group) for group in three]
    assert max(widths) - min(widths) <= 2 * 32


def test_workers_of_one_host_share_its_memory(monkeypatch: pytest.MonkeyPatch):
    settings = config(seeds=tuple(range(6)))
    wanted = sweep.specs(settings, LAYERS)
    d_at = dict.fromkeys(SITES, D_IN)
    three = memory.group_bytes(wanted[:3], d_at, settings, CPU)
    monkeypatch.setattr(memory, "memory_of", lambda device: 2 * 2 * three)
    split = memory.groups(wanted, d_at, settings, CPU, 2)
    assert [len(group) for group in split] == [3, 3, 3, 3]


def test_parts_of_other_lengths_and_sites_equal_separate_trainings(tmp_path: Path):
    """The longer part reads one site alone and has the course of its own length."""
    short, long = 40 * 256, 70 * 256
    rules = {"schedule": Schedule(), "threshold": Threshold()}  # follow from each part's length
    own = {"sites": ("mlp_out.1",), "widths": (64,), "target_l0": (4.0,), "tokens": long}
    both = config(tokens=short, more=(Saes(**own),), **rules)  # type: ignore[arg-type]
    together = trained(tmp_path / "parts", both)
    facts = together.facts.values()
    assert [(fact["site"], fact["width"], fact["trained_tokens"]) for fact in facts] == [
        ("resid_post.0", 48, short),
        ("mlp_out.1", 48, short),
        ("mlp_out.1", 64, long),
    ]
    separate = weights_of(trained(tmp_path / "first", config(tokens=short, **rules)))
    separate |= weights_of(trained(tmp_path / "second", config(**own, **rules)))
    assert weights_of(together).keys() == separate.keys()
    assert all(torch.equal(w, separate[name]) for name, w in weights_of(together).items())
    rates = {fact["learning_rate"] for fact in facts}
    assert rates == {course.learning_rate(n_steps, D_IN, 0.9) for n_steps in (40, 70)}


def test_parts_of_other_lengths_are_trained_by_themselves_the_shortest_first():
    parts = (
        Saes(sites=("mlp_out.1",), widths=(64,), target_l0=(4.0,), tokens=9 * 256 + 1),
        Saes(sites=("resid_post.0",), widths=(64,), target_l0=(4.0,), tokens=9 * 256),
        Saes(sites=("resid_post.0",), widths=(96,), target_l0=(4.0,), tokens=999 * 256),
    )
    settings = config(more=parts)
    specs = sweep.specs(settings, LAYERS)
    groups = memory.groups(specs, dict.fromkeys(SITES, D_IN), settings, CPU)
    assert [[(spec.width, spec.n_steps) for spec in group] for group in groups] == [
        [(64, 9), (64, 9)],
        [(48, 250), (48, 250)],
        [(96, 999)],
    ]


def test_parts_that_cannot_be_are_refused():
    again = Saes(sites=("resid_post.0",), widths=(48,), target_l0=(3.0,), tokens=512)
    with pytest.raises(ConfigError, match=r"asks for resid_post\.0/w48_l0_3_s0 twice"):
        sweep.specs(config(more=(again,)), LAYERS)
    with pytest.raises(ValueError, match="tokens is less than one batch"):
        config(more=(Saes(target_l0=(3.0,), tokens=255),))


def test_a_container_may_use_less_memory_than_its_host_has(tmp_path: Path):
    limited, free = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    limited.write_text("2000000000\n")
    free.write_text("max\n")
    assert memory.container_limits([str(limited), str(free), str(tmp_path / "none")]) == [2 * 10**9]
    assert memory.memory_of(CPU) > 10**8


def test_scale_gives_unit_mean_square():
    x = next(batches_from(0))[SITES[1]]
    scaled = x / bank.scale_of(x)
    assert math.isclose(float(scaled.square().sum(1).mean()), 1, rel_tol=1e-5)


def test_a_transcoder_may_not_write_what_it_reads():
    changes = {"kind": "skip_transcoder", "sites": ("mlp_out.0",), "writes": ("mlp_out.0",)}
    with pytest.raises(ConfigError, match="would write what it reads"):
        sweep.specs(config(**changes), LAYERS)


def test_a_site_that_never_changes_is_named():
    settings = config(sites=("resid_post.0",))
    specs = sweep.specs(settings, LAYERS)
    with pytest.raises(ConfigError, match=r"site resid_post\.0: has the same activations"):
        bank.begin(settings, specs, [{SITES[0]: torch.ones(8, D_IN)}])


def test_a_bank_trained_by_two_threads_equals_one_by_one():
    settings = config(seeds=(0, 1), tokens=20 * 256)
    expected = after(settings, 20)
    torch.set_num_threads(2)
    try:
        side_by_side = after(settings, 20)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(side_by_side[name], value) for name, value in expected.items())
