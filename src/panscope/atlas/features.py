"""The files of an Atlas: one Parquet of features a Sae, one of contexts, the tokenizer's pieces.

    atlas/
      manifest.json                  facts: `saes` (SaeRecord as objects), the model, the text
      features/<site>/<name>.parquet one row a feature, columns as in `records.Feature`
      contexts.parquet               one row a context that some example refers to
      pieces.json                    how each token id is shown

Row groups are small, so that one feature is read without the rest of its Sae. Of 64 rows, with
zstd and dictionaries as Parquet has them by default, a group took 1.8 ms, and a reader's index 420
bytes a row; of 256 rows, with LZ4 alone, 1.5 ms and 105 bytes.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from panscope.atlas.records import Band, Context, Elsewhere, Example, Feature, SaeRecord
from panscope.errors import NotFound, nearest
from panscope.files import Manifest, checked, read_manifest, replacing, write_json
from panscope.kept import Kept, marks

ROWS_PER_GROUP = 256
OPEN_BYTES = 12 << 20  # of the files' indices as stored, ten times that in memory: 1.2 M features
FILES = ("features/*/*.parquet", "contexts.parquet", "pieces.json")

_INTS, _FLOATS, _COUNTS = (pa.list_(t) for t in (pa.int32(), pa.float32(), pa.int64()))
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
_ELSEWHERE = pa.struct([("sae", pa.string()), ("index", pa.int32()), ("cosine", pa.float32())])
FEATURE_SCHEMA = pa.schema(
    [
        ("index", pa.int32()),
        ("count", pa.int64()),
        ("density", pa.float64()),
        ("max", pa.float32()),
        ("mean", pa.float32()),
        ("histogram", _COUNTS),
        ("top_tokens", _INTS),
        ("top_logits", _FLOATS),
        ("bottom_tokens", _INTS),
        ("bottom_logits", _FLOATS),
        ("neighbours", _INTS),
        ("neighbour_cosines", _FLOATS),
        ("bands", pa.list_(_BAND)),
        ("examples", pa.list_(_EXAMPLE)),
        ("std", pa.float32()),
        ("companions", _INTS),
        ("companion_jaccards", _FLOATS),
        ("companion_correlations", _FLOATS),
        ("encoder_neighbours", _INTS),
        ("encoder_neighbour_cosines", _FLOATS),
        ("elsewhere", pa.list_(_ELSEWHERE)),
        ("kind_counts", _COUNTS),
        ("logit_histogram", _COUNTS),
        ("x", pa.float32()),
        ("y", pa.float32()),
        ("head_shares", _FLOATS),
    ]
)
_RECORDS: dict[str, type[Band | Example | Elsewhere]] = {
    "bands": Band,
    "examples": Example,
    "elsewhere": Elsewhere,
}
CONTEXT_SCHEMA = pa.schema(
    [("context", pa.int32()), ("tokens", _INTS), ("documents", _INTS), ("kind", pa.string())]
)


def features_file(sae: str) -> str:
    """Name the Parquet file of a Sae's features, relative to the atlas."""
    return f"features/{sae}.parquet"


def write_contexts(atlas: Path, contexts: Iterable[Context]) -> None:
    """Write the contexts that examples refer to, in order of their number."""
    names = CONTEXT_SCHEMA.names
    rows = [{name: getattr(context, name) for name in names} for context in contexts]
    write_table(atlas / "contexts.parquet", pa.Table.from_pylist(rows, schema=CONTEXT_SCHEMA))


def write_pieces(atlas: Path, pieces: Sequence[str]) -> None:
    """Write how each token id is shown."""
    write_json(atlas / "pieces.json", list(pieces))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table in small row groups, in which dictionaries and statistics only take room."""
    with replacing(path) as temporary:
        pq.write_table(
            table,
            temporary,
            row_group_size=ROWS_PER_GROUP,
            compression="lz4",
            use_dictionary=False,
            write_statistics=False,
        )


class Atlas:
    """An atlas opened for reading; every file is checked against its checksum before first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder, "atlas")
        self._files = Kept[pq.ParquetFile](OPEN_BYTES, lambda f: int(f.metadata.serialized_size))
        self._seen: dict[str, tuple[int, ...]] = {}

    @cached_property
    def saes(self) -> dict[str, SaeRecord]:
        """The Saes of the atlas by id, in the order of a forward pass."""
        rows = self.manifest.facts["saes"]
        return {row["sae"]: SaeRecord(**_tuples(row)) for row in rows}

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
        name = features_file(self.sae(sae).sae)
        # By a reader of its own, since a reader keeps the bytes of the columns it has read.
        known = self._parquet(name).metadata
        with pq.ParquetFile(self._checked(name), metadata=known) as file:
            return file.read(columns=list(names))

    def group_of(self, sae: str, index: int, *names: str) -> tuple[pa.Table, int]:
        """Read the row group of a feature, all columns or some; return the feature's row in it."""
        self.check(sae, index)
        file = self._parquet(features_file(sae))
        group, row = divmod(index, file.metadata.row_group(0).num_rows)
        # A group is small: to wait for a thread takes longer than to read it.
        return file.read_row_group(group, columns=list(names) or None, use_threads=False), row

    def has_column(self, sae: str, name: str) -> bool:
        """Whether a Sae's features have a column: older atlases have fewer."""
        return name in self._parquet(features_file(self.sae(sae).sae)).schema_arrow.names

    def check(self, sae: str, index: int) -> None:
        """Raise NotFound for a Sae that is not here, or an index outside its width."""
        record = self.sae(sae)
        if not 0 <= index < record.width:
            found = f"no feature {index}"
            raise NotFound(f"Sae {sae}", found, f"give an index from 0 to {record.width - 1}")

    def feature(self, sae: str, index: int) -> Feature:
        """Read one feature; NotFound as from `check`."""
        table, row = self.group_of(sae, index)
        return _feature(table.slice(row, 1).to_pylist()[0])

    def features(self, sae: str, indices: Iterable[int]) -> Iterator[Feature]:
        """Read some features of a Sae, each row group once where indices go up."""
        first, table = 0, None
        for index in indices:
            if table is None or not first <= index < first + table.num_rows:
                table, row = self.group_of(sae, index)
                first = index - row
            yield _feature(table.slice(index - first, 1).to_pylist()[0])

    @cached_property
    def contexts(self) -> dict[int, Context]:
        """All contexts by number."""
        rows = self._parquet("contexts.parquet").read().to_pylist()
        return {r["context"]: _context(r) for r in rows}

    def _parquet(self, name: str) -> pq.ParquetFile:
        """A file's reader, with the places of its row groups."""
        return self._files.get(name, lambda: pq.ParquetFile(self._checked(name)))

    def _checked(self, name: str) -> Path:
        """Check a file's bytes, again only if it is not the one that was checked."""
        path = self.folder / name
        if not path.is_file() or self._seen.get(name) != marks(path):
            checked(self.folder, self.manifest, name)
            self._seen[name] = marks(path)
        return path


def _feature(row: dict[str, Any]) -> Feature:
    """Make a feature of a row, which in an atlas of an earlier version has fewer fields."""
    structs = {
        name: tuple(record(**_tuples(struct)) for struct in row[name] or ())
        for name, record in _RECORDS.items()
        if name in row
    }
    return Feature(**{**_tuples(row), **structs})


def _context(row: dict[str, Any]) -> Context:
    return Context(**_tuples(row))


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in row.items()}
