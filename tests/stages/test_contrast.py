"""Contrasts: the statistics against their definitions, planted features found, chance not."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from panscope import files
from panscope.errors import ConfigError, NotFound
from panscope.events import Event
from panscope.files import seal
from panscope.model.load import Model
from panscope.sae.sae import Sae
from panscope.sae.suite import Suite, write_sae
from panscope.sites import Site
from panscope.stages import contrast
from panscope.stages.contrast.difference import discovered, effect, ranked
from panscope.stages.contrast.pooled import pooled
from panscope.stages.contrast.probe import difference_of_means, logistic
from panscope.stages.contrast.prompts import Prompts, halved

SITE = Site("resid_post", 1)
NAME = "resid_post.1/planted"
RANDOM = "resid_post.2/random"
WIDTH = 24
WORDS = ("old", "lamp", "stood", "on", "the", "table", "and", "rain", "fell", "all", "night")
ENGLISH = [
    " ".join(order[:6]) for order in itertools.islice(itertools.permutations(WORDS), 0, 4000, 250)
]
FRENCH = [f"Le chat numéro {n} dort sous la table bleue" for n in range(12)]


def quiet(event: Event) -> None:
    """Drop an event."""


# ---- statistics


def split(n_a: int, n_b: int) -> Tensor:
    return torch.arange(n_a + n_b) < n_a


def test_auroc_is_the_share_of_pairs_that_a_wins():
    values = torch.randint(0, 4, (17, 5), generator=torch.Generator().manual_seed(0)).float()
    is_a = split(8, 9)
    a, b = values[:8, None], values[None, 8:]
    wins = (a > b).double() + 0.5 * (a == b).double()
    torch.testing.assert_close(ranked(values, is_a).auroc.double(), wins.mean((0, 1)))


def test_p_is_what_a_thousand_shuffles_say():
    """Of shifted columns, with few ties and with many: to 0.02 beside the shuffles' own error."""
    generator = torch.Generator().manual_seed(1)
    few = torch.randn(24, 4, generator=generator)
    many = torch.randint(0, 4, (24, 4), generator=generator).float()
    is_a = split(12, 12)
    values = torch.cat([few, many], 1) + is_a[:, None]
    found = ranked(values, is_a)
    distance = (found.auroc - 0.5).abs()
    shuffled = [
        (ranked(values, is_a[torch.randperm(24, generator=generator)]).auroc - 0.5).abs()
        for _ in range(1000)
    ]
    share = (torch.stack(shuffled) >= distance - 1e-6).double().mean(0)
    error = (share * (1 - share) / 1000).sqrt()
    assert ((found.p - share).abs() < 4 * error + 0.02).all(), (found.p, share)
    assert found.p.min() < 0.01


def test_a_constant_feature_differs_in_nothing():
    found = ranked(torch.zeros(10, 1), split(5, 5))
    assert (float(found.auroc), float(found.p)) == (0.5, 1.0)
    assert float(effect(torch.ones(10, 1), split(5, 5))) == 0.0


def test_the_effect_is_in_deviations():
    values = torch.tensor([[1.0], [3.0], [5.0], [0.0], [0.0], [3.0]])
    expected = (3 - 1) / (((2 * 4.0) + (2 * 3.0)) / 4) ** 0.5
    assert float(effect(values, split(3, 3))) == pytest.approx(expected)


def test_benjamini_and_hochbergs_q():
    """By the definition: the smallest of p m / rank over all ranks at or above one's own."""
    p = torch.rand(50, generator=torch.Generator().manual_seed(2), dtype=torch.double) ** 3
    order = p.argsort()
    expected = torch.empty_like(p)
    for rank, which in enumerate(order.tolist(), start=1):
        above = [float(p[order[r - 1]]) * 50 / r for r in range(rank, 51)]
        expected[which] = min(1.0, *above)
    torch.testing.assert_close(discovered(p), expected)


