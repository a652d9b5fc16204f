"""A Sae's features as whole columns, on their way into the file that `features` reads.

The rows are those of `records.Feature`. A suite has hundreds of thousands of examples: as columns
they are written at the speed of Parquet, as objects at a tenth of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from panscope.atlas.features import FEATURE_SCHEMA, features_file, write_table

Numbers = NDArray[Any]
SINGLE = ("count", "density", "max", "mean", "std", "x", "y")


@dataclass(frozen=True, slots=True)
class Best:
    """The best few of each feature: what they are, and how they score; (features, k)."""

    ids: Numbers
    values: Numbers


@dataclass(frozen=True, slots=True)
class BandColumns:
    """The bands of all features, one after another; `counts` says how many each has."""

    counts: Numbers
    low: Numbers
    high: Numbers
    share: Numbers


@dataclass(frozen=True, slots=True)
class ExampleColumns:
    """The examples of all features, one after another; `counts` says how many each has.

    `positions` and `values` join those of all examples; `lengths` says how many each has.
    """

    counts: Numbers
    band: Numbers
    context: Numbers
    peak: Numbers
    lengths: Numbers
    positions: Numbers
    values: Numbers


@dataclass(frozen=True, slots=True)
class CompanionColumns:
    """The companions of all features, one after another; `counts` says how many each has."""

    counts: Numbers
    ids: Numbers
    jaccards: Numbers
    correlations: Numbers


@dataclass(frozen=True, slots=True)
class ElsewhereColumns:
    """The nearest features in other Saes, each `saes` numbering one of `names`; (features, k)."""

    names: Sequence[str]
    saes: Numbers
    near: Best


@dataclass(frozen=True, slots=True)
class FeatureColumns:
    """The fields of `records.Feature`, for all features in index order."""

    count: Numbers
    density: Numbers
    max: Numbers
    mean: Numbers
    std: Numbers
    histogram: Numbers
    kind_counts: Numbers
    top: Best
    bottom: Best
    logit_histogram: Numbers
    near: Best
    encoder_near: Best
    elsewhere: ElsewhereColumns
    companions: CompanionColumns
    x: Numbers
    y: Numbers
    head_shares: Numbers
    bands: BandColumns
    examples: ExampleColumns


def write_columns(atlas: Path, sae: str, columns: FeatureColumns) -> None:
    """Write all of one Sae's features."""
    by_name = (
        _flat(columns)
        | _companions(columns.companions)
        | {
            "elsewhere": _elsewhere(columns.elsewhere),
            "bands": _structs("bands", columns.bands.counts, _bands(columns.bands)),
            "examples": _structs("examples", columns.examples.counts, _examples(columns.examples)),
        }
    )
    arrays = [by_name[field.name] for field in FEATURE_SCHEMA]
    write_table(atlas / features_file(sae), pa.Table.from_arrays(arrays, schema=FEATURE_SCHEMA))


def _flat(columns: FeatureColumns) -> dict[str, pa.Array]:
    """Return the columns of numbers and of lists of numbers."""
    numbers = {name: getattr(columns, name) for name in SINGLE}
    numbers["index"] = np.arange(len(columns.count))
    lists = {
        "histogram": columns.histogram,
        "kind_counts": columns.kind_counts,
        "logit_histogram": columns.logit_histogram,
        "top_tokens": columns.top.ids,
        "top_logits": columns.top.values,
        "bottom_tokens": columns.bottom.ids,
        "bottom_logits": columns.bottom.values,
        "neighbours": columns.near.ids,
        "neighbour_cosines": columns.near.values,
        "encoder_neighbours": columns.encoder_near.ids,
        "encoder_neighbour_cosines": columns.encoder_near.values,
        "head_shares": columns.head_shares,
    }
    plain = {name: _array(FEATURE_SCHEMA.field(name).type, v) for name, v in numbers.items()}
    return plain | {name: _even_lists(name, values) for name, values in lists.items()}


def _companions(companions: CompanionColumns) -> dict[str, pa.Array]:
    lists = {
        "companions": companions.ids,
        "companion_jaccards": companions.jaccards,
        "companion_correlations": companions.correlations,
    }
    kinds = {name: FEATURE_SCHEMA.field(name).type for name in lists}
    return {name: _lists(kinds[name], companions.counts, v) for name, v in lists.items()}


def _elsewhere(elsewhere: ElsewhereColumns) -> pa.ListArray:
    near = elsewhere.near
    names = np.array([*elsewhere.names, ""], dtype=object)  # of a lone Sae there are none
    fields = {
        "sae": names[elsewhere.saes.reshape(-1)],
        "index": near.ids.reshape(-1),
        "cosine": near.values.reshape(-1),
    }
    return _structs("elsewhere", np.full(len(near.ids), near.ids.shape[1]), fields)


def _bands(bands: BandColumns) -> dict[str, Numbers]:
    return {name: getattr(bands, name) for name in ("low", "high", "share")}


def _examples(examples: ExampleColumns) -> dict[str, Any]:
    numbers = {name: getattr(examples, name) for name in ("band", "context", "peak")}
    lists = {name: (examples.lengths, getattr(examples, name)) for name in ("positions", "values")}
    return numbers | lists


def _structs(name: str, counts: Numbers, fields: dict[str, Any]) -> pa.ListArray:
    """Return lists of structs; a field is an array of numbers, or lists as counts and items."""
    struct = FEATURE_SCHEMA.field(name).type.value_type
    arrays = []
    for field in struct:
        found = fields[field.name]
        is_list = isinstance(found, tuple)
        arrays.append(_lists(field.type, *found) if is_list else _array(field.type, found))
    return pa.ListArray.from_arrays(
        _offsets(counts), pa.StructArray.from_arrays(arrays, fields=list(struct))
    )


def _even_lists(name: str, values: Numbers) -> pa.ListArray:
    """Return a matrix as lists of one length."""
    counts = np.full(len(values), values.shape[1])
    return _lists(FEATURE_SCHEMA.field(name).type, counts, values.reshape(-1))


def _lists(kind: pa.ListType, counts: Numbers, items: Numbers) -> pa.ListArray:
    return pa.ListArray.from_arrays(_offsets(counts), _array(kind.value_type, items))


def _offsets(counts: Numbers) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())


def _array(kind: pa.DataType, numbers: Numbers) -> pa.Array:
    return pa.array(numbers.astype(kind.to_pandas_dtype()), kind)
