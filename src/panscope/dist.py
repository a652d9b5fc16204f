"""This process among those that share a run: which part is its own, and waiting for the others.

torchrun tells each process its RANK among WORLD_SIZE and its LOCAL_RANK on its machine. What the
processes make meets on disk; the one collective in use is a barrier (gloo: nothing that crosses it
is large).
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from panscope.errors import Incomplete

LONGEST_WAIT = timedelta(days=365)  # for the slowest; the lost are torchrun's to find
LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Share:
    """A worker's part of numbered pieces: every `world`-th, beginning with piece `rank`.

    >>> [number for number in range(7) if number in Share(rank=1, world=3)]
    [1, 4]
    """

    rank: int = 0
    world: int = 1

    def __contains__(self, number: int) -> bool:
        return number % self.world == self.rank


WHOLE = Share()


@contextmanager
def joined() -> Iterator[Share]:
    """Join the processes that torchrun started with this one, on the GPU of its number if any.

    Yields this process's share: all, where torchrun did not start it.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield WHOLE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        yield Share(distributed.get_rank(), world)
    finally:
        distributed.destroy_process_group()


def idle() -> None:
    """Do nothing while waiting."""


def wait_for_all(meanwhile: Callable[[], None] = idle) -> None:
    """Wait until all processes are here; call `meanwhile` now and then. Incomplete if one is lost.

    At once where there is one process only.
    """
    if not distributed.is_initialized():
        return
    try:
        barrier = distributed.barrier(async_op=True)
        while not barrier.is_completed():
            meanwhile()
            time.sleep(LOOK_SECONDS)
        barrier.wait()
    except RuntimeError as error:  # gloo's, when a peer closed its connection
        do = "its own message says why; run the same command again and all go on"
        raise Incomplete("torchrun", "another process has stopped", do) from error
