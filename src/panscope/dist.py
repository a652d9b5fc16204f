"""This process among those that torchrun started: its part, what they exchange, and waiting.

torchrun tells each process its RANK among WORLD_SIZE and its LOCAL_RANK on its machine. Processes
either take shares of the work, and meet on disk and at a barrier, or form a group that works on one
thing together and exchanges tensors. A process alone has the whole share and is a group of one.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from panscope.errors import ConfigError, Incomplete, PanscopeError

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


@dataclass(frozen=True, slots=True)
class Group:
    """This process's number, from 0, among `size` that work on one thing together.

    All must ask for the same exchanges in the same order; in a group of one they change nothing.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes what all have made."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up every process's tensor, in place; all get the same bits."""
        if self.size > 1:
            with self._explaining():
                distributed.all_reduce(tensor)
        return tensor

    def gathered(self, tensor: Tensor) -> Tensor:
        """Put every process's tensor, all of one shape, one after another along the first axis."""
        if self.size == 1:
            return tensor
        everyones = tensor.new_empty(self.size * len(tensor), *tensor.shape[1:])
        with self._explaining():
            distributed.all_gather(list(everyones.chunk(self.size)), tensor.contiguous())
        return everyones

    def most(self, number: int) -> int:
        """Return the largest of every process's number; no device is waited for."""
        return int(self.gathered(torch.tensor([number])).max()) if self.size > 1 else number

    def total(self, number: int) -> int:
        """Add up every process's number; no device is waited for."""
        return int(self.sum_(torch.tensor(number))) if self.size > 1 else number

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the first process through a block before the others, which find what it has done.

        If it fails, they do.
        """
        if not self.is_first:
            if self.total(0):
                do = "look at what the first one says"
                raise PanscopeError(self._name, "the first process has failed", do)
            yield
            return
        failed = 1
        try:
            yield
            failed = 0
        finally:
            self.total(failed)

    @property
    def _name(self) -> str:
        return f"process {self.rank} of {self.size}"

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Say what it means when an exchange fails."""
        try:
            yield
        except RuntimeError as error:  # gloo's and NCCL's: the other end is gone, or is silent
            found = f"an exchange with the others failed ({str(error).partition('. ')[0]})"
            do = "look at what they say; the same command goes on from the last checkpoint"
            raise PanscopeError(self._name, found, do) from error


ALONE = Group()


def together(share: Share, size: int) -> Group:
    """Make a group of the processes that share a run; ConfigError if there are not `size`."""
    if share.world != size:
        found = f"wants {size} processes, and {share.world} started"
        do = f"start them with torchrun --nproc-per-node {size} -m panscope train ..."
        raise ConfigError("train.latent_shards", found, do)
    return Group(share.rank, size) if size > 1 else ALONE


@contextmanager
def joined() -> Iterator[Share]:
    """Join the processes that torchrun started with this one, on the GPU of its number if any.

    Yields this process's share: all, where torchrun did not start it.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield WHOLE
        return
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(_own_gpu())
    rank = int(os.environ["RANK"])
    distributed.init_process_group(
        backend, timeout=LONGEST_WAIT, store=_meeting(), rank=rank, world_size=world
    )
    try:
        yield Share(rank, world)
    finally:
        distributed.destroy_process_group()


def _own_gpu() -> int:
    """Return the GPU of this process's number on its machine; ConfigError if there are too few."""
    number, n_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= n_gpus:
        found = f"is process {number + 1} of this machine, which has {n_gpus} GPU(s)"
        do = (
            "start one process a GPU, or, for CPUs alone, put CUDA_VISIBLE_DEVICES= before torchrun"
        )
        raise ConfigError("torchrun", found, do)
    return number


def _meeting() -> Store:
    """Return where this life of the processes meets, under a name of its own.

    torchrun may keep the place for the next life. Left to itself torch (2.13) then finds addresses
    of processes that are dead: every second restart failed.
    """
    is_kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_host = not is_kept and os.environ["RANK"] == "0"
    place = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=is_host)
    return PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), place)


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
