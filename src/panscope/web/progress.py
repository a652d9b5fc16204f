"""Progress: what the stages of a run are doing, from the events that they write as they go."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Literal

from panscope.errors import Corrupt
from panscope.events import Advanced, Event, Finished, Measured, Started, Warned, from_json
from panscope.kept import marks

EVENTS = "events.jsonl"
QUIET_SECONDS = 120.0
N_WARNINGS = 20
State = Literal["running", "quiet", "done", "reused"]


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage: `done` of `total` units, its latest metrics, and how long it has taken or may take.

    It is `quiet` if it has not ended and has said nothing for two minutes: stopped, or at a long
    step. `began` and `last` are seconds since the epoch; `left_seconds` goes by the pace so far.
    """

    stage: str
    state: State
    done: int
    total: int
    unit: str
    metrics: Mapping[str, float | None]
    began: float
    last: float
    left_seconds: float | None


@dataclass(frozen=True, slots=True)
class ProgressView:
    """The stages of a run, the newest first, and the latest numbers of each Sae in training."""

    stages: tuple[StageView, ...]
    saes: Mapping[str, Mapping[str, float | None]]
    warnings: tuple[str, ...]


class Progress:
    """Folds a run's events into what they say now; each line is read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._file: list[int] = []
        self._forget()

    def view(self, now: float | None = None) -> ProgressView:
        """Say how things stand; a run without events has no stages."""
        with self._lock:
            self._read_on()
            at = time.time() if now is None else now
            stages = tuple(_judged(stage, at) for stage in reversed(self._stages.values()))
            return ProgressView(stages, dict(self._saes), tuple(self._warnings))

    def _forget(self) -> None:
        self._read_bytes = 0
        self._stages: dict[str, StageView] = {}
        self._saes: dict[str, Mapping[str, float | None]] = {}
        self._warnings: list[str] = []

    def _read_on(self) -> None:
        """Take in the whole lines that are new; of another file, or a shorter one, all of them."""
        *file, size_bytes, _ = marks(self._path) or (0, 0, 0, 0)
        if file != self._file or size_bytes < self._read_bytes:
            self._forget()
            self._file = file
        if size_bytes == self._read_bytes:
            return
        with self._path.open("rb") as opened:
            opened.seek(self._read_bytes)
            new = opened.read()
        for line in new[: new.rfind(b"\n") + 1].splitlines(keepends=True):
            self._take(*_parsed(self._path, line.decode(errors="replace").rstrip()))
            self._read_bytes += len(line)  # of a damaged one not: whoever asks again is told again

    def _take(self, at: float, event: Event) -> None:
        match event:
            case Started(stage, total, unit):
                self._stages.pop(stage, None)  # begun again, it is the newest
                self._stages[stage] = StageView(stage, "running", 0, total, unit, {}, at, at, None)
            case Advanced(stage, done, metrics) if stage in self._stages:
                self._stages[stage] = replace(
                    self._stages[stage], done=done, metrics=_finite(metrics), last=at
                )
            case Finished(stage, _, reused):
                known = self._stages.get(stage, _already_done(stage, at))
                state: State = "reused" if reused else "done"
                self._stages[stage] = replace(known, state=state, done=known.total, last=at)
            case Measured(_, _, _, saes):
                self._saes |= {sae: _finite(numbers) for sae, numbers in saes.items()}
            case Warned(stage, text):
                self._warnings = [*self._warnings, f"{stage}: {text}"][-N_WARNINGS:]


def _already_done(stage: str, at: float) -> StageView:
    return StageView(stage, "reused", 0, 0, "", {}, at, at, None)


def _judged(stage: StageView, now: float) -> StageView:
    """Say whether a stage that has not ended still speaks, and when it may end."""
    if stage.state != "running":
        return stage
    state: State = "quiet" if now - stage.last > QUIET_SECONDS else "running"
    pace = stage.done / (stage.last - stage.began) if stage.last > stage.began else 0.0
    left = (stage.total - stage.done) / pace if pace else None
    return replace(stage, state=state, left_seconds=left)


def _parsed(path: Path, line: str) -> tuple[float, Event]:
    try:
        return float(json.loads(line)["time"]), from_json(line)
    except (ValueError, KeyError, TypeError) as error:
        found = f"holds a line that is no event: {line[:60]!r}"
        raise Corrupt(str(path), found, "move it away; stages write a new one") from error


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
