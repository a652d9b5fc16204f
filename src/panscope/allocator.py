"""Make the C library keep freed memory instead of giving it back to the system.

A training step frees and takes arrays of megabytes; by default glibc maps each anew, and touching
the fresh pages takes up to a third of a step. Elsewhere than on glibc this does nothing.
"""

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of <malloc.h>
LARGEST_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Serve arrays below a gigabyte from memory that is kept, up to two gigabytes of it."""
    if "CS_GNU_LIBC_VERSION" in os.confstr_names:
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST_KEPT_BYTES - 1)
