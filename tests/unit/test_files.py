import errno
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panscope import files
from panscope.config import digest_of
from panscope.errors import ConfigError, Corrupt, Incomplete, NotFound, PanscopeError, Unsupported
from panscope.place import Place


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    folder = tmp_path / "thing"
    files.write_bytes(folder / "a.bin", b"some bytes")
    files.write_json(folder / "deep" / "b.json", {"x": 1})
    files.seal(folder, "thing", {"seed": 0}, {"model": "m"}, {"n": 3})
    return folder


def test_a_sealed_folder_verifies_and_knows_what_it_was_made_from(artefact: Path):
    manifest = files.read_manifest(artefact, "thing")
    assert set(manifest.files) == {"a.bin", "deep/b.json"}
    assert files.verify(artefact) == []
    assert files.made(artefact, "thing", {"seed": 0}, {"model": "m"}) == manifest
    for config, inputs in (({"seed": 1}, {"model": "m"}), ({"seed": 0}, {"model": "another"})):
        with pytest.raises(ConfigError, match="holds a thing made from another recipe or input"):
            files.made(artefact, "thing", config, inputs)
    assert files.made(artefact / "deep", "thing", {}, {}) is None


@given(byte=st.integers(0, 9), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found_and_named(
    tmp_path_factory: pytest.TempPathFactory, byte: int, bit: int
):
    folder = tmp_path_factory.mktemp("flip")
    (folder / "a.bin").write_bytes(b"some bytes")
    manifest = files.seal(folder, "thing", {}, {}, {})
    damaged = bytearray(b"some bytes")
    damaged[byte] ^= 1 << bit
    (folder / "a.bin").write_bytes(damaged)
    with pytest.raises(Corrupt, match=r"a\.bin: blake3 is"):
        files.checked(folder, manifest, "a.bin")
    assert len(files.verify(folder)) == 1


def test_truncated_and_missing_files_are_found(artefact: Path):
    (artefact / "a.bin").write_bytes(b"some")
    (artefact / "deep" / "b.json").unlink()
    first, second = (str(problem) for problem in files.verify(artefact))
    assert "a.bin: has 4 bytes, the manifest says 10" in first
    assert "b.json: is missing" in second


def test_a_folder_without_manifest_is_incomplete(tmp_path: Path):
    with pytest.raises(Incomplete, match=r"has no manifest\.json"):
        files.read_manifest(tmp_path)
    with pytest.raises(NotFound, match="no such folder"):
        files.read_manifest(tmp_path / "nowhere")


def test_a_damaged_manifest_and_a_wrong_kind_are_told_apart(artefact: Path):
    with pytest.raises(Unsupported, match="is a thing; give the folder of a suite"):
        files.read_manifest(artefact, "suite")
    (artefact / files.MANIFEST).write_bytes(b'{"kind": ')
    with pytest.raises(Corrupt, match="is not a manifest"):
        files.read_manifest(artefact)


def in_format(version: int, place: Place) -> None:
    """Write a manifest as another format has it: of the first, before BLAKE3, in full."""
    tree = json.loads(b"".join((place / files.MANIFEST).pieces()))
    del tree["checksum"]
    tree["format_version"] = version
    tree["files"] = {name: {"size_bytes": 10, "sha256": "0" * 64} for name in tree["files"]}
    files.write_json(place / files.MANIFEST, {**tree, "checksum": digest_of(tree)})


@pytest.mark.parametrize(
    ("version", "remedy"),
    [(1, "delete it and run the stage that wrote it again, or use an"), (99, "upgrade panscope")],
)
@pytest.mark.parametrize("where", ["", "memory://another-format"])
def test_another_format_is_refused_and_not_called_damaged(
    tmp_path: Path, where: str, version: int, remedy: str
):
    place = Place.of(where or tmp_path)
    files.seal_records(place, "thing", {}, {}, {}, {"a": files.FileRecord(size_bytes=1, blake3="")})
    in_format(version, place)
    said = re.escape(f"{place}: has format {version}, this panscope reads 2; {remedy}")
    for read in (files.read_manifest, lambda place: files.made(place, "thing", {}, {})):
        with pytest.raises(Unsupported, match=said):
            read(place)
    (problem,) = files.verify(place)
    assert isinstance(problem, Unsupported)


def test_a_changed_fact_is_found(artefact: Path):
    path = artefact / files.MANIFEST
    path.write_text(path.read_text().replace('"n": 3', '"n": 4'))
    with pytest.raises(Corrupt, match="does not match its own checksum"):
        files.read_manifest(artefact)
    assert len(files.verify(artefact)) == 1


def test_an_unwritable_folder_is_said(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(PanscopeError, match="could not be written"):
        files.write_json(tmp_path / "file" / "a.json", 1)


def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path: Path):
    path = tmp_path / "a.json"
    files.write_json(path, 1)
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path: Path):
    with (
        pytest.raises(PanscopeError, match="could not be written"),
        files.replacing(tmp_path / "a.bin") as temporary,
    ):
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_and_temporaries_are_no_part_of_an_artefact(tmp_path: Path):
    (tmp_path / ".checkpoint").write_bytes(b"x")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "y").write_bytes(b"y")
    assert files.visible_files(tmp_path) == []


def test_facts_change_and_the_rest_stays(artefact: Path):
    before = files.read_manifest(artefact)
    after = files.with_facts(artefact, {"n": 4})
    assert after.facts == {"n": 4}
    assert (after.digest, after.files) == (before.digest, before.files)
    assert files.verify(artefact) == []