def test_chance_is_not_discovered():
    """Ten thousand features of noise: the correction lets none through."""
    values = torch.randn(40, 10_000, generator=torch.Generator().manual_seed(3))
    assert (ranked(values, split(20, 20)).p < 0.05).float().mean() == pytest.approx(0.05, abs=0.01)
    assert discovered(ranked(values, split(20, 20)).p).min() > 0.05


# ---- probes


def drawn(distance: float, n: int = 60) -> tuple[Tensor, Prompts]:
    generator = torch.Generator().manual_seed(4)
    is_a = split(n, n)
    values = torch.randn(2 * n, 6, generator=generator)
    values[:, 2] += distance * is_a
    is_test = torch.rand(2 * n, generator=generator) < 0.5
    return values, Prompts(tuple([[]] * (2 * n)), is_a, is_test)


@pytest.mark.parametrize("probe", [logistic, difference_of_means])
def test_a_probe_finds_what_is_there(probe: object):
    values, prompts = drawn(4.0)
    scores = probe(values, prompts)
    assert ((scores > 0) == prompts.is_a)[prompts.is_test].double().mean() > 0.93
    values, prompts = drawn(0.0)
    hits = ((probe(values, prompts) > 0) == prompts.is_a)[prompts.is_test].double().mean()
    assert 0.3 < hits < 0.7, "on noise it guesses"


def test_logistic_regression_is_at_its_minimum():
    values, prompts = drawn(1.0)
    train = ~prompts.is_test
    x = values[train].double()
    x = (x - x.mean(0)) / x.std(0)
    scores = logistic(values, prompts)[train]
    solved = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), scores[:, None]).solution
    weights = solved[:, 0].requires_grad_()
    y = prompts.is_a[train].double()
    counts = torch.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y.mean())) / len(y)
    score = x @ weights[:-1] + weights[-1]
    nats = torch.nn.functional.binary_cross_entropy_with_logits(score, y, counts, reduction="sum")
    (nats + 0.005 * weights[:-1].square().sum()).backward()
    assert weights.grad is not None and weights.grad.abs().max() < 1e-7


# ---- prompts


