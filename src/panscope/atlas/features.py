"""The files of an Atlas: one Parquet of features a Sae, one of contexts, the tokenizer's pieces.

    atlas/
      manifest.json                  facts: `saes` (SaeRecord as objects), the model, the text
      features/<site>/<name>.parquet one row a feature, columns as in `records.Feature`
      contexts.parquet               one row a context that some example refers to
      pieces.json                    how each token id is shown

Row groups are small, so that one feature is read without reading its neighbours.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from panscope.atlas.records import Band, Context, Example, Feature, SaeRecord
from panscope.errors import NotFound, nearest
from panscope.files import Manifest, checked, read_manifest, replacing, write_json

ROWS_PER_GROUP = 64
FILES = ("features/*/*.parquet", "contexts.parquet", "pieces.json")

_INTS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())
_BAND = pa.struct([("low", pa.float32()), ("high", pa.float32()), ("share", pa.float32())])
_EXAMPLE = pa.struct(
    [
        ("band", pa.int8()),
        ("context", pa.int32()),
        ("peak", pa.int32()),
        ("positions", _INTS),
        ("values", _FLOATS),
    ]
)
FEATURE_SCHEMA = pa.schema(
    [
        ("index", pa.int32()),
        ("count", pa.int64()),
        ("density", pa.float64()),
        ("max", pa.float32()),
        ("mean", pa.float32()),
        ("histogram", pa.list_(pa.int64())),
        ("top_tokens", _INTS),
        ("top_logits", _FLOATS),
        ("bottom_tokens", _INTS),
        ("bottom_logits", _FLOATS),
        ("neighbours", _INTS),
        ("neighbour_cosines", _FLOATS),
        ("bands", pa.list_(_BAND)),
        ("examples", pa.list_(_EXAMPLE)),
    ]
)
CONTEXT_SCHEMA = pa.schema(
    [("context", pa.int32()), ("tokens", _INTS), ("documents", _INTS), ("kind", pa.string())]
)


def features_file(sae: str) -> str:
    """Name the Parquet file of a Sae's features, relative to the atlas."""
    return f"features/{sae}.parquet"


def write_features(atlas: Path, sae: str, features: Iterable[Feature]) -> None:
    """Write one Sae's features, in index order."""
    rows = [_row(feature) for feature in features]
    _write(atlas / features_file(sae), rows, FEATURE_SCHEMA)


def write_contexts(atlas: Path, contexts: Iterable[Context]) -> None:
    """Write the contexts that examples refer to, in order of their number."""
    _write(atlas / "contexts.parquet", [_fields(context) for context in contexts], CONTEXT_SCHEMA)


def write_pieces(atlas: Path, pieces: Sequence[str]) -> None:
    """Write how each token id is shown."""
    write_json(atlas / "pieces.json", list(pieces))


def _row(feature: Feature) -> dict[str, Any]:
    """Lay a feature out as a row, its bands and examples as structs."""
    bands, examples = map(_fields, feature.bands), map(_fields, feature.examples)
    return {**_fields(feature), "bands": list(bands), "examples": list(examples)}


def _fields(record: Feature | Band | Example | Context) -> dict[str, Any]:
    """Return a record's fields as they are (dataclasses.asdict copies each number: 20 x slower)."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    write_table(path, pa.Table.from_pylist(rows, schema=schema))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table in small row groups."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, row_group_size=ROWS_PER_GROUP, compression="zstd")


class Atlas:
    """An atlas opened for reading; every file is checked against its checksum before first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder, "atlas")
        self._files: dict[str, pq.ParquetFile] = {}

    @cached_property
    def saes(self) -> dict[str, SaeRecord]:
        """The Saes of the atlas by id, in the order of a forward pass."""
        rows = self.manifest.facts["saes"]
        return {r["sae"]: SaeRecord(**{**r, "bin_edges": tuple(r["bin_edges"])}) for r in rows}

    @cached_property
    def pieces(self) -> list[str]:
        """How each token id is shown."""
        path = checked(self.folder, self.manifest, "pieces.json")
        pieces: list[str] = json.loads(path.read_bytes())
        return pieces

    def sae(self, sae: str) -> SaeRecord:
        """Look a Sae up; NotFound names the nearest ids."""
        if sae not in self.saes:
            raise NotFound(f"atlas {self.folder}", f"no Sae {sae!r}", nearest(sae, self.saes))
        return self.saes[sae]

    def column(self, sae: str, *names: str) -> pa.Table:
        """Read whole columns of a Sae's features."""
        return self._parquet(features_file(self.sae(sae).sae)).read(columns=list(names))

    def feature(self, sae: str, index: int) -> Feature:
        """Read one feature; NotFound for an index outside the width."""
        record = self.sae(sae)
        if not 0 <= index < record.width:
            found = f"no feature {index}"
            raise NotFound(f"Sae {sae}", found, f"give an index from 0 to {record.width - 1}")
        group, offset = divmod(index, ROWS_PER_GROUP)
        # A group is small: to wait for a thread takes longer than to read it.
        table = self._parquet(features_file(sae)).read_row_group(group, use_threads=False)
        return _feature(table.slice(offset, 1).to_pylist()[0])

    @cached_property
    def contexts(self) -> dict[int, Context]:
        """All contexts by number."""
        rows = self._parquet("contexts.parquet").read().to_pylist()
        return {r["context"]: _context(r) for r in rows}

    def _parquet(self, name: str) -> pq.ParquetFile:
        if name not in self._files:
            self._files[name] = pq.ParquetFile(checked(self.folder, self.manifest, name))
        return self._files[name]


def _feature(row: dict[str, Any]) -> Feature:
    bands = tuple(Band(**band) for band in row.pop("bands"))
    examples = tuple(Example(**_tuples(example)) for example in row.pop("examples"))
    return Feature(**_tuples(row), bands=bands, examples=examples)


def _context(row: dict[str, Any]) -> Context:
    return Context(**_tuples(row))


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in row.items()}
