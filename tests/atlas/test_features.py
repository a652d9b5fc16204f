import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.atlas.one_by_one import write_features

import panscope.atlas.features as files
from panscope.atlas.features import (
    FEATURE_SCHEMA,
    Atlas,
    features_file,
    write_contexts,
    write_pieces,
)
from panscope.atlas.records import Band, Context, Example, Feature, SaeRecord
from panscope.errors import Corrupt, NotFound, Unsupported
from panscope.files import read_manifest, seal, verify

SAE = "embed/w130"
# Values that float32 holds exactly, so that what is read equals what was written.
EXAMPLE = Example(band=-1, context=7, peak=2, positions=(1, 2), values=(0.5, 1.25))
BANDS = (Band(0.75, 1.5, 0.25), Band(0.0, 0.75, 0.75))
FEATURE = Feature(
    index=0,
    count=4,
    density=4 / 1e9,
    max=1.25,
    mean=0.875,
    histogram=(3, 0, 1),
    top_tokens=(2, 1),
    top_logits=(1.5, 0.5),
    bottom_tokens=(0,),
    bottom_logits=(-2.0,),
    neighbours=(1, 129),
    neighbour_cosines=(0.5, -0.25),
    bands=BANDS,
    examples=(EXAMPLE, replace(EXAMPLE, band=1, peak=1)),
)
DEAD = replace(
    FEATURE, count=0, density=0.0, max=0.0, mean=0.0, histogram=(0, 0, 0), bands=(), examples=()
)
CONTEXT = Context(context=7, tokens=(0, 1, 2), documents=(3, 3, 4), kind="code")
RECORD = SaeRecord(SAE, "embed", 130, 10**9, 65, (0.5, 1.0, 2.0, 4.0))


def features() -> list[Feature]:
    return [replace(FEATURE if n % 2 == 0 else DEAD, index=n) for n in range(130)]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(files, "ROWS_PER_GROUP", 60)
    write_features(tmp_path, SAE, features())
    write_contexts(tmp_path, [CONTEXT])
    write_pieces(tmp_path, ["<bos>", " a", "\n"])
    record = {name: getattr(RECORD, name) for name in SaeRecord.__slots__}
    seal(tmp_path, "atlas", {"tokens": 9}, {"suite": "ab"}, {"saes": [record]})
    return tmp_path


def test_what_is_written_is_read(written: Path) -> None:
    atlas = Atlas(written)
    assert [atlas.feature(SAE, n) for n in range(130)] == features()
    assert atlas.contexts == {7: CONTEXT}
    assert atlas.pieces == ["<bos>", " a", "\n"]
    assert atlas.saes == {SAE: RECORD}
    assert atlas.manifest.inputs == {"suite": "ab"}


def test_an_atlas_of_an_earlier_version_is_read(written: Path) -> None:
    """One without the later columns and the later facts of its Saes, in groups of another size."""
    path = written / features_file(SAE)
    later = set(FEATURE_SCHEMA.names[FEATURE_SCHEMA.get_field_index("std") :])
    table = pq.read_table(path).drop_columns(sorted(later))
    pq.write_table(table, path, row_group_size=64, compression="zstd")
    record = {n: getattr(RECORD, n) for n in SaeRecord.__slots__ if n != "logit_bin_edges"}
    seal(written, "atlas", {"tokens": 9}, {"suite": "ab"}, {"saes": [record]})
    atlas = Atlas(written)
    assert [atlas.feature(SAE, n) for n in range(130)] == features()
    assert len(later) == 12
    assert atlas.sae(SAE).logit_bin_edges == ()


def test_columns_are_whole(written: Path) -> None:
    table = Atlas(written).column(SAE, "index", "density")
    assert table.column_names == ["index", "density"]
    assert table["index"].to_pylist() == list(range(130))


def test_row_groups_are_small(written: Path) -> None:
    file = pq.ParquetFile(written / features_file(SAE))
    assert file.metadata.num_row_groups == 3
    assert file.metadata.row_group(0).num_rows == 60


@pytest.mark.parametrize("index", [-1, 130])
def test_an_index_outside_the_width_is_not_found(written: Path, index: int) -> None:
    with pytest.raises(NotFound) as caught:
        Atlas(written).feature(SAE, index)
    assert str(caught.value) == (f"Sae {SAE}: no feature {index}; give an index from 0 to 129")


def test_a_wrong_sae_is_answered_with_the_nearest(written: Path) -> None:
    with pytest.raises(NotFound, match="did you mean embed/w130"):
        Atlas(written).feature("embed/w13", 0)


def test_another_kind_of_artefact_is_refused(written: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(written, tmp_path.parent / "other", dirs_exist_ok=True))
    seal(other, "suite", {}, {}, {})
    with pytest.raises(Unsupported, match="is a suite; give the folder of an atlas"):
        Atlas(other)


READS = {
    features_file(SAE): lambda atlas: atlas.feature(SAE, 0),
    "contexts.parquet": lambda atlas: atlas.contexts,
    "pieces.json": lambda atlas: atlas.pieces,
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_flipped_bit_is_found_and_named(written: Path, name: str, share: float) -> None:
    data = bytearray((written / name).read_bytes())
    data[int(share * len(data))] ^= 1
    (written / name).write_bytes(data)
    with pytest.raises(Corrupt, match=name):
        READS[name](Atlas(written))
    assert [name in str(problem) for problem in verify(written)] == [True]


@pytest.mark.parametrize("name", READS)
def test_a_truncated_file_is_found_and_named(written: Path, name: str) -> None:
    (written / name).write_bytes((written / name).read_bytes()[:-1])
    size = read_manifest(written).files[name].size_bytes
    with pytest.raises(Corrupt, match=f"has {size - 1} bytes, the manifest says {size}"):
        READS[name](Atlas(written))
