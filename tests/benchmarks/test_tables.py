"""Quality tables: intervals, and frontiers read at equal L0."""

import pytest
import quality_tables as tables


def test_an_interval_is_students():
    mean, half = tables.interval([1.0, 2.0, 3.0])
    assert (mean, half) == (2, pytest.approx(4.303 / 3**0.5))
    assert tables.cell([2.0]) == "2.000"


def test_a_frontier_is_read_along_straight_lines_of_logarithms():
    l0 = [32.0, 8.0, 16.0]
    frontier = l0, [x**-0.5 for x in l0]
    for at in (6.0, 8.0, 11.0, 32.0, 50.0):
        assert tables.fvu_at(frontier, at) == pytest.approx(at**-0.5)


def row(trainer: str, target: float, seed: int, fvu: float) -> tables.Row:
    asked = {"part": "sites", "site": "resid_post.2", "trainer": trainer}
    found = {"fvu": fvu, "l0": target, "dead": 0.01}
    return {"asked": {**asked, "target": target, "seed": seed}, "found": found}


def test_ours_is_compared_with_the_better_of_the_others():
    level = {"panscope": 0.9, "SAELens": 1.2, "dictionary_learning": 1.0}
    rows = [
        row(trainer, target, seed, level[trainer] / target)
        for trainer in level
        for target in (8.0, 16.0)
        for seed in (0, 1)
    ]
    lines = tables.sites_table(rows).splitlines()
    assert lines[0].startswith("| site | L0 | panscope |")
    assert "| 0.900 ± 0.000 | 1.0% |" in lines[2]
