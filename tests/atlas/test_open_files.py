"""Few files of an atlas are open at a time, and none is read that was not checked as it is."""

from pathlib import Path

import pytest
from tests.web.fixture_run import build_atlas

from panscope.atlas.features import N_OPEN, Atlas, features_file
from panscope.errors import Corrupt

SAES = [f"resid_post.{layer}/w64_l0_30_s0" for layer in range(N_OPEN + 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("many")
    build_atlas(run, SAES, 64)
    return run / "atlas"


def test_few_files_are_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    monkeypatch.setattr(
        "panscope.atlas.features.checked",
        lambda folder, manifest, name: checked.append(name) or folder / name,
    )
    atlas = Atlas(folder)
    read = [atlas.feature(sae, 3) for sae in SAES]
    assert [atlas.feature(sae, 3) for sae in SAES] == read
    assert len(atlas._files) == N_OPEN
    assert checked == [features_file(sae) for sae in SAES]  # once each, opened twice


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
