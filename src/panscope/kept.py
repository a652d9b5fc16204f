"""What was read is kept, up to so many bytes: the values unused longest go first."""

from collections import OrderedDict
from collections.abc import Callable
from threading import RLock
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
