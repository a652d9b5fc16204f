"""The commands: read, write, and what they say when held wrong; a read suite is one like ours."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

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
