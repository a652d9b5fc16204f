"""One typed stream of progress and metrics; what people see, what files keep and what pages show.

A stage takes an `Emit` and calls it with events. Sinks are plain functions of an event; `fan_out`
joins several. The terminal sink draws bars and the file sink appends JSON lines, from the same
values.
"""

import dataclasses
import errno
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from panscope.errors import PanscopeError


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """A stage begins; `total` counts `unit`s."""

    stage: str
    total: int
    unit: str


@dataclasses.dataclass(frozen=True, slots=True)
class Advanced:
    """A stage has done `done` of its units; `metrics` are scalars worth showing."""

    stage: str
    done: int
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What training measured of each Sae, by id, since the last such event.

    `step` and `tokens` count what these Saes have seen. `densities` counts each Sae's latents by
    how often they fired: between one of `density_edges` (log10 of the share of tokens) and the
    next.
    """

    stage: str
    step: int
    tokens: int
    saes: Mapping[str, Mapping[str, float]]
    densities: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    density_edges: Sequence[float] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """A stage ended well; `reused` says that its output was there already."""

    stage: str
    seconds: float
    reused: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Warned:
    """Something asked for was not done, or is not as expected."""

    stage: str
    text: str


Event = Started | Advanced | Measured | Finished | Warned
KINDS = {kind.__name__: kind for kind in (Started, Advanced, Measured, Finished, Warned)}
Emit = Callable[[Event], None]


def silent(event: Event) -> None:
    """Drop an event: the sink of those who do not listen."""


def fan_out(*sinks: Emit) -> Emit:
    """Join several sinks into one."""

    def emit(event: Event) -> None:
        for sink in sinks:
            sink(event)

    return emit


def to_jsonl(path: Path) -> Emit:
    """Append each event as a line of JSON with its time (seconds since the epoch) and name.

    Numbers that JSON does not have (NaN, infinities) become null.
    """

    def emit(event: Event) -> None:
        line = {"time": time.time(), "event": type(event).__name__, **dataclasses.asdict(event)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _append_line(path, json.dumps(_plain(line), allow_nan=False))
        except OSError as error:
            found = f"could not be written ({error.strerror})"
            raise PanscopeError(str(path), found, "check space and permissions") from error

    return emit


def from_json(line: str) -> Event:
    """Read an event back from a line that `to_jsonl` wrote; null was a number that JSON lacks.

    >>> from_json('{"time": 0.0, "event": "Advanced", "stage": "train", "done": 3}')
    Advanced(stage='train', done=3, metrics={})
    """
    tree = _with_nan(json.loads(line))
    del tree["time"]
    kind: Callable[..., Event] = KINDS[tree.pop("event")]
    return kind(**tree)


def _with_nan(value: Any) -> Any:
    match value:
        case None:
            return math.nan
        case dict():
            return {key: _with_nan(item) for key, item in value.items()}
        case list():
            return [_with_nan(item) for item in value]
        case _:
            return value


def _append_line(path: Path, line: str) -> None:
    """Append a line; first drop the half of one that a killed process or a full disk left."""
    data = f"{line}\n".encode()
    with path.open("a+b", buffering=0) as file:
        file.truncate(_end_of_lines(file))
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _end_of_lines(file: io.FileIO) -> int:
    """Return where a file's last whole line ends."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    if file.read(1) in (b"", b"\n"):
        return end
    file.seek(0)
    return file.readall().rfind(b"\n") + 1


def _plain(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value


class _BarsAndMetrics(Progress):
    """Bars, each with its stage's latest metrics on a line below, where 80 columns hold them."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield what is drawn."""
        for task in self.tasks:
            yield self.make_tasks_table([task])
            if shown := task.fields["metrics"]:
                yield Text(f"{'':>9} {shown}", style="dim", no_wrap=True, overflow="ellipsis")


class Bars:
    """The terminal sink: one progress bar a stage, its latest metrics below it.

    Use as a context manager; without a terminal it prints one line when a stage ends.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._progress = _BarsAndMetrics(
            TextColumn("[bold]{task.description:>9}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed:>9,}/{task.total:,} {task.fields[unit]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Draw an event."""
        match event:
            case Started(stage, total, unit):
                if not self._console.is_terminal:
                    self._console.print(f"[bold]{stage:>9}[/]  {total:,} {unit} ...")
                self._progress.start()  # not before: only one process of several has events
                task = self._progress.add_task(stage, total=total, unit=unit, metrics="")
                self._tasks[stage] = task
            case Advanced(stage, done, metrics):
                self._progress.update(self._tasks[stage], completed=done, metrics=_shown(metrics))
            case Measured():
                pass  # one Sae's numbers are for files and pages; Advanced has those of all
            case Finished(stage, seconds, reused):
                self._finish(stage, seconds, reused)
            case Warned(stage, text):
                self._console.print(f"{stage}: {text}", style="yellow", markup=False)

    def _finish(self, stage: str, seconds: float, reused: bool) -> None:
        task = self._tasks.pop(stage, None)
        if task is not None:
            self._progress.remove_task(task)
        how = "already done" if reused else f"{seconds:.1f} s"
        self._console.print(f"[bold]{stage:>9}[/]  [green]✓[/] {how}")


def _shown(metrics: Mapping[str, float]) -> str:
    """Print metrics in the order they come in, which is that of their weight: the end may be cut.

    >>> _shown({"loss": 0.123456, "tokens/s": 123456.7})
    'loss 0.1235  tokens/s 123,457'
    """
    numbers = {name: f"{v:,.0f}" if v >= 1e4 else f"{v:.4g}" for name, v in metrics.items()}
    return "  ".join(f"{name} {number}" for name, number in numbers.items())
