"""Stopping on request: SIGINT and SIGTERM raise a flag that the loop looks at between steps.

The processes of a group look together, so that all stop after the same step.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from panscope.dist import ALONE, Group
from panscope.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class Stop:
    """Whether a signal has asked to stop, and which was the first."""

    group: Group = ALONE
    by: signal.Signals | None = None

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Note a signal (this is its handler); a second SIGINT does not wait for the step's end."""
        if self.by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.by = self.by or signal.Signals(number)

    def asked(self) -> bool:
        """Say whether this process or another was asked."""
        number = self.group.most(self.by or 0)
        if number:
            self.by = self.by or signal.Signals(number)
        return number != 0

    def check(self, where: str) -> None:
        """Raise Interrupted if it was asked; `where` is the place that a later run goes on from."""
        if self.asked():
            assert self.by is not None
            do = "run the same command again and it goes on from there"
            raise Interrupted("train", f"{self.by.name} stopped it {where}", do, self.by)


@contextmanager
def listening(group: Group = ALONE) -> Iterator[Stop]:
    """Handle the signals while training runs.

    Only the main thread can; signals that the process was started to ignore (nohup) stay ignored.
    """
    stop = Stop(group)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    wanted = [n for n in SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, stop.ask) for number in wanted}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
