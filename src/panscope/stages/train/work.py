"""Work: what a suite is made from, and where it goes."""

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from panscope import files
from panscope.config import digest_of
from panscope.events import Emit, Warned
from panscope.sae.suite import KIND
from panscope.sites import Site
from panscope.stages.train.bank import Batch
from panscope.stages.train.objective import Config
from panscope.stages.train.sweep import Spec

STAGE = "train"

BatchesFrom = Callable[[int, tuple[Site, ...]], Generator[Batch, None, None]]
"""Yields the stream from a batch on: raw activations, `batch_tokens` rows at each of the sites."""


class Work(NamedTuple):
    """What a suite is made from, and where it goes.

    `banks` are the Saes that are trained together, `inputs` names what the stream was made from.
    """

    config: Config
    banks: Sequence[Sequence[Spec]]
    batches_from: BatchesFrom
    inputs: Mapping[str, str]
    out: Path
    emit: Emit

    @property
    def made(self) -> files.Manifest | None:
        """The manifest, if the suite is finished; ConfigError if `out` holds another one."""
        return files.made(self.out, KIND, self.config.described, self.inputs)

    def key(self, specs: Sequence[Spec]) -> str:
        """Name a bank in its checkpoints: by what they must have been made from to go on."""
        saes = [spec.sae for spec in specs]
        return digest_of(
            {"config": self.config.described, "inputs": dict(self.inputs), "saes": saes}
        )

    def warn(self, text: str) -> None:
        """Emit a warning."""
        self.emit(Warned(STAGE, text))
