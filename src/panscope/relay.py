"""The events of several workers in one display.

    run/.workers/
      1.train-share.node7-4711.jsonl    what worker 1 emitted in a job, as process 4711 of node7

A worker appends to its own file, the relay reads what is new in all of them: that works between any
machines that share the run folder, and a lost worker leaves nothing half open.
"""

import os
import shutil
import socket
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from panscope.events import (
    Advanced,
    Emit,
    Event,
    Finished,
    Started,
    Warned,
    from_json,
    to_jsonl,
)

FOLDER = ".workers"
LOOK_SECONDS = 0.5


def to_relay(run: Path, rank: int, job: str) -> Emit:
    """Make the sink of a worker whose events a relay reads."""
    process = f"{socket.gethostname()}-{os.getpid()}"
    return to_jsonl(run / FOLDER / f"{rank}.{job}.{process}.jsonl")


@dataclass(frozen=True, slots=True)
class Begun:
    """A stage that some worker has begun, and how far each is."""

    total: int
    at: float
    latest: dict[int, Advanced] = field(default_factory=dict)

    def joined(self, stage: str) -> Advanced:
        """Add up what all workers have done; a metric is the mean over those that have it."""
        metrics: dict[str, list[float]] = defaultdict(list)
        for event in self.latest.values():
            for name, value in event.metrics.items():
                metrics[name].append(value)
        means = {name: statistics.fmean(values) for name, values in metrics.items()}
        done = sum(event.done for event in self.latest.values())
        return Advanced(stage, min(done, self.total), means)


class Relay:
    """Joins what workers emit: one bar a stage, its units those that all have done.

    Metrics that are shown are means over the workers; a Sae's are passed on, since it is trained by
    one worker. A job that begins again, in another process, is warned of.
    """

    def __init__(self, run: Path, emit: Emit) -> None:
        self._folder = run / FOLDER
        self._emit = emit
        self._read_bytes: dict[Path, int] = {}
        self._begun: dict[str, Begun] = {}
        self._advanced: set[str] = set()
        self._looked = 0.0
        self.close()

    def close(self) -> None:
        """Remove the workers' files."""
        if self._folder.is_dir():
            shutil.rmtree(self._folder)

    def __call__(self, event: Event) -> None:
        """Take an event of this process as that of worker 0; others' now and then, and first."""
        if isinstance(event, Finished) or time.monotonic() - self._looked > LOOK_SECONDS:
            self.look()
        self._take(0, event)
        self._show()

    def look(self) -> None:
        """Take what the workers have emitted since the last look."""
        self._looked = time.monotonic()
        for path in sorted(self._folder.glob("*.jsonl")):
            rank, job, process = path.stem.split(".", 2)
            if path not in self._read_bytes:
                self._begin(path, f"{rank}.{job}.", f"worker {rank} ({process})")
            for line in self._new_lines(path):
                self._take(int(rank), from_json(line))
        self._show()

    def _begin(self, path: Path, life_of: str, worker: str) -> None:
        """Note a new file; warn if another process had begun the same job."""
        if any(known.name.startswith(life_of) for known in self._read_bytes):
            text = f"{worker} goes on with the work of one that was lost"
            self._emit(Warned("launch", text))
        self._read_bytes[path] = 0

    def _new_lines(self, path: Path) -> list[str]:
        """Read on in a worker's file, up to the end of its last whole line."""
        with path.open("rb") as file:
            file.seek(self._read_bytes[path])
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._read_bytes[path] += end
        return data[:end].decode().splitlines()

    def _take(self, rank: int, event: Event) -> None:
        """Pass an event on, but keep progress to be shown with that of the others."""
        match event:
            case Started(stage) if stage in self._begun:
                pass
            case Started(stage, total):
                self._begun[stage] = Begun(total, time.monotonic())
                self._emit(event)
            case Advanced(stage) if stage in self._begun:
                self._begun[stage].latest[rank] = event
                self._advanced.add(stage)
            case Advanced():
                pass  # of a stage that has ended since
            case Finished(stage) if stage in self._begun:
                self._show()
                begun = self._begun.pop(stage)
                self._emit(Finished(stage, time.monotonic() - begun.at))
            case _:
                self._emit(event)

    def _show(self) -> None:
        """Emit the progress of each stage that has advanced."""
        while self._advanced:
            stage = self._advanced.pop()
            self._emit(self._begun[stage].joined(stage))
