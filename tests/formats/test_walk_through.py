"""The page's walk through Gemma Scope's tutorial runs, on the pocket model and a random Sae."""

import re
from pathlib import Path
from typing import Any

import torch
from tests.formats.conftest import make_suite

from panscope.sae.sae import Sae
from panscope.sites import Site

PAGE = Path(__file__).parents[2] / "docs/exchange.md"


def test_the_pages_code_runs(tmp_path: Path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    name, d, width = "resid_post.2/width_16k_average_l0_71", 256, 4000
    ends = (Site("resid_post", 2),), (Site("resid_post", 2),)
    w_dec = torch.nn.functional.normalize(torch.randn(width, d), dim=1)
    zeros = torch.zeros(width), w_dec, torch.zeros(d), torch.full((width,), 2.0)
    make_suite(tmp_path / "suite", {name: Sae(w_dec.T, *zeros, *ends)}, {})
    swapped = {"runs/gs/suite": str(tmp_path / "suite"), "resid_post.20": "resid_post.2"}
    for old, new in {**swapped, "google/gemma-2-2b": "pocket"}.items():
        assert old in code
        code = code.replace(old, new)
    made: dict[str, Any] = {}
    exec(code, made)
    n_tokens = len(made["ids"]) - 1
    assert len(made["active"]) == len(made["strongest"]) == n_tokens
    assert made["explained"] < 1
    assert made["at_bos"] >= 0
    (written,) = made["written"].ids
    assert len(written) == len(made["prompt"]) + 20
