"""Commands beside the pages: one at a time, ended when asked, told what went wrong."""

import time
from pathlib import Path

import pytest

from panscope.web.background import Background, WorkView
from panscope.web.problem import Refused


def ended(background: Background) -> WorkView:
    """Wait until nothing is at work."""
    until = time.monotonic() + 60
    while (view := background.view()) is None or view.state == "running":
        assert time.monotonic() < until
        time.sleep(0.05)
    return view


def test_what_went_wrong_is_said_in_the_words_of_the_command(run_folder: Path):
    background = Background()
    assert background.view() is None
    wrong = ["search", str(run_folder), "rain", "--sae", "resid_pots"]
    assert background.start("rain", wrong, {}).state == "running"
    view = ended(background)
    assert (view.name, view.state) == ("rain", "failed")
    assert "no Sae" in view.problem and not view.problem.startswith("error")
    background.start("shown", ["show", "given"], {"given": "no folder"})
    assert "given" in ended(background).problem  # inputs lie where it runs
    background.start("rain", ["search", str(run_folder), "rain"], {})
    assert ended(background).state == "done"


def test_one_at_a_time_and_ended_when_asked(run_folder: Path):
    endless = ["serve", str(run_folder), "--port", "0"]
    background = Background()
    background.start("first", endless, {})
    with pytest.raises(Refused, match="'first' is at work") as refused:
        background.start("second", endless, {})
    assert refused.value.http_status == 409
    cancelled = background.cancel()
    assert cancelled is not None and (cancelled.state, cancelled.problem) == ("cancelled",) * 2
    hasty = Background(most_seconds=0.1)
    hasty.start("third", endless, {})
    assert ended(hasty).problem == "it took more than 0.1 seconds"