def test_prompts_are_lines_or_json(tmp_path: Path):
    lines, listed = tmp_path / "a.txt", tmp_path / "a.json"
    lines.write_text("One.\n\nDeux — trois.\n", encoding="utf-8")
    listed.write_text(json.dumps(["One.", "Deux — trois."]), encoding="utf-8")
    assert (
        contrast.read_prompts(lines) == contrast.read_prompts(listed) == ("One.", "Deux — trois.")
    )
    with pytest.raises(NotFound, match=r"b\.txt: no such file"):
        contrast.read_prompts(tmp_path / "b.txt")
    listed.write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(ConfigError, match="is no list of texts"):
        contrast.read_prompts(listed)
    listed.write_bytes(b"\xff[")
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 0; convert"):
        contrast.read_prompts(listed)
    listed.write_text("[", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read"):
        contrast.read_prompts(listed)


def test_half_of_each_set_is_held_out():
    prompts = halved([[1]] * 10, [[2]] * 15, seed=0)
    assert (int(prompts.is_test[:10].sum()), int(prompts.is_test[10:].sum())) == (5, 7)
    assert not torch.equal(prompts.is_test, halved([[1]] * 10, [[2]] * 15, seed=1).is_test)
    with pytest.raises(ConfigError, match="set b: has 7 prompts; give 8 or more"):
        halved([[1]] * 10, [[2]] * 7, seed=0)


# ---- the whole


def sae_with(planted: Tensor | None, site: Site, seed: int) -> Sae:
    """Random latents; latent 5 reads and writes the planted direction."""
    generator = torch.Generator().manual_seed(seed)
    w_dec = torch.nn.functional.normalize(torch.randn(WIDTH, 32, generator=generator), dim=1)
    if planted is not None:
        w_dec[5] = planted
    threshold = torch.full((WIDTH,), 0.5)
    return Sae(
        w_dec.T.clone(), torch.zeros(WIDTH), w_dec, torch.zeros(32), threshold, (site,), (site,)
    )


@pytest.fixture(scope="module")
def suite(tiny_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """Two Saes; a latent of the first is the direction between French and English."""
    folder = tmp_path_factory.mktemp("suites") / "suite"
    rows = [tiny_model.encode(text) for text in (*FRENCH, *ENGLISH)]
    nothing = {NAME: sae_with(None, SITE, 0)}
    means = pooled(tiny_model, nothing, rows, "mean", 8)[NAME].activations
    planted = means[: len(FRENCH)].mean(0) - means[len(FRENCH) :].mean(0)
    write_sae(folder, NAME, sae_with(planted / planted.norm(), SITE, 0))
    write_sae(folder, RANDOM, sae_with(None, Site("resid_post", 2), 1))
    facts = {"saes": [{"sae": name, "width": WIDTH} for name in (NAME, RANDOM)]}
    seal(folder, "suite", {}, {}, facts)
    return Suite.open(folder)


def run(model: Model, suite: Suite, out: Path, **keys: object) -> dict:
    config = contrast.Config.parse({"ks": [1, 3], "n_ablated": 2, **keys}, "contrast")
    contrast.run(config, model, suite, FRENCH, ENGLISH, out, quiet)
    return json.loads((out / "result.json").read_text(encoding="utf-8"))


def test_a_planted_feature_is_found_and_its_ablation_felt(
    tiny_model: Model, suite: Suite, tmp_path: Path
):
    result = run(tiny_model, suite, tmp_path / "x", answers=[" la", " the"])
    assert (result["n_tested"], result["n_a"]) == (2 * WIDTH, len(FRENCH))
    found = {(one["sae"], one["index"]): one for one in result["found"]}
    planted = found[NAME, 5]
    assert planted["auroc"] == 1.0 and planted["q"] < 0.05
    assert planted["effect"] > 2 and planted["mean_a"] > planted["mean_b"]
    first = result["saes"][0]
    assert first["probes"]["difference of means"]["auroc"] == 1.0
    assert {*first["probes"]} >= {"1 latent", "3 latents", "logistic regression"}
    assert first["ablation"]["loss"][0]["mean"] != 0 and first["ablation"]["lead"]
    assert len(first["ablated"]) == 2


def test_a_finished_contrast_is_reused_and_reports_what_it_found(
    tiny_model: Model, suite: Suite, tmp_path: Path
):
    out = tmp_path / "x"
    out.mkdir()
    (out / ".result.json.4711.tmp").write_text("half a file, of a killed writer")
    run(tiny_model, suite, out)
    assert {path.name for path in out.iterdir()} == {"manifest.json", "report.md", "result.json"}
    inode = (out / "result.json").stat().st_ino
    run(tiny_model, suite, out)
    assert (out / "result.json").stat().st_ino == inode
    assert files.verify(out) == []
    with pytest.raises(ConfigError, match="made from another recipe"):
        run(tiny_model, suite, out, seed=1)
    report = (out / "report.md").read_text(encoding="utf-8")
    assert f"| `{NAME}` | 5 |" in report and "Benjamini-Hochberg" in report


def test_two_halves_of_one_set_do_not_differ(tiny_model: Model, suite: Suite, tmp_path: Path):
    out = tmp_path / "x"
    contrast.run(contrast.Config(), tiny_model, suite, ENGLISH[::2], ENGLISH[1::2], out, quiet)
    assert json.loads((out / "result.json").read_text(encoding="utf-8"))["found"] == []


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ({"saes": [NAME[1:]]}, NotFound, f"did you mean {NAME}"),
        ({"pool": "men"}, ConfigError, "'mean', 'max' or 'last'"),
        ({"answers": [" the", " the"]}, ConfigError, "begin with the same token"),
        ({"answers": ["", " the"]}, ConfigError, "one is empty"),
    ],
)
def test_what_cannot_be_contrasted_is_refused(
    tiny_model: Model, suite: Suite, tmp_path: Path, keys: dict, error: type[Exception], words: str
):
    with pytest.raises(error, match=words):
        run(tiny_model, suite, tmp_path / "x", **keys)
    assert not (tmp_path / "x" / "manifest.json").exists()
