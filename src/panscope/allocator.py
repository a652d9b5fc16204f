"""What the C library does with freed memory; elsewhere than on glibc nothing is changed.

A training step frees and takes arrays of megabytes; by default glibc maps each anew, and touching
the fresh pages takes up to a third of a step: there memory is kept. A server's forty threads each
get an arena of their own, which keeps what one page took: there arenas are few.
"""

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # of <malloc.h>
LARGEST_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Serve arrays below a gigabyte from memory that is kept, up to two gigabytes of it."""
    if "CS_GNU_LIBC_VERSION" in os.confstr_names:
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST_KEPT_BYTES - 1)


def share_freed_memory() -> None:
    """Let threads that start from now on share two arenas: 100 MB less for sixteen clients."""
    if "CS_GNU_LIBC_VERSION" in os.confstr_names:
        ctypes.CDLL(None).mallopt(ARENA_MAX, 2)
