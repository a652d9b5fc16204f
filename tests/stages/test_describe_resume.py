"""Description in parts: killed at any instant, in shares, with damage, in another's folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tests.stages import killed_describe

from panscope import files
from panscope.atlas.features import Atlas, write_table
from panscope.config import digest_of
from panscope.dist import Share
from panscope.errors import ConfigError, Corrupt, Incomplete, Unsupported
from panscope.events import Advanced, Event, Finished, Started, Warned
from panscope.kernels import cpu_firings, firings, library
from panscope.model import tap
from panscope.sae.suite import Suite
from panscope.sites import Site
from panscope.stages import describe
from panscope.stages.describe import Work

MODEL = killed_describe.harvest.tiny_model()
N_PASSES = 4  # of 16 tokens


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return killed_describe.suite_in(tmp_path_factory.mktemp("suites") / "suite")


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(killed_describe.stage, "PIECE_TOKENS", killed_describe.PIECE_TOKENS)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each forward pass that is run."""
    run, seen = tap.run, []

    def counted(model, ids, **wanted):
        seen.append(len(ids))
        return run(model, ids, **wanted)

    monkeypatch.setattr(tap, "run", counted)
    return seen


@pytest.fixture
def whole(tmp_path: Path, suite: Suite) -> Path:
    """An atlas that was made without interruption."""
    describe.run(work(suite, tmp_path / "whole"))
    return tmp_path / "whole"


def work(suite: Suite, out: Path, **changes: object) -> Work:
    return killed_describe.work(MODEL, suite, out)._replace(**changes)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_an_atlas_is_made_in_one_pass_and_reused(tmp_path: Path, suite: Suite, passes: list[int]):
    events: list[Event] = []
    asked = work(suite, tmp_path, emit=events.append)
    describe.run(asked)
    assert passes == [2] * N_PASSES
    assert events[0] == Started("describe", 60, "tokens")
    assert Advanced("describe", 60) in events
    assert events[-2] == Advanced("describe", 2)
    assert files.verify(tmp_path) == []
    before = bytes_of(tmp_path)
    events.clear()
    describe.run(asked)
    assert events == [Finished("describe", 0.0, reused=True)]
    assert len(passes) == N_PASSES
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("world", [2, 5])
def test_shares_make_what_one_process_makes(
    tmp_path: Path, suite: Suite, whole: Path, world: int, passes: list[int]
):
    asked = work(suite, tmp_path / "shared")
    for act in (describe.read, describe.tell):
        for rank in reversed(range(world)):
            act(asked, Share(rank, world))
    describe.seal(asked)
    assert bytes_of(tmp_path / "shared") == bytes_of(whole)
    assert passes == [2] * N_PASSES


def test_without_a_compiler_the_same_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suite: Suite, whole: Path
):
    """To the bit but for the correlations, whose sums come in another order."""
    assert library.available()
    counting = [name for name in dir(firings.Counting) if not name.startswith("_")]
    assert "accompany_" in counting
    for name in counting:
        monkeypatch.setattr(cpu_firings, name, getattr(firings, name))
    describe.run(work(suite, tmp_path / "plain"))
    native, plain = (Atlas(folder) for folder in (whole, tmp_path / "plain"))
    for sae, record in native.saes.items():
        for index in range(record.width):
            here, there = (atlas.feature(sae, index) for atlas in (native, plain))
            approximate = pytest.approx(there.companion_correlations, abs=1e-6)
            assert here.companion_correlations == approximate
            for name in set(here.__slots__) - {"companion_correlations"}:
                assert getattr(here, name) == getattr(there, name), name


def test_what_is_missing_is_named(tmp_path: Path, suite: Suite):
    asked = work(suite, tmp_path)
    with pytest.raises(Incomplete, match="the text has not been read to its end; run describe"):
        describe.tell(asked)
    describe.read(asked, Share(0, 2))
    with pytest.raises(Incomplete, match="piece-00001: is not written; run describe again"):
        describe.tell(asked)
    describe.read(asked, Share(1, 2))
    describe.tell(asked, Share(0, 2))
    with pytest.raises(Incomplete, match=r"the features of mlp_out\.1/w20 are not written"):
        describe.seal(asked)
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("name", ["resid_post.0/w20.safetensors", "rows.safetensors"])
def test_a_flipped_bit_in_the_log_is_named_and_written_again(
    tmp_path: Path, suite: Suite, whole: Path, name: str, passes: list[int]
):
    asked = work(suite, tmp_path / "damaged")
    describe.read(asked)
    path = asked.log.folder / "piece-00001" / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 16
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=f"piece-00001/{name}: "):
        describe.tell(asked)
    passes.clear()
    events: list[Event] = []
    describe.run(asked._replace(emit=events.append))
    (warned,) = [event for event in events if isinstance(event, Warned)]
    assert f"piece-00001/{name}: blake3" in warned.text
    assert passes == [2], "the piece alone is read again"
    assert bytes_of(tmp_path / "damaged") == bytes_of(whole)


