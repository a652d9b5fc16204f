"""Features written one by one, as `records` has them: what written columns are compared with."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from panscope.atlas.features import FEATURE_SCHEMA, features_file, write_table
from panscope.atlas.records import Band, Elsewhere, Example, Feature


def write_features(atlas: Path, sae: str, features: Iterable[Feature]) -> None:
    """Write one Sae's features, in index order."""
    table = pa.Table.from_pylist([_row(feature) for feature in features], schema=FEATURE_SCHEMA)
    write_table(atlas / features_file(sae), table)


def _row(feature: Feature) -> dict[str, Any]:
    """Lay a feature out as a row, its bands, examples and likes as structs."""
    lists = ("bands", "examples", "elsewhere")
    return _fields(feature) | {n: list(map(_fields, getattr(feature, n))) for n in lists}


def _fields(record: Feature | Band | Example | Elsewhere) -> dict[str, Any]:
    """Return a record's fields as they are (dataclasses.asdict copies each number: 20 x slower)."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__}
