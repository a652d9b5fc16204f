"""The ledger of a suite in training, beside its checkpoints.

suite/.checkpoints/
  banks.json      which Saes are trained together, and by how many processes, as it was when
                  they began
  bank-0.json     the bank is trained: its files in the suite, its facts
"""

import shutil
from itertools import chain
from pathlib import Path
from typing import Any

from panscope import files
from panscope.config import Config
from panscope.errors import ConfigError, Corrupt
from panscope.noted import read_note, write_note
from panscope.stages.train.checkpoint import FOLDER, Warn, folder_of, refuse_another

Banks = tuple[tuple[str, ...], ...]
"""The ids, and lengths in steps, of the Saes that are trained together, bank by bank."""


class Split(Config):
    """Which Saes are trained together, and by how many processes."""

    banks: Banks
    processes: int = 1


class Trained(Config):
    """A bank that is trained and whose Saes are in the suite."""

    key: str
    facts: tuple[dict[str, Any], ...]
    files: dict[str, files.FileRecord]


def mark_trained(suite: Path, bank: int, trained: Trained) -> None:
    """Note that a bank's Saes are written, then drop its checkpoints."""
    write_note(_record_of(suite, bank), trained)
    if folder_of(suite, bank).is_dir():
        shutil.rmtree(folder_of(suite, bank))


def read_trained(suite: Path, bank: int, key: str, warn: Warn) -> Trained | None:
    """Return what was noted of a trained bank, or None if it is still (or again) to be trained."""
    path = _record_of(suite, bank)
    try:
        trained = read_note(Trained, path)
    except Corrupt:
        warn(f"{path} is damaged: its Saes are trained again")
        return None
    if trained is None:
        return None
    refuse_another(path, trained.key, key)
    problems = (files.problem_with(suite / name, r) for name, r in trained.files.items())
    if problem := next(filter(None, problems), None):
        warn(f"{problem}. Its bank is trained again.")
        return None
    return trained


def as_begun(suite: Path, banks: Banks, warn: Warn, processes: int = 1) -> Banks:
    """Return the banks as they were when training began, and note them if it begins now.

    How many Saes fit together depends on the machine's memory and threads, what becomes of them
    does not: a run goes on where there is more or less of either. A note of other Saes is written
    anew; their checkpoints are refused when they are read. Raises ConfigError if another number of
    processes began: each has its part of the latents.
    """
    noted = _noted(suite / FOLDER / "banks.json", warn)
    if sorted(chain(*noted.banks)) == sorted(chain(*banks)):
        if noted.processes != processes:
            found = f"was begun with latent_shards = {noted.processes}, not {processes}"
            raise ConfigError(str(suite), found, "go on with as many, or choose another output")
        return noted.banks
    write_note(suite / FOLDER / "banks.json", Split(banks=banks, processes=processes))
    return banks


def _noted(path: Path, warn: Warn) -> Split:
    try:
        return read_note(Split, path) or Split(banks=())
    except Corrupt:
        warn(f"{path} is damaged: the Saes are grouped anew")
        return Split(banks=())


def _record_of(suite: Path, bank: int) -> Path:
    return suite / FOLDER / f"bank-{bank}.json"
