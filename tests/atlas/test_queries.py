import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.web.fixture_run import PIECES

from panscope.atlas.features import Atlas, write_contexts
from panscope.atlas.queries import (
    Catalogue,
    Query,
    density_histogram,
    random_alive,
    step,
)
from panscope.atlas.records import Feature
from panscope.atlas.short import Columns
from panscope.errors import Corrupt
from panscope.files import seal

SAE = "resid_post.0/w64_l0_30_s0"


@pytest.fixture(scope="module")
def catalogue(atlas_folder: Path) -> Catalogue:
    return Catalogue(Atlas(atlas_folder))


queries = st.builds(
    Query,
    sort=st.sampled_from(["index", "density", "max", "mean"]),
    descending=st.booleans(),
    text=st.sampled_from(["", "the", " Ja", "·JA", "é", "zzz", "\n"]),
    low=st.sampled_from([0.0, 1e-5, 0.05]),
    high=st.sampled_from([1.0, 0.06, 1e-5]),
    alive=st.booleans(),
)


@pytest.fixture(scope="module")
def features(catalogue: Catalogue) -> list[Feature]:
    return [catalogue.atlas.feature(SAE, index) for index in range(64)]


@settings(max_examples=60, deadline=None)
@given(query=queries)
def test_select_equals_its_definition(
    catalogue: Catalogue, features: list[Feature], query: Query
) -> None:
    columns = catalogue.columns(SAE)
    wanted = query.text.replace("·", " ").casefold()

    def answers(feature: Feature) -> bool:
        tokens = (*feature.top_tokens, *columns.row(feature.index).peak_tokens)
        return (
            query.low <= feature.density <= query.high
            and (feature.count > 0 or not query.alive)
            and (not wanted or any(wanted in PIECES[token].casefold() for token in tokens))
        )

    found = [feature for feature in features if answers(feature)]
    sign = -1 if query.descending else 1
    found.sort(key=lambda feature: (sign * getattr(feature, query.sort), feature.index))
    assert catalogue.select(SAE, query).tolist() == [feature.index for feature in found]


@settings(max_examples=30, deadline=None)
@given(query=queries, offset=st.integers(0, 70), limit=st.integers(1, 70))
def test_pages_are_windows(catalogue: Catalogue, query: Query, offset: int, limit: int) -> None:
    found = catalogue.select(SAE, query).tolist()
    page = catalogue.page(SAE, query, offset, limit)
    assert page.total == len(found)
    assert [row.index for row in page.rows] == found[offset : offset + limit]


def test_peak_tokens_are_those_of_the_strongest_contexts(catalogue: Catalogue) -> None:
    for index in (0, 5, 20):
        feature = catalogue.atlas.feature(SAE, index)
        strongest = [example for example in feature.examples if example.band == -1]
        tokens = [catalogue.atlas.contexts[e.context].tokens[e.peak] for e in strongest]
        expected = tuple(dict.fromkeys(tokens))[:5]
        assert catalogue.columns(SAE).row(index).peak_tokens == expected


def test_contexts_equal_the_atlas(catalogue: Catalogue) -> None:
    for number, context in catalogue.atlas.contexts.items():
        assert catalogue.contexts.get(number) == context
    assert catalogue.contexts.longest == 64
    kinds = [context.kind for context in catalogue.contexts.one_of_each_kind()]
    assert kinds == ["French", "code", "fiction", "news"]


def test_a_feature_is_whole(catalogue: Catalogue) -> None:
    view = catalogue.feature(SAE, 6)
    numbers = {example.context for example in view.feature.examples}
    assert {context.context for context in view.contexts} == numbers
    assert (view.previous, view.next) == (4, 7)  # 5 is dead
    assert [row.index for row in view.neighbours] == list(view.feature.neighbours)
    used = {token for context in view.contexts for token in context.tokens}
    assert used <= set(view.pieces)


def test_a_missing_context_is_named(atlas_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(atlas_folder, tmp_path / "atlas"))
    atlas = Atlas(folder)
    kept = [context for number, context in atlas.contexts.items() if number != 3]
    write_contexts(folder, kept)
    seal(folder, "atlas", {}, {}, atlas.manifest.facts)
    with pytest.raises(Corrupt, match="has no context 3, to which an example refers"):
        Catalogue(Atlas(folder)).columns(SAE)


def columns_of(densities: list[float]) -> Columns:
    zeros = np.zeros(len(densities), np.float32)
    none = np.full((len(densities), 1), -1)
    return Columns(np.array(densities), zeros, zeros, none, none)


@given(st.lists(st.sampled_from([0.0, 1e-9, 1e-4, 0.02, 1.0]), min_size=1, max_size=40))
def test_the_histogram_counts_every_feature(densities: list[float]) -> None:
    histogram = density_histogram(columns_of(densities))
    assert sum(histogram.counts) + histogram.n_dead == len(densities)
    assert len(histogram.edges) == len(histogram.counts) + 1
    assert histogram.edges[-1] == 0


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.data())
def test_steps_lead_along_the_alive(alive: list[bool], data: st.DataObject) -> None:
    columns = columns_of([0.1 * value for value in alive])
    index = data.draw(st.integers(0, len(alive) - 1))
    after = [n for n in range(index + 1, len(alive)) if alive[n]]
    before = [n for n in range(index) if alive[n]]
    assert step(columns, index, 1) == (after[0] if after else None)
    assert step(columns, index, -1) == (before[-1] if before else None)
    chosen = random_alive(columns, np.random.default_rng(0))
    assert alive[chosen] or not any(alive)
