"""What is written as columns reads as the same features as what is written one by one."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from tests.atlas.one_by_one import write_features

from panscope.atlas.columns import (
    BandColumns,
    Best,
    CompanionColumns,
    ElsewhereColumns,
    ExampleColumns,
    FeatureColumns,
    write_columns,
)
from panscope.atlas.features import features_file
from panscope.atlas.records import Band, Elsewhere, Example, Feature

FEATURES = [
    Feature(
        index=0,
        count=4,
        density=4 / 1e9,
        max=1.25,
        mean=0.875,
        histogram=(3, 0, 1),
        top_tokens=(2, 1),
        top_logits=(1.5, 0.5),
        bottom_tokens=(0, 4),
        bottom_logits=(-2.0, -1.0),
        neighbours=(1,),
        neighbour_cosines=(0.5,),
        bands=(Band(0.75, 1.5, 0.25), Band(0.0, 0.75, 0.75)),
        examples=(Example(-1, 7, 2, (1, 2), (0.5, 1.25)), Example(1, 9, 0, (0,), (0.5,))),
        std=0.25,
        companions=(2, 1),
        companion_jaccards=(0.5, 0.25),
        companion_correlations=(0.75, -0.5),
        encoder_neighbours=(2,),
        encoder_neighbour_cosines=(0.5,),
        elsewhere=(Elsewhere("a/other", 5, 0.75), Elsewhere("a/rows", 0, 0.5)),
        kind_counts=(3, 1),
        logit_histogram=(0, 5),
        x=0.5,
        y=0.25,
        head_shares=(0.25, 0.75),
    ),
    Feature(1, 0, 0.0, 0.0, 0.0, (0, 0, 0), (3, 0), (1.0, 0.5), (2, 1), (-1.0, -0.5), (0,), (0.5,)
        , (), (), 0.0, (), (), (), (2,), (0.25,), (Elsewhere("a/rows", 1, 0.5),
        Elsewhere("a/rows", 2, 0.25)), (0, 0), (4, 1), 0.0, 1.0, (0.0, 0.0)),
    Feature(2, 1, 1e-9, 0.5, 0.5, (1, 0, 0), (3, 0), (1.0, 0.5), (2, 1), (-1.0, -0.5), (0,), (0.25,)
        , (Band(0.0, 0.75, 1.0),), (Example(0, 3, 5, (5, 6, 8), (0.5, 0.25, 0.125)),), 0.0, (0,),
        (0.5,), (0.75,), (0,), (0.5,), (Elsewhere("a/rows", 1, 0.5),
        Elsewhere("a/other", 2, 0.25)), (1, 0), (2, 3), -1.5, 2.0, (1.0, 0.0)),
]  # fmt: skip

COLUMNS = FeatureColumns(
    count=np.array([4, 0, 1]),
    density=np.array([4 / 1e9, 0, 1e-9]),
    max=np.array([1.25, 0, 0.5], dtype=np.float32),
    mean=np.array([0.875, 0, 0.5]),
    std=np.array([0.25, 0.0, 0.0]),
    x=np.array([0.5, 0.0, -1.5]),
    y=np.array([0.25, 1.0, 2.0]),
    head_shares=np.array([[0.25, 0.75], [0.0, 0.0], [1.0, 0.0]]),
    histogram=np.array([[3, 0, 1], [0, 0, 0], [1, 0, 0]]),
    kind_counts=np.array([[3, 1], [0, 0], [1, 0]]),
    logit_histogram=np.array([[0, 5], [4, 1], [2, 3]]),
    encoder_near=Best(np.array([[2], [2], [0]]), np.array([[0.5], [0.25], [0.5]])),
    elsewhere=ElsewhereColumns(
        names=("a/other", "a/rows"),
        saes=np.array([[0, 1], [1, 1], [1, 0]]),
        near=Best(
            np.array([[5, 0], [1, 2], [1, 2]]), np.array([[0.75, 0.5], [0.5, 0.25], [0.5, 0.25]])
        ),
    ),
    companions=CompanionColumns(
        counts=np.array([2, 0, 1]),
        ids=np.array([2, 1, 0]),
        jaccards=np.array([0.5, 0.25, 0.5]),
        correlations=np.array([0.75, -0.5, 0.75]),
    ),
    top=Best(np.array([[2, 1], [3, 0], [3, 0]]), np.array([[1.5, 0.5], [1.0, 0.5], [1.0, 0.5]])),
    bottom=Best(
        np.array([[0, 4], [2, 1], [2, 1]]), np.array([[-2.0, -1.0], [-1.0, -0.5], [-1.0, -0.5]])
    ),
    near=Best(np.array([[1], [0], [0]]), np.array([[0.5], [0.5], [0.25]])),
    bands=BandColumns(
        counts=np.array([2, 0, 1]),
        low=np.array([0.75, 0.0, 0.0]),
        high=np.array([1.5, 0.75, 0.75]),
        share=np.array([0.25, 0.75, 1.0]),
    ),
    examples=ExampleColumns(
        counts=np.array([2, 0, 1]),
        band=np.array([-1, 1, 0]),
        context=np.array([7, 9, 3]),
        peak=np.array([2, 0, 5]),
        lengths=np.array([2, 1, 3]),
        positions=np.array([1, 2, 0, 5, 6, 8]),
        values=np.array([0.5, 1.25, 0.5, 0.5, 0.25, 0.125], dtype=np.float16),
    ),
)


def test_columns_are_the_features_written_one_by_one(tmp_path: Path) -> None:
    write_columns(tmp_path, "a/columns", COLUMNS)
    write_features(tmp_path, "a/rows", FEATURES)
    by_column, by_row = (
        pq.read_table(tmp_path / features_file(name)) for name in ("a/columns", "a/rows")
    )
    assert by_column.schema == by_row.schema
    assert by_column.to_pylist() == by_row.to_pylist()
