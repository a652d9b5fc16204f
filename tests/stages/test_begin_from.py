"""Training that begins from Saes: at step 0 it is them, in every architecture that can be."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from panscope import files
from panscope.dist import Group
from panscope.errors import ConfigError, NotFound, PanscopeError
from panscope.events import silent
from panscope.launch import Launch
from panscope.recipe import read_recipe
from panscope.sae.sae import Sae, fold, unfold
from panscope.sae.suite import KIND, Suite, write_sae
from panscope.sites import Site
from panscope.stages import exchange, train
from panscope.stages.exchange import Ends
from panscope.stages.train import bank, sweep
from panscope.stages.train.architectures import JumpReLU
from panscope.stages.train.objective import Config
from panscope.stages.train.start import begun

LAYERS, D, WIDTH = 2, 6, 10
READ, WRITTEN = Site("resid_post", 1), Site("mlp_out", 1)
BATCH = {
    READ: 3 * torch.randn(64, D, generator=torch.Generator().manual_seed(1)) + 1,
    WRITTEN: torch.randn(64, D, generator=torch.Generator().manual_seed(2)),
}
KINDS = {
    "autoencoder": ((READ,), (READ,)),
    "transcoder": ((READ,), (WRITTEN,)),
    "skip_transcoder": ((READ,), (WRITTEN,)),
    "crosscoder": ((WRITTEN, READ), (WRITTEN, READ)),
}


def sae_of(kind: str, *, k: int | None = None, threshold: Tensor | None = None) -> Sae:
    """Draw a Sae whose decoder rows have many norms, as foreign ones do."""
    reads, writes = KINDS[kind]
    d_in, d_out = D * len(reads), D * len(writes)
    weights = torch.randn(d_in, WIDTH), torch.randn(WIDTH), torch.randn(WIDTH, d_out)
    skip = torch.randn(d_out, d_in) if kind == "skip_transcoder" else None
    threshold = torch.rand(WIDTH) if threshold is None else threshold
    return Sae(*weights, torch.randn(d_out), threshold, reads, writes, k=k, skip=skip)


def sealed(folder: Path, **saes: Sae) -> str:
    for name, sae in saes.items():
        write_sae(folder, f"{sae.writes[0]}/{name}", sae)
    facts = [
        {
            "sae": f"{sae.writes[0]}/{name}",
            "reads": [str(site) for site in sae.reads],
            "writes": [str(site) for site in sae.writes],
            "width": sae.width,
        }
        for name, sae in saes.items()
    ]
    files.seal(folder, KIND, {}, {}, {"saes": facts})
    return str(folder)


def settings(folder: str, kind: str = "autoencoder", **changed: object) -> Config:
    reads, writes = KINDS[kind]
    tree = {"sites": [str(site) for site in reads], "kind": kind, "widths": [WIDTH]}
    tree |= {"writes": [str(site) for site in writes]} if "transcoder" in kind else {}
    tree |= {"tokens": 640, "batch_tokens": 64, "target_l0": [3.0], "begin_from": folder}
    return Config.parse({**tree, **changed}, "test")


def at_step_0(config: Config) -> Sae:
    specs = sweep.specs(config, LAYERS)
    (member,) = bank.begin(config, specs, [BATCH]).members
    torch.testing.assert_close(member.rows.w_dec.norm(dim=1), torch.ones(WIDTH))
    return member.sae()


def check_same(made: Sae, given: Sae) -> None:
    """Latents differ by the norms of decoder rows; what they rebuild does not."""
    x = torch.cat([BATCH[site] for site in given.reads], dim=1)
    f, norms = given.encode(x), given.w_dec.norm(dim=1)
    assert 0.05 < (f > 0).float().mean() < 0.95
    torch.testing.assert_close(made.encode(x), f * norms, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.rebuild(x), given.rebuild(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["autoencoder", "transcoder", "skip_transcoder"])
def test_a_kind_begins_as_it_was(kind: str, tmp_path: Path):
    given = sae_of(kind)
    check_same(at_step_0(settings(sealed(tmp_path, a=given), kind)), given)


def test_a_crosscoder_begins_as_it_was(tmp_path: Path):
    """Its sites have scales of their own: latents come back in the unit of both."""
    given = sae_of("crosscoder")
    made = at_step_0(settings(sealed(tmp_path, a=given), "crosscoder"))
    x = torch.cat([BATCH[site] for site in given.reads], dim=1)
    torch.testing.assert_close(made.rebuild(x), given.rebuild(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["relu", "gated", "topk", "batch_topk"])
def test_an_architecture_begins_as_it_was(architecture: str, tmp_path: Path):
    thresholds = {"gated": None, "batch_topk": None}.get(architecture, torch.zeros(WIDTH))
    given = sae_of("autoencoder", k=3 if architecture == "topk" else None, threshold=thresholds)
    if architecture in ("batch_topk", "topk"):  # one threshold for all, or one comparison
        w_dec = given.w_dec / given.w_dec.norm(dim=1, keepdim=True)
        one = given.threshold.mean().expand(WIDTH).clone()
        given = Sae(given.w_enc, given.b_enc, w_dec, given.b_dec, one, (READ,), (READ,), k=given.k)
    sparsity = {"target_l0": [], "sparsity": [0.1]} if architecture in ("relu", "gated") else {}
    folder = sealed(tmp_path, a=given)
    check_same(at_step_0(settings(folder, architecture=architecture, **sparsity)), given)


def test_folding_and_unfolding_undo_each_other():
    given = sae_of("skip_transcoder")
    read, written = torch.rand(D) + 0.5, torch.rand(D) + 0.5
    again = fold(unfold(given, read, written), read, written)
    for name in ("w_enc", "b_enc", "w_dec", "b_dec", "threshold", "skip"):
        torch.testing.assert_close(getattr(again, name), getattr(given, name))


def test_shards_are_slices_of_the_whole(tmp_path: Path):
    config = settings(sealed(tmp_path, a=sae_of("autoencoder")))
    (spec,) = sweep.specs(config, LAYERS)
    given, scale, row = Suite.open(tmp_path).load("resid_post.1/a"), torch.ones(D), JumpReLU(1, 1)
    whole = begun(spec, given, scale, scale, row)
    parts = [begun(spec, given, scale, scale, row, Group(rank, 2)) for rank in (0, 1)]
    for n in (0, 1):
        assert torch.equal(torch.cat([part[n] for part in parts]), whole[n])
    assert torch.equal(torch.cat([p[2]["threshold"] for p in parts]), whole[2]["threshold"])


def test_what_cannot_be_begun_from_is_refused(tmp_path: Path):
    folder = sealed(tmp_path / "suite", a=sae_of("autoencoder"), b=sae_of("autoencoder"))
    cases: list[tuple[Config, type[PanscopeError], str]] = [
        (settings(folder, widths=[12]), NotFound, "no Sae of width 12 that reads"),
        (settings(folder), ConfigError, "could begin from resid_post.1/a or resid_post.1/b"),
        (settings(str(tmp_path / "no")), NotFound, "no such folder"),
        (settings(folder, "transcoder"), NotFound, "writes"),
    ]
    for config, error, why in cases:
        with pytest.raises(error, match=why):
            at_step_0(config)
    one = sealed(tmp_path / "one", a=sae_of("skip_transcoder"))
    with pytest.raises(ConfigError, match="has a skip connection; set"):
        at_step_0(settings(one, "transcoder"))
    grows = sealed(tmp_path / "grows", a=replace(sae_of("autoencoder"), size="rms"))
    with pytest.raises(ConfigError, match="has biases in each token's own size"):
        at_step_0(settings(grows))
    wide = {READ: torch.randn(64, D + 1), WRITTEN: torch.randn(64, D)}
    other = settings(sealed(tmp_path / "other", a=sae_of("autoencoder")))
    with pytest.raises(ConfigError, match="reads 6 numbers and writes 6, the model has 7, 7"):
        bank.begin(other, sweep.specs(other, LAYERS), [wide])


def test_of_several_the_one_of_the_same_name_is_taken(tmp_path: Path):
    given = sae_of("autoencoder")
    saes = {f"w{WIDTH}_l0_3_s0": given, "other": sae_of("autoencoder")}
    check_same(at_step_0(settings(sealed(tmp_path, **saes))), given)


def test_a_foreign_sae_is_trained_further(tmp_path: Path):
    """From a file of SAELens to a suite of ours, whose first loss is what the file's Sae has."""
    data = Path(__file__).parents[1] / "formats/data/saelens/jumprelu"
    read = exchange.read(str(data), tmp_path / "theirs", (), Ends(), silent)
    config = settings(str(read.folder), schedule={"learning_rate": 1e-3})
    specs = sweep.specs(config, LAYERS)
    stream = lambda first, sites: ({READ: BATCH[READ]} for _ in range(10))  # noqa: E731
    train.run(train.Work(config, [specs], stream, {}, tmp_path / "suite", silent))
    suite = Suite.open(tmp_path / "suite")
    before, after = read.load(read.names[0]), suite.load(suite.names[0])
    x = BATCH[READ]
    errors = [float((sae.rebuild(x) - x).square().sum(1).mean()) for sae in (before, after)]
    assert errors[1] < errors[0]
    moved = float((after.w_dec - before.w_dec / before.w_dec.norm(dim=1, keepdim=True)).norm())
    assert 0 < moved < 1, "it has moved, and not far in ten steps"


def test_a_recipe_names_the_suite_and_its_digest_is_an_input(
    tmp_path: Path, tiny_model_folder: Path, tiny_text: Path
):
    def train_(out: str, **more: object) -> Suite:
        assignments = {
            "model.name": str(tiny_model_folder),
            "text.path": str(tiny_text),
            "text.context": 16,
            "harvest.bucket_tokens": 512,
            "train.sites": ["resid_post.1"],
            "train.widths": [48],
            "train.target_l0": [6.0],
            "train.tokens": 1280,
            "train.batch_tokens": 128,
            **more,
        }
        texts = tuple(f"{key}={json.dumps(value)}" for key, value in assignments.items())
        return Launch(read_recipe("demo", texts), tmp_path / out, silent).train()

    first = train_("first")
    folder = str(first.folder)
    second = train_("second", **{"train.begin_from": folder, "train.schedule.learning_rate": 1e-6})
    assert second.manifest.inputs["begin_from"] == first.manifest.digest
    before, after = (suite.load(suite.names[0]) for suite in (first, second))
    torch.testing.assert_close(after.w_dec, before.w_dec, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after.threshold, before.threshold, rtol=1e-3, atol=1e-3)
