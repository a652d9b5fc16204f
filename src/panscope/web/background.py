"""One command of panscope at work beside the pages, in a process of its own.

What takes minutes and a model is the same command that a terminal would run. Its memory is given
back when it ends, what it breaks is its own, and to cancel it is to end the process: artefacts are
whole or not there. How far it is stands in the run's events.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from typing import Literal

from panscope.web.problem import Refused

MOST_SECONDS = 1_800.0
NICENESS = 10  # pages come first
ERRORS = "errors.txt"
State = Literal["running", "done", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class WorkView:
    """A command begun at `began` (seconds since the epoch); `problem` says what went wrong."""

    name: str
    state: State
    began: float
    problem: str


class Command:
    """A process in a folder of its own; the folder goes when the process has ended."""

    def __init__(self, name: str, arguments: Sequence[str], inputs: Mapping[str, str]) -> None:
        self.name = name
        self._began = time.time()
        self._state: State = "running"
        self._problem = ""
        self._folder = TemporaryDirectory(prefix="panscope-")
        for file, text in inputs.items():
            (self._path / file).write_text(text, encoding="utf-8")
        self._process = _started(arguments, self._path)

    @property
    def _path(self) -> Path:
        return Path(self._folder.name)

    def watch(self, most_seconds: float) -> None:
        """Wait for the end, for so long; remember how it was."""
        with self._folder:
            try:
                code = self._process.wait(most_seconds)
            except subprocess.TimeoutExpired:
                code = self.end(f"it took more than {most_seconds:g} seconds")
            if not self._problem and code:
                self._problem = self._last_words() or f"exit code {code}"
                self._state = "failed"
            else:
                self._state = "cancelled" if self._problem else "done"

    def end(self, why: str) -> int:
        """End the process, if it is still at work."""
        if self._process.poll() is None:
            self._problem = why
            self._process.terminate()
        return self._process.wait()

    def view(self) -> WorkView:
        """Say how it stands."""
        return WorkView(self.name, self._state, self._began, self._problem)

    def _last_words(self) -> str:
        said = (self._path / ERRORS).read_text(errors="replace").strip()
        return said.rpartition("\n")[2].removeprefix("error: ").removesuffix(".")


class Background:
    """Holds at most one command; the last one is remembered until the next begins."""

    def __init__(self, most_seconds: float = MOST_SECONDS) -> None:
        self._command: Command | None = None
        self._watcher: Thread | None = None
        self._lock = Lock()
        self._most_seconds = most_seconds

    def start(self, name: str, arguments: Sequence[str], inputs: Mapping[str, str]) -> WorkView:
        """Start `panscope ARGUMENTS` in a folder that holds `inputs`, text by file name.

        Raises Refused (409) while another is at work.
        """
        with self._lock:
            if self._command is not None and self.at_work:
                found = f"{self._command.name!r} is at work"
                raise Refused(409, "one at a time", found, "wait until it is done, or cancel it")
            command = Command(name, arguments, inputs)
            self._watcher = Thread(target=command.watch, args=(self._most_seconds,), daemon=True)
            self._watcher.start()
            self._command = command
            return command.view()

    @property
    def at_work(self) -> bool:
        """Whether a command has not ended yet."""
        return self._command is not None and self._command.view().state == "running"

    def view(self) -> WorkView | None:
        """Say how the last command stands; None if there was none."""
        command = self._command
        return command.view() if command else None

    def cancel(self) -> WorkView | None:
        """End the command that is at work, if one is."""
        with self._lock:
            if self._command is not None and self._watcher is not None:
                self._command.end("cancelled")
                self._watcher.join()
        return self.view()


def _started(arguments: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / ERRORS).open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "panscope", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
    return process
