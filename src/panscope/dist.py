"""The processes that work on one thing together: which this one is, and what they exchange.

torchrun starts them and sets RANK, WORLD_SIZE and LOCAL_RANK. A process alone is a group of one:
everything here then leaves its argument as it is. In a group of more, all must ask for the same
exchanges in the same order.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from panscope.errors import ConfigError, PanscopeError


@dataclass(frozen=True, slots=True)
class Group:
    """This process's number, from 0, among `size` processes."""

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


def started() -> Group:
    """Say which process this is of those that torchrun started, without joining them."""
    return Group(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


@contextmanager
def joined(size: int) -> Iterator[Group]:
    """Join the `size` processes that torchrun has started, for the length of a block.

    A group of one joins nobody. Raises ConfigError if another number was started.
    """
    if size == 1:
        yield ALONE
        return
    if (n_started := started().size) != size:
        found = f"wants {size} processes, and {n_started} started"
        do = f"start them with torchrun --nproc-per-node {size} -m panscope train ..."
        raise ConfigError("train.latent_shards", found, do)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group()
    try:
        yield started()
    finally:
        distributed.destroy_process_group()
