"""The commands: open, export, and what they say when held wrong; what is opened is as ours."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.formats.conftest import Made, random_sae
from tests.formats.test_from_specification import drawn, save_npz

from panscope.atlas.features import Atlas
from panscope.cli import main
from panscope.recipe import read_recipe
from panscope.sae.suite import Suite
from panscope.stages.exchange import named

DATA = Path(__file__).parent / "data"


def panscope(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


def test_open_and_export(tmp_path: Path):
    run = tmp_path / "run"
    done = panscope("open", DATA / "saelens/jumprelu", "--output", run)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "saelens: Saes of tiny" in said
    assert "resid_post.1/jumprelu resid_post.1 jumprelu 10 -" in said
    assert "seen.safetensors is in no format we know" in said
    assert f"panscope describe {run}/recipe.toml --output {run}" in said
    again = panscope("open", DATA / "saelens/jumprelu", "--output", run)
    assert again.exit_code == 0
    written = panscope(
        "export", run / "suite", "--as", "dictionary_learning", "--output", tmp_path / "out"
    )
    assert written.exit_code == 0, written.output
    assert (tmp_path / "out" / Suite.open(run / "suite").names[0] / "ae.pt").is_file()


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("open", DATA / "saelns"), 3, "no such folder; check the path (did you mean saelens?)"),
        (("open", DATA / "saelens/gated", "--only", "gate"), 3, "nothing at"),
        (("open", DATA / "saelens/gated/*.npz"), 3, "nothing at"),
        (("export", DATA, "--as", "saelens"), 5, "has no manifest.json"),
    ],
)
def test_held_wrong(args: tuple[object, ...], code: int, says: str, tmp_path: Path):
    done = panscope(*args, "--output", tmp_path / "x")
    assert (done.exit_code, says in " ".join(done.output.split())) == (code, True), done.output


def test_another_source_does_not_overwrite_a_suite(tmp_path: Path):
    assert panscope("open", DATA / "saelens/gated", "--output", tmp_path).exit_code == 0
    done = panscope("open", DATA / "saelens/topk", "--output", tmp_path)
    assert done.exit_code == 2
    assert "holds a suite made from another recipe" in " ".join(done.output.split())


def test_our_own_suite_needs_no_opening(made: Made):
    suite = made({"resid_post.1/x": random_sae()})
    for place in (suite.folder, suite.folder.parent):
        done = panscope("open", place, "--output", suite.folder.parent / "again")
        assert done.exit_code == 2
        assert "holds a suite of panscope; use it as it is" in " ".join(done.output.split())


def test_a_wrong_site_is_answered_with_the_nearest(tmp_path: Path):
    save_npz(tmp_path / "some/layer_3/width_10", drawn())
    done = panscope("open", tmp_path / "some", "--site", "mlp_uot", "--output", tmp_path / "run")
    assert done.exit_code == 3
    assert "did you mean mlp_out" in " ".join(done.output.split())


def test_names_are_taken_apart():
    repository = "hf://google/gemma-scope-2b-pt-res"
    canonical = "layer_20/width_16k/canonical"
    for name in (f"{repository}/{canonical}", f"gemma-scope-2b-pt-res-canonical/{canonical}"):
        assert named(name) == (repository, (canonical,))
        assert named(name).run == Path("runs/gemma-scope-2b-pt-res-layer_20-width_16k-canonical")
    assert named(f"{repository}/layer_1", ["a", "b"]).only == ("layer_1/a", "layer_1/b")
    assert named(f"{repository}/*").run == Path("runs/gemma-scope-2b-pt-res")
    folder = DATA / "saelens"
    assert named(str(folder)) == (str(folder), ())
    assert named(str(folder / "*/sae*")) == (str(folder), ("*/sae*",))
    assert named(str(folder / "gated/cfg.json")) == (str(folder / "gated"), ("cfg.json",))


def test_where_no_file_names_the_model_the_user_is_asked(tmp_path: Path):
    save_npz(tmp_path / "some/layer_3/width_10", drawn())
    asked = ("open", tmp_path / "some", "--site", "mlp_out", "--output", tmp_path / "run")
    assert "run this again with --model" in panscope(*asked).output
    assert "evaluate" in panscope(*asked, "--model", "theirs").output
    assert read_recipe(str(tmp_path / "run/recipe.toml")).model.name == "theirs"


def test_a_foreign_sae_is_measured_and_described_as_ours(
    tmp_path: Path, tiny_model_folder: Path, tiny_text: Path
):
    """From an npz in Gemma Scope's layout to an atlas, with nothing trained here."""
    width, d = 40, 32
    arrays = {"W_enc": np.random.default_rng(0).normal(size=(d, width)), "b_enc": np.zeros(width)}
    arrays |= {"W_dec": arrays["W_enc"].T / d, "b_dec": np.zeros(d), "threshold": np.ones(width)}
    folder = tmp_path / "theirs-res/layer_1/width_40/average_l0_9"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{n: a.astype(np.float32) for n, a in arrays.items()})
    run = tmp_path / "run"
    own = ("--model", tiny_model_folder, "--text", tiny_text)
    opened = panscope("open", tmp_path / "theirs-res", *own, "--output", run)
    assert opened.exit_code == 0, opened.output
    small = ("text.context=16", "text.held_out=0.2", "evaluate.tokens=256", "describe.tokens=1024")
    for verb in ("evaluate", "describe"):
        done = panscope(verb, run / "recipe.toml", *small, "--output", run)
        assert done.exit_code == 0, done.output
    (fact,) = Suite.open(run / "suite").facts.values()
    assert 0 < fact["metrics"]["l0"] < width
    assert "scale" not in fact, "no file says it"
    atlas = Atlas(run / "atlas")
    sae = atlas.saes["resid_post.1/width_40_average_l0_9"]
    assert sae.n_alive > 0
    highest = [feature.max for feature in atlas.features(sae.sae, range(width)) if feature.count]
    inside = [sae.bin_edges[0] < value < sae.bin_edges[-1] for value in highest]
    assert all(inside), "the histogram's bins lie around what fired"
    recipe = read_recipe(str(run / "recipe.toml"))
    assert recipe.train.target_l0 == (9.0,), "as the path says"
    tuned = ("train.tokens=512", "train.batch_tokens=64", "harvest.bucket_tokens=256")
    small = ("text.context=16", "harvest.batch_rows=4")
    done = panscope("train", run / "recipe.toml", *small, *tuned, "--output", tmp_path / "tuned")
    assert done.exit_code == 0, done.output
