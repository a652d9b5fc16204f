"""Explain a run folder's atlas at an endpoint; for test_explain_endpoint, which kills it.

Usage: killed_explain.py RUN URL
"""

import sys
from pathlib import Path

from panscope.atlas.features import Atlas
from panscope.atlas.notes import Notes
from panscope.events import silent
from panscope.stages.explain import Config, run
from panscope.stages.explain.endpoint import Endpoint

out, url = Path(sys.argv[1]), sys.argv[2]
endpoint = Endpoint(base_url=url, model="tiny-judge", at_once=2, a_minute=1e6)
config = Config(by="endpoint", endpoint=endpoint, windows=4, saes=("mlp*",))
run(config, Atlas(out / "atlas"), Notes.open(out / "notes.sqlite"), out / "answers", silent)
