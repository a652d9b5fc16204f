import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.web.fixture_run import PIECES

from panscope.atlas.alive import density_histogram, random_alive, step
from panscope.atlas.contexts import Contexts
from panscope.atlas.features import Atlas, features_file, write_contexts
from panscope.atlas.queries import Catalogue, Query
from panscope.atlas.records import Context, Feature
from panscope.atlas.short import Columns
from panscope.errors import Corrupt, Unsupported
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


@settings(max_examples=30, deadline=None)
@given(query=queries, offset=st.integers(0, 200), limit=st.integers(1, 70))
def test_across_saes_is_their_features_in_one_order(
    catalogue: Catalogue, query: Query, offset: int, limit: int
) -> None:
    saes = list(catalogue.atlas.saes)
    hits = [(sae, index) for sae in saes for index in catalogue.select(sae, query).tolist()]
    if query.sort != "index":
        sign = -1 if query.descending else 1
        hits.sort(key=lambda hit: sign * getattr(catalogue.columns(hit[0]), query.sort)[hit[1]])
    total, window = catalogue.across(saes, query, offset, limit)
    assert (total, window) == (len(hits), hits[offset : offset + limit])
    even = {sae: np.arange(0, 66, 2) for sae in saes}
    _, kept = catalogue.across(saes, query, 0, 500, even)
    assert kept == [hit for hit in hits if hit[1] % 2 == 0]


def test_a_row_is_the_same_read_alone(atlas_folder: Path) -> None:
    catalogue, alone = Catalogue(Atlas(atlas_folder)), Catalogue(Atlas(atlas_folder))
    columns = catalogue.columns(SAE)
    for index in (0, 5, 63):
        assert alone.row(SAE, index) == columns.row(index) == catalogue.row(SAE, index)


def test_a_box_on_the_map_holds_what_is_inside(catalogue: Catalogue) -> None:
    place = catalogue.place(SAE)
    assert place.shape == (64, 2)
    query = Query(sort="index", alive=False, left=-1.0, right=0.5, bottom=0.0, descending=False)
    inside = [n for n, (x, y) in enumerate(place.tolist()) if -1 <= x <= 0.5 and y >= 0]
    assert catalogue.select(SAE, query).tolist() == inside
    assert 0 < len(inside) < 64


def test_an_atlas_without_maps_says_so(atlas_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(atlas_folder, tmp_path / "atlas"))
    path = folder / features_file(SAE)
    pq.write_table(pq.read_table(path).drop_columns(["x", "y"]), path, row_group_size=64)
    seal(folder, "atlas", {}, {}, Atlas(folder).manifest.facts)
    catalogue = Catalogue(Atlas(folder))
    assert not catalogue.has_place(SAE)
    assert catalogue.select(SAE, Query()).size > 0
    with pytest.raises(Unsupported, match="has no map in this atlas; run describe again"):
        catalogue.select(SAE, Query(left=0.0))


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
    none = np.full((len(densities), 1), -1, np.int32)
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


def test_packed_contexts_are_those_of_the_file(tmp_path: Path) -> None:
    """Ids of two and of four bytes, documents that end within and with a context, several packs."""
    rows = [
        Context(2, (0, 65_535, 3), (7, 7, 8), "prose"),
        Context(5, (0, 1), (8, 8), "code"),
        *(Context(n, (0, 70_000, n), (n, n, n + 1), "prose") for n in range(6, 5_000)),
    ]
    write_contexts(tmp_path, rows)
    seal(tmp_path, "atlas", {}, {}, {"saes": []})
    contexts = Contexts(Atlas(tmp_path))
    assert contexts.some([row.context for row in rows]) == tuple(rows)
    assert contexts.one_of_each_kind() == (rows[1], rows[0])
    assert contexts.longest == 3
    assert contexts.tokens_at(np.array([4_999, 2]), np.array([1, 1])).tolist() == [70_000, 65_535]


def test_an_atlas_may_be_without_contexts(tmp_path: Path) -> None:
    write_contexts(tmp_path, [])
    seal(tmp_path, "atlas", {}, {}, {"saes": []})
    contexts = Contexts(Atlas(tmp_path))
    assert contexts.some([]) == contexts.one_of_each_kind() == ()
    assert contexts.longest == 0
    with pytest.raises(Corrupt, match="has no context 3"):
        contexts.get(3)
