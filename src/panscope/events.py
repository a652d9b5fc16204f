"""One typed stream of progress and metrics; what people see, what files keep and what pages show.

A stage takes an `Emit` and calls it with events. Sinks are plain functions of an event; `fan_out`
joins several. The terminal sink draws bars and the file sink appends JSON lines, from the same
values.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

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


Event = Started | Advanced | Finished | Warned
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
    """Append each event as a line of JSON with its time (seconds since the epoch) and name."""

    def emit(event: Event) -> None:
        line = {"time": time.time(), "event": type(event).__name__, **dataclasses.asdict(event)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            found = f"could not be written ({error.strerror})"
            raise PanscopeError(str(path), found, "check space and permissions") from error

    return emit


class Bars:
    """The terminal sink: one progress bar a stage, its latest metrics beside it.

    Use as a context manager; without a terminal it prints one line when a stage ends.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("[bold]{task.description:>9}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed:>9,}/{task.total:,} {task.fields[unit]}"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[metrics]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
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
                task = self._progress.add_task(stage, total=total, unit=unit, metrics="")
                self._tasks[stage] = task
            case Advanced(stage, done, metrics):
                shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
                self._progress.update(self._tasks[stage], completed=done, metrics=shown)
            case Finished(stage, seconds, reused):
                self._finish(stage, seconds, reused)
            case Warned(stage, text):
                self._console.print(f"[yellow]{stage}: {text}")

    def _finish(self, stage: str, seconds: float, reused: bool) -> None:
        task = self._tasks.pop(stage, None)
        if task is not None:
            self._progress.remove_task(task)
        how = "already done" if reused else f"{seconds:.1f} s"
        self._console.print(f"[bold]{stage:>9}[/]  [green]✓[/] {how}")
