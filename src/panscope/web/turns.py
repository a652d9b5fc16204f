"""Turns at the model, or at what explains: one at a time, a few that wait, for a bounded time."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Condition, Event

from panscope.web.problem import RETRY_SECONDS, Refused

N_WAITING = 8  # of the 40 threads that also serve the pages
WAIT_SECONDS = 30.0


class Turns:
    """Lets one caller at a time through, `n_waiting` wait, and tells the others to come back."""

    def __init__(
        self,
        n_waiting: int = N_WAITING,
        wait_seconds: float = WAIT_SECONDS,
        what: str = "the model",
    ) -> None:
        self._what = what
        self._places = BoundedSemaphore(1 + n_waiting)
        self._change = Condition()
        self._taken = self._closed = False
        self._ending = Event()
        self._wait_seconds = wait_seconds

    @contextmanager
    def take(self) -> Iterator[Event]:
        """Hold the turn inside a with block; yield what is set when it must end.

        Raises Refused (503) if the queue is full or too slow.
        """
        if not self._places.acquire(blocking=False):
            raise self._busy("has a full queue")
        try:
            self._wait()
            try:
                yield self._ending
            finally:
                self._give_back()
        finally:
            self._places.release()

    @property
    def taken(self) -> bool:
        """Whether somebody holds the turn."""
        return self._taken

    def close(self) -> None:
        """Send away those who wait, and all who come: the server stops."""
        with self._change:
            self._closed = True
            self._ending.set()
            self._change.notify_all()

    def _wait(self) -> None:
        with self._change:
            is_over = self._change.wait_for(
                lambda: self._closed or not self._taken, self._wait_seconds
            )
            if self._closed:
                raise self._busy("is being stopped")
            if not is_over:
                raise self._busy(f"was not free within {self._wait_seconds:.0f} s")
            self._taken, self._ending = True, Event()

    def _give_back(self) -> None:
        with self._change:
            self._taken = False
            self._change.notify()

    def _busy(self, found: str) -> Refused:
        return Refused(503, self._what, found, f"ask again in {RETRY_SECONDS} seconds")
