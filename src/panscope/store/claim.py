"""One writer at a time: a claim on a folder that ends with its holder, however that ends.

The claim is a lock (`flock`) on a hidden file beside the folder. The kernel drops it when the
process dies, so a claim is never stale, and no clock or process number is asked. Object stores have
no locks: there every claim is granted, and writers are told apart by their shares.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from panscope.errors import PanscopeError
from panscope.place import Place


@contextmanager
def claimed(place: Place, wait: bool) -> Iterator[bool]:
    """Hold the sole right to write a place for the length of a with block; False if it is taken.

    With `wait`, wait until it is free instead: after that it may have been written by another.
    """
    if not place.is_local:
        yield True
        return
    path = Path(place.path).with_name(f".{place.name}.claim")
    descriptor = _locked(path, wait)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)  # before the lock goes, so that it is surely ours
            os.close(descriptor)


def sweep(folder: Place) -> None:
    """Remove the files of claims whose holders were killed, and what they were writing."""
    for place in folder.children() if folder.is_local else ():
        if place.name.startswith(".") and place.name.endswith(".claim"):
            with claimed(folder / place.name[1 : -len(".claim")], wait=False):
                pass
        elif place.name.startswith(".") and place.name.endswith(".tmp"):
            place.remove()


def _locked(path: Path, wait: bool) -> int | None:
    """Lock the file of that name; one that its holder has removed meanwhile does not count."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            is_free = _lock(descriptor, wait)
            if is_free and _is_at(path, descriptor):
                return descriptor
            os.close(descriptor)
            if not is_free:
                return None
    except OSError as error:
        found = f"could not be claimed ({error.strerror})"
        raise PanscopeError(str(path), found, "check space and permissions") from error


def _lock(descriptor: int, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
