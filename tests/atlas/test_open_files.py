"""Few files of an atlas are open at a time, and none is read that was not checked as it is."""

from pathlib import Path

import pytest
from tests.web.fixture_run import build_atlas

from panscope.atlas import features
from panscope.atlas.features import Atlas, features_file
from panscope.errors import Corrupt

SAES = [f"resid_post.{layer}/w64_l0_30_s0" for layer in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("many")
    build_atlas(run, SAES, 64)
    return run / "atlas"


@pytest.fixture
def _few_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = Atlas(folder)
    for sae in SAES:
        atlas.feature(sae, 3)
    monkeypatch.setattr(features, "OPEN_BYTES", atlas._files.bytes // 2)


@pytest.mark.usefixtures("_few_open")
def test_few_files_are_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    monkeypatch.setattr(
        features,
        "checked",
        lambda folder, manifest, name: checked.append(name) or folder / name,
    )
    atlas = Atlas(folder)
    read = [atlas.feature(sae, 3) for sae in SAES]
    assert [atlas.feature(sae, 3) for sae in SAES] == read
    assert [features_file(sae) in atlas._files for sae in SAES] == [False, False, True, True]
    assert checked == [features_file(sae) for sae in SAES]  # once each, opened twice


@pytest.mark.usefixtures("_few_open")
def test_a_file_that_changes_behind_its_back_is_found(folder: Path) -> None:
    atlas = Atlas(folder)
    for sae in SAES:
        atlas.feature(sae, 3)
    path = folder / features_file(SAES[0])
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(Corrupt, match="blake3 is"):
        atlas.feature(SAES[0], 3)
    path.unlink()
    with pytest.raises(Corrupt, match="is missing"):
        atlas.feature(SAES[0], 3)
    path.write_bytes(whole)
    assert atlas.feature(SAES[0], 3).index == 3