@pytest.mark.parametrize(
    ("name", "was", "becomes"),
    [
        ("told/mlp_out.1/w20.json", b'"n_tokens": 5', b'"n_tokens": 7'),
        ("told/resid_post.0/w20.json", b"}", b"]"),
        ("piece-00001/piece.json", b'"first_row": 2', b'"first_row": 3'),
        ("piece-00001/piece.json", b"{", b"\xff"),
        ("text.json", b'"n_pieces": 4', b'"n_pieces": 3'),
    ],
)
def test_a_flipped_bit_in_a_note_is_found_and_what_it_notes_made_again(
    tmp_path: Path, suite: Suite, whole: Path, name: str, was: bytes, becomes: bytes
):
    asked = work(suite, tmp_path / "damaged")
    describe.read(asked)
    describe.tell(asked)
    path = asked.log.folder / name
    data = path.read_bytes()
    assert was in data
    path.write_bytes(data.replace(was, becomes, 1))
    with pytest.raises(Corrupt, match=rf"{name}: (is damaged|does not match its own checksum)"):
        describe.seal(asked)
    describe.run(asked)
    assert bytes_of(tmp_path / "damaged") == bytes_of(whole)


def test_damaged_features_are_made_again(tmp_path: Path, suite: Suite, whole: Path):
    asked = work(suite, tmp_path / "damaged")
    describe.read(asked)
    describe.tell(asked)
    path = tmp_path / "damaged/features/mlp_out.1/w20.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Incomplete, match=r"the features of mlp_out\.1/w20 are not written"):
        describe.seal(asked)
    describe.run(asked)
    assert bytes_of(tmp_path / "damaged") == bytes_of(whole)


def test_features_with_the_columns_of_an_earlier_version_are_made_again(
    tmp_path: Path, suite: Suite, whole: Path, passes: list[int]
):
    """Begun by one that had fewer and did not note which: the text is not read again."""
    asked = work(suite, tmp_path / "resumed")
    describe.read(asked)
    describe.tell(asked, Share(0, 2))
    path = tmp_path / "resumed/features/resid_post.0/w20.parquet"
    write_table(path, pq.read_table(path).drop_columns("head_shares"))
    note = asked.log.folder / "told/resid_post.0/w20.json"
    tree = json.loads(note.read_bytes())
    del tree["columns"], tree["checksum"]
    tree["file"] = {"size_bytes": path.stat().st_size, "blake3": files.blake3_of(path)}
    files.write_json(note, {**tree, "checksum": digest_of(tree)})
    passes.clear()
    events: list[Event] = []
    describe.run(asked._replace(emit=events.append))
    assert not passes
    assert not any(isinstance(event, Warned) for event in events)
    assert bytes_of(tmp_path / "resumed") == bytes_of(whole)


def test_an_unfinished_description_of_something_else_is_no_part(
    tmp_path: Path, suite: Suite, whole: Path
):
    """Neither its log nor its features are used, or left."""
    other = work(suite, tmp_path / "out", inputs={"model": "another"})
    describe.read(other)
    describe.tell(other)
    stranger = tmp_path / "out/features/embed/w9.parquet"
    stranger.parent.mkdir()
    stranger.write_bytes(b"another suite's")
    describe.run(work(suite, tmp_path / "out"))
    assert bytes_of(tmp_path / "out") == bytes_of(whole)


def test_a_finished_atlas_of_something_else_is_refused(suite: Suite, whole: Path):
    with pytest.raises(ConfigError, match="holds an atlas made from another recipe or input"):
        describe.run(work(suite, whole, inputs={"model": "another"}))


def test_activations_that_overflow_are_named_and_not_described(
    tmp_path: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch
):
    """As of Gemma in float16: NaN fires nothing, infinity everything, and both would be counted."""
    run = tap.run

    def overflowing(model, ids, **wanted):
        ran = run(model, ids, **wanted)
        ran.values[Site("mlp_out", 1)][1, 3:5, 7] = torch.inf
        return ran

    monkeypatch.setattr(tap, "run", overflowing)
    words = r"activations of mlp_out\.1: hold NaN or infinity at [12] of 1\d tokens; load the model"
    with pytest.raises(Unsupported, match=words):
        describe.run(work(suite, tmp_path))
    assert not (tmp_path / "manifest.json").exists()


def test_a_text_without_rows_is_refused(tmp_path: Path, suite: Suite):
    with pytest.raises(ConfigError, match="the text has no rows; give more text"):
        describe.run(work(suite, tmp_path, rows_from=lambda row: iter(())))


def test_a_short_text_is_described_whole(tmp_path: Path, suite: Suite, passes: list[int]):
    asked = work(suite, tmp_path)
    longer = asked.config.model_copy(update={"tokens": 100_000})
    manifest = describe.run(asked._replace(config=longer))
    rows = sum(len(batch.ids) for batch in killed_describe.harvest.rows_from(0))
    assert sum(passes) == rows
    assert manifest.facts["kinds"] == [
        {"kind": "prose", "n_tokens": manifest.facts["saes"][0]["n_tokens"]}
    ]


@pytest.mark.slow
def test_killed_at_any_instant_it_resumes_to_the_bit(tmp_path: Path):
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, killed_describe.__file__, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    instants = range(0, int(done.stdout), killed_describe.STRIDE)
    assert len(instants) > 3
    whole = bytes_of(tmp_path / "whole")
    assert not any(name.startswith(".") for name in whole)
    for n in instants:
        assert bytes_of(tmp_path / f"resumed-{n}") == whole, n
