"""The commands: read, write, and what they say when held wrong; a read suite is one like ours."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from panscope.atlas.features import Atlas
from panscope.cli import main
from panscope.sae.suite import Suite

DATA = Path(__file__).parent / "data"


def panscope(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


def test_read_and_write(tmp_path: Path):
    suite = tmp_path / "run/suite"
    done = panscope("exchange", "read", DATA / "saelens/jumprelu", "--output", suite)
    assert done.exit_code == 0, done.output
    assert "resid_post.1/jumprelu  width 10  saelens" in done.output.replace("\n", " ")
    assert "seen.safetensors is in no format we know" in done.output
    again = panscope("exchange", "read", DATA / "saelens/jumprelu", "--output", suite)
    assert again.exit_code == 0
    written = panscope(
        "exchange", "write", suite, "--as", "dictionary_learning", "--output", tmp_path / "out"
    )
    assert written.exit_code == 0, written.output
    assert (tmp_path / "out" / Suite.open(suite).names[0] / "ae.pt").is_file()


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("read", "nowhere", "--output", "x"), 3, "no such folder; check the path, or write hf://"),
        (("read", DATA / "saelens/gated", "--only", "gate", "--output", "x"), 3, "nothing at"),
        (("write", DATA, "--as", "saelens", "--output", "x"), 5, "has no manifest.json"),
    ],
)
def test_held_wrong(args: tuple[object, ...], code: int, says: str):
    done = panscope("exchange", *args)
    assert (done.exit_code, says in " ".join(done.output.split())) == (code, True), done.output


def test_another_source_does_not_overwrite_a_suite(tmp_path: Path):
    assert panscope("exchange", "read", DATA / "saelens/gated", "--output", tmp_path).exit_code == 0
    done = panscope("exchange", "read", DATA / "saelens/topk", "--output", tmp_path)
    assert done.exit_code == 2
    assert "holds a suite made from another recipe" in " ".join(done.output.split())


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
    read = panscope("exchange", "read", tmp_path / "theirs-res", "--output", run / "suite")
    assert read.exit_code == 0, read.output
    small = ("text.context=16", "text.held_out=0.2", "evaluate.tokens=256", "describe.tokens=1024")
    named = (f'model.name="{tiny_model_folder}"', f'text.path="{tiny_text}"')
    for verb in ("evaluate", "describe"):
        done = panscope(verb, "demo", *named, *small, "--output", run)
        assert done.exit_code == 0, done.output
    (fact,) = Suite.open(run / "suite").facts.values()
    assert 0 < fact["metrics"]["l0"] < width
    atlas = Atlas(run / "atlas")
    assert atlas.saes["resid_post.1/width_40_average_l0_9"].n_alive > 0
