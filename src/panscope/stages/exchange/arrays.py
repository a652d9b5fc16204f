"""Arrays out of files that strangers wrote: safetensors, npz and pt, as data and nothing else.

Whatever such a file says of itself is checked before memory is given to it. An array is as large as
the bytes that it has in the file: members that unpack to more than `INFLATION` times what they
take, and tensors that stretch a few numbers by strides, are refused. Nothing is unpickled but by
`torch.load` with `weights_only`, which builds tensors and plain values.
"""

import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from panscope.errors import Corrupt, NotFound, PanscopeError, Unsupported

INFLATION = 20  # weights are noise: deflate saves a tenth of them
HEADER_BYTES = 1 << 16
PIECE_BYTES = 1 << 24
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of others a piece unpacks to any size
DAMAGE = (ValueError, EOFError, RuntimeError, OSError, struct.error, zlib.error, zipfile.BadZipFile)
"""What zipfile raises over bytes that are not what they were."""
RESTORE = "fetch the file again"
DTYPES = ("float16", "float32", "float64")

Arrays = Mapping[str, Any]
"""By name: tensors; of a pt file also the plain values beside them."""


def read(path: Path) -> Arrays:
    """Read all arrays of a file, by its suffix, as they are."""
    if not path.is_file():
        raise NotFound(str(path), "no such file", "check the path")
    match path.suffix:
        case ".safetensors":
            return _safetensors(path)
        case ".npz":
            return _npz(path)
        case _:
            return _pt(path)


def _safetensors(path: Path) -> Arrays:
    try:
        tensors: Arrays = load_file(path)
    except SafetensorError as error:
        raise Corrupt(str(path), f"is not safetensors ({error})", RESTORE) from error
    return tensors


def _npz(path: Path) -> Arrays:
    with _archive(path) as archive:
        return {
            member.filename.removesuffix(".npy"): _npy(path, archive, member)
            for member in archive.infolist()
        }


def _npy(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    """Read one array after its header; no more bytes than header and file agree on."""
    where = f"{path}: {member.filename.removesuffix('.npy')}"
    whatever = Exception  # a header is Python's syntax, and fails as its parsers do
    try:
        with archive.open(member) as file:
            return torch.from_numpy(_array(where, file, member.file_size))
    except PanscopeError:
        raise
    except whatever as error:
        raise Corrupt(where, f"is not an array ({error})", RESTORE) from error


def _array(where: str, file: Any, size: int) -> NDArray[Any]:
    is_first = npy.read_magic(file) == (1, 0)
    read_header = npy.read_array_header_1_0 if is_first else npy.read_array_header_2_0
    shape, by_columns, dtype = read_header(file, HEADER_BYTES)
    _check_dtype(where, dtype)
    n_bytes = size - file.tell()
    if n_bytes != dtype.itemsize * math.prod(shape) or min(shape, default=0) < 0:
        raise Corrupt(where, f"has {n_bytes} bytes for the shape {shape}", RESTORE)
    data = bytearray(n_bytes)
    _fill(data, file)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")


def _fill(data: bytearray, file: Any) -> None:
    """Read exactly as many bytes; the archive's checksum is compared at the last."""
    rest = memoryview(data)
    while rest:
        piece = file.read(min(len(rest), PIECE_BYTES))
        if not piece:
            raise EOFError("it ends early")
        rest[: len(piece)] = piece
        rest = rest[len(piece) :]


def _check_dtype(where: str, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise Unsupported(where, "holds pickled objects", "save it as an array of numbers")
    if not dtype.isnative:
        raise Unsupported(where, f"is big-endian ({dtype.str})", "save it with dtype '<f4'")
    if dtype.name not in DTYPES:
        raise Unsupported(where, f"has the type {dtype}", f"save it as {' or '.join(DTYPES)}")


def _pt(path: Path) -> Arrays:
    _archive(path).close()
    whatever = Exception  # of damaged bytes an unpickler raises what its opcodes lead to
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        do = "save it as a state dict of tensors, or as safetensors"
        raise Unsupported(str(path), "holds more than tensors, which may be code", do) from error
    except whatever as error:
        raise Corrupt(str(path), f"is no whole torch file ({error})", RESTORE) from error
    if not isinstance(tree, dict):
        found = f"holds a {type(tree).__name__}"
        raise Unsupported(str(path), found, "save it as a state dict")
    named = {name: value for name, value in tree.items() if isinstance(name, str)}
    for name, value in named.items():
        if isinstance(value, Tensor):
            _check_storage(f"{path}: {name}", value)
    return named


def _check_storage(where: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided:
        raise Unsupported(where, f"is {tensor.layout}", "save it as a dense tensor")
    if tensor.is_meta:
        raise Unsupported(where, "has a shape and no numbers", "save it from a device")
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        found = f"claims {tensor.nbytes} bytes of {tensor.untyped_storage().nbytes()}"
        raise Unsupported(where, found, "save it contiguous")


def _archive(path: Path) -> zipfile.ZipFile:
    """Open a zip whose members lie in it side by side and unpack to about what they take."""
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        do = f"{RESTORE}, or save it with torch 1.6 or later"
        raise Corrupt(str(path), "is not a zip archive", do) from error
    try:
        _check_members(path, archive.infolist())
    except PanscopeError:
        archive.close()
        raise
    return archive


def _check_members(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    for member in members:
        if member.file_size > INFLATION * max(member.compress_size, HEADER_BYTES):
            found = f"{member.filename} unpacks {member.compress_size} bytes to {member.file_size}"
            raise Unsupported(str(path), found, "save it uncompressed")
        if member.compress_type not in PACKINGS:
            found = f"{member.filename} is packed by method {member.compress_type}"
            raise Unsupported(str(path), found, "save it uncompressed")
    packed, size = sum(member.compress_size for member in members), path.stat().st_size
    if packed > size:
        raise Corrupt(str(path), f"claims {packed} bytes of {size}", RESTORE)
