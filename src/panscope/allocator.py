"""What is done with freed memory, by the C library (glibc's alone) and by Python.

A training step frees and takes arrays of megabytes; by default glibc maps each anew, and touching
the fresh pages takes up to a third of a step: there memory is kept. A server's forty threads each
get memory of their own, which keeps what one page took: there it is shared.
"""

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # of <malloc.h>
LARGEST_KEPT_BYTES = 1 << 30
LEAST_GIVEN_BACK_BYTES = 1 << 20


def keep_freed_memory() -> None:
    """Serve arrays below a gigabyte from memory that is kept, up to two gigabytes of it."""
    if "CS_GNU_LIBC_VERSION" in os.confstr_names:
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST_KEPT_BYTES - 1)


def share_freed_memory() -> None:
    """Let a server's threads share two arenas, and give back what one page took.

    Arenas cost 100 MB for sixteen clients, and so do the heaps that Arrow keeps for each thread,
    unless it is told before it is imported to do without. Arrays are given back from a size which
    by default grows to that of the largest so far.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if "CS_GNU_LIBC_VERSION" in os.confstr_names:
        libc = ctypes.CDLL(None)
        libc.mallopt(ARENA_MAX, 2)
        libc.mallopt(MMAP_THRESHOLD, LEAST_GIVEN_BACK_BYTES)


@contextlib.contextmanager
def nothing_collected() -> Iterator[None]:
    """Look for no garbage within, nor ever after among what was made until then.

    What a server imports and builds stays: some 120,000 objects, and 230,000 with a model. Python
    would look through them all twice on the way to the first answer, and then every 20 s of load,
    0.1 to 0.2 s each time, in which no page is answered.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def free_frozen() -> None:
    """Free what is garbage by now of what `nothing_collected` made; look through no rest again."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
