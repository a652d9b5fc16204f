"""What was read is kept: up to so many bytes, or for as long as its file stays as it is."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock, RLock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """Values by name; the one asked for last stays, however large. Threads may share it."""

    def __init__(self, limit_bytes: int, size_of: Callable[[Value], int]) -> None:
        self._limit_bytes = limit_bytes
        self._size_of = size_of
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._lock = RLock()

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str, make: Callable[[], Value]) -> Value:
        """Return a value, made now if it is not here; other threads wait for it."""
        with self._lock:
            if name not in self._values:
                self._values[name] = make()
                while len(self._values) > 1 and self.bytes > self._limit_bytes:
                    self._values.popitem(last=False)
            self._values.move_to_end(name)
            return self._values[name]

    @property
    def bytes(self) -> int:
        """How much is kept."""
        with self._lock:
            return sum(map(self._size_of, self._values.values()))


class Current(Generic[Value]):
    """One value, made anew when what it was made of is no longer the same. Threads may share it."""

    def __init__(self) -> None:
        self._value: Value | None = None
        self._made_of: object = None
        self._lock = Lock()

    def get(self, made_of: object, make: Callable[[], Value]) -> Value:
        """Return the value; one made of something else is let go before it is made."""
        with self._lock:
            if self._value is None or self._made_of != made_of:
                self._value = None  # first: a model may not fit in memory twice
                self._value, self._made_of = make(), made_of
            return self._value

    def drop(self) -> bool:
        """Let go of the value; say whether there was one."""
        with self._lock:
            there, self._value = self._value is not None, None
            return there


def marks(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is written over; nothing if it is not there."""
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
