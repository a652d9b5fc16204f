"""Checkpoints: all that training needs to go on, written whole or not at all, checked before use.

    suite/.checkpoints/
      bank-0/step-00000200.safetensors    the members of a bank after a step; the newest two
      bank-0.json  banks.json             the `ledger`

Of processes that split the latents each has its own, in `bank-0/process-1-of-2/`.

A file is written tensor by tensor, so no second copy of the weights is made, and read by mapping
it. Its header carries the BLAKE3 checksum of the whole file as it is with zeros for the checksum.
"""

import errno
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from safetensors import safe_open
from torch import Tensor

from panscope import files
from panscope.config import Config
from panscope.dist import ALONE, Group
from panscope.errors import ConfigError, Corrupt, PanscopeError

FOLDER = ".checkpoints"
KEPT = 2
CHUNK_BYTES = 1 << 24
NO_CHECKSUM = "0" * 64
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
RESTART = "delete it to train from the start"

Warn = Callable[[str], None]


class Header(Config):
    """What a checkpoint says of itself; safetensors has text only."""

    blake3: str
    key: str
    """Names the recipe, the inputs and the bank's Saes."""
    step: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read: how many steps were done, and every tensor by name."""

    path: Path
    step: int
    state: Mapping[str, Tensor]


def write(folder: Path, step: int, key: str, state: Mapping[str, Tensor]) -> None:
    """Write a checkpoint into a bank's folder and drop all but the newest two."""
    path = folder / f"step-{step:08d}.safetensors"
    with _explaining_a_full_disk(path, state), files.replacing(path) as temporary:
        _stream(temporary, Header(blake3=NO_CHECKSUM, key=key, step=str(step)), state)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()


def read(folder: Path, key: str, warn: Warn, group: Group = ALONE) -> Checkpoint | None:
    """Read a bank's newest checkpoint, or the one before if it is damaged; None if there is none.

    The processes of a group go on from the newest step that all of them have. Raises Corrupt if
    all are damaged or there is no such step, ConfigError if another recipe or input wrote them.
    """
    clear_leftovers(folder)
    newest = _newest(folder, key, warn)
    agreed = _agreed(folder, group)
    if newest is None or newest.step == agreed:
        return newest
    newest.path.unlink()  # a process was killed before it had written its own
    return _newest(folder, key, warn)


def _agreed(folder: Path, group: Group) -> int:
    """Return the newest step that all processes can go on from.

    Kill them at any instant: of the newest two of one, the others have one. A process that has
    fewer than two can also begin at 0.
    """
    steps = [int(path.stem.removeprefix("step-")) for path in _newest_first(folder)]
    everyones: list[list[int]] = group.gathered(torch.tensor([[*steps, 0, 0][:KEPT]])).tolist()
    common = set.intersection(*map(set, everyones))
    if not common:
        found = f"the {group.size} processes have no checkpoint of the same step"
        raise Corrupt(str(folder.parent), found, RESTART)
    return max(common)


def _newest(folder: Path, key: str, warn: Warn) -> Checkpoint | None:
    damaged: list[Path] = []
    for path in _newest_first(folder):
        header = _checked(path)
        if header is None:
            damaged.append(path)
            continue
        refuse_another(path, header.key, key)
        for bad in damaged:
            warn(f"{bad} is damaged and was dropped: going on from step {header.step}")
            bad.unlink()
        return Checkpoint(path, int(header.step), _mapped(path))
    if damaged:
        names = " and ".join(path.name for path in damaged)
        raise Corrupt(str(folder), f"{names}: damaged, and there is no other", RESTART)
    return None


def clear_leftovers(folder: Path) -> None:
    """Remove what a process that was killed while writing left behind."""
    for path in folder.glob(".*.tmp"):
        path.unlink()


def remove(suite: Path) -> None:
    """Remove all checkpoints of a suite that is sealed."""
    if (suite / FOLDER).is_dir():
        shutil.rmtree(suite / FOLDER)


def folder_of(suite: Path, bank: int, group: Group = ALONE) -> Path:
    """Return where this process's checkpoints of a bank lie."""
    folder = suite / FOLDER / f"bank-{bank}"
    return folder / f"process-{group.rank}-of-{group.size}" if group.size > 1 else folder


def refuse_another(path: Path, found: str, key: str) -> None:
    """Raise ConfigError for a file of another recipe or input than `key` names."""
    if found != key:
        what = "was written by another recipe or input"
        raise ConfigError(str(path), what, "choose another output or delete that folder")


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def _stream(path: Path, header: Header, state: Mapping[str, Tensor]) -> None:
    """Write safetensors: the header's length, the header, the tensors one after another."""
    names = sorted(state, key=lambda name: (-state[name].element_size(), name))  # aligned
    head = _head(header, {name: state[name] for name in names})
    hashed = blake3(head)
    with path.open("wb") as file:
        file.write(head)
        for name in names:
            data = state[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
            hashed.update(data)
            file.write(data)
        file.seek(head.index(NO_CHECKSUM.encode()))
        file.write(hashed.hexdigest().encode())


def _head(header: Header, state: Mapping[str, Tensor]) -> bytes:
    tree: dict[str, Any] = {"__metadata__": header.model_dump()}
    start = 0
    for name, tensor in state.items():
        end = start + tensor.nbytes
        dtype, shape = DTYPES[tensor.dtype], list(tensor.shape)
        tree[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _checked(path: Path) -> Header | None:
    """Compare a checkpoint's bytes with the checksum it carries; None if they differ."""
    with path.open("rb") as file:
        length = file.read(8)
        if int.from_bytes(length, "little") > path.stat().st_size:
            return None
        text = file.read(int.from_bytes(length, "little"))
        try:
            header = Header.model_validate(json.loads(text)["__metadata__"])
        except (ValueError, KeyError, TypeError):  # of JSON, UTF-8 and pydantic; no such key
            return None
        hashed = blake3(length)
        hashed.update(text.replace(header.blake3.encode(), NO_CHECKSUM.encode(), 1))
        while chunk := file.read(CHUNK_BYTES):
            hashed.update(chunk)
    return header if hashed.hexdigest() == header.blake3 else None


def _mapped(path: Path) -> dict[str, Tensor]:
    """Map the tensors of a checkpoint; their bytes are read when they are copied."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _explaining_a_full_disk(path: Path, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Say how much room a checkpoint wanted and how much there is."""
    try:
        yield
    except PanscopeError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        wanted = sum(tensor.nbytes for tensor in state.values()) / 1e6
        there = next(folder for folder in path.parents if folder.is_dir())
        free = shutil.disk_usage(there).free / 1e6
        found = f"the disk is full ({wanted:,.1f} MB wanted, {free:,.1f} MB free)"
        do = "make room there; the same command goes on from the last checkpoint"
        raise PanscopeError(str(path), found, do) from cause
