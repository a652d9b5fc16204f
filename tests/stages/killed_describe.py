"""Describe into many folders, each killed at another instant and then resumed.

For test_describe_resume. Usage: killed_describe.py FOLDER. Writes FOLDER/whole and
FOLDER/resumed-<n> (killed once, at the n-th instant, for every 31st n). Each description runs in a
forked child, which kills itself with SIGKILL: half way through a write, before a sync, a rename or
a removal. Prints the first n that none reached.
"""

import itertools
import os
import runpy
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import torch

from panscope import files
from panscope.events import silent
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.sae.sae import Sae
from panscope.sae.suite import KIND, Suite, write_sae
from panscope.sites import Site
from panscope.stages import describe
from panscope.stages.describe import Work

stage = import_module("panscope.stages.describe.run")  # whose name the function has, too
harvest = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("killed_harvest.py"))))
CONFIG = describe.Config(tokens=60, batch_rows=2, n_top=2, n_listed=3)
WIDTH = 20
PIECE_TOKENS = 16
"""Of the log: one forward pass."""
STRIDE = 31  # of the instants: two descriptions each, of a second where the machine is free


def suite_in(folder: Path) -> Suite:
    """Write a suite of two random Saes of the tiny model."""
    facts = []
    for number, site in enumerate((Site("resid_post", 0), Site("mlp_out", 1))):
        generator = torch.Generator().manual_seed(number)
        w_enc, w_dec = (torch.randn(WIDTH, 16, generator=generator) for _ in range(2))
        zeros = torch.zeros(WIDTH)
        name = f"{site}/w{WIDTH}"
        write_sae(
            folder, name, Sae(w_enc.T, zeros, w_dec, torch.zeros(16), zeros, (site,), (site,))
        )
        facts.append({"sae": name, "site": str(site), "width": WIDTH, "scale": 1.0})
    files.seal(folder, KIND, {}, {}, {"saes": facts})
    return Suite.open(folder)


def work(model: Model, suite: Suite, out: Path) -> Work:
    """Describe the suite on the rows of the harvest's tests."""

    def passes(row: int) -> Iterator[Rows]:
        return harvest.rows_from(row)

    return Work(CONFIG, model, suite, passes, {"model": "m"}, {}, out, silent)


def describe_in_child(work: Work, fatal: int) -> bool:
    """Describe in a forked child that is killed at an instant; say whether it lived."""
    child = os.fork()
    if child == 0:
        instants = itertools.count()
        kill = partial(harvest.killed_before, instants, fatal)
        os.write = harvest.killed_half_way(instants, fatal)
        Path.replace, Path.unlink = kill(Path.replace), kill(Path.unlink)  # type: ignore[method-assign]
        os.fsync = kill(lambda _: None)  # a kill loses no cached page
        shutil.rmtree = kill(shutil.rmtree)
        describe.run(work)
        os._exit(0)
    return harvest.end(child)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    stage.PIECE_TOKENS = PIECE_TOKENS
    model, suite = harvest.tiny_model(), suite_in(folder / "suite")
    describe.run(work(model, suite, folder / "whole"))  # here: what it imports, children have
    for instant in itertools.count(0, STRIDE):
        resumed = work(model, suite, folder / f"resumed-{instant}")
        if describe_in_child(resumed, instant):
            break
        assert describe_in_child(resumed, -1)
    print(instant)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
