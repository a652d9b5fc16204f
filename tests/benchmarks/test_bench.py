"""The table at the end of `make bench`, and the check that two libraries describe the same."""

import bench
import describe_whole as whole
import pytest
import torch

COLD = next(asked for asked in bench.ASKED if "cold" in asked.what)
STEP = next(asked for asked in bench.ASKED if "d 512" in asked.what)


def test_a_number_that_is_missed_is_marked_on_its_own_side():
    cold = lambda value: COLD.row({"store": {"store": {"reading, cold": value}}})  # noqa: E731
    step = lambda value: STEP.row({"train": {"sizes": {"d512": {"step_over_floor": value}}}})  # noqa: E731
    assert cold(0.91).split()[-3:] == [">=", "0.9", "0.91"]
    assert cold(0.89).split()[-2:] == ["0.89", "missed"]
    assert step(0.51).endswith("missed")
    assert not step(0.49).endswith("missed")


def test_what_did_not_run_is_left_out_and_what_failed_has_no_number():
    assert len(list(bench.table({}))) == 1
    _, *rows = bench.table({"store": None, "train": {"sizes": {}}})
    assert rows
    assert all(row.endswith(" -") for row in rows)


def test_every_number_is_of_a_benchmark_that_runs():
    assert {asked.at[0] for asked in bench.ASKED} <= set(bench.BENCHMARKS)


@pytest.mark.parametrize(("name", "change"), [("density", 2.0), ("maximum", 1.001)])
def test_libraries_that_disagree_are_found_out(name: str, change: float):
    ours = {"density": torch.tensor([0.2, 0, 0.1, 0.3]), "maximum": torch.tensor([1.0, 0, 1, 1])}
    assert whole.differences(ours, ours) == {"firings": 0, "maxima": 0}
    theirs = ours | {name: ours[name] * torch.tensor([1, 1, 1, change])}
    assert max(whole.differences(ours, theirs).values()) > whole.MAY_DIFFER
