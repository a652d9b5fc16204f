"""A safetensors file as bytes: a header, then each tensor's values as they lie in memory.

The library's own writer copies all values twice before the first is written, and its reader opens
local paths only. Here values are written from where they are, and read as views of whatever holds
the file's bytes, a mapping or memory.
"""

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from panscope.place import Buffer

_NAMES = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.int8: "I8",
    torch.int32: "I32",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_LENGTH_BYTES = 8


def parts_of(tensors: Mapping[str, Tensor]) -> list[Buffer]:
    """Return the parts of a file that holds contiguous CPU tensors: no value is copied.

    Wide types come first, so that each tensor begins at a multiple of its type's size.
    """
    widest_first = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    entries, end = {}, 0
    for name, tensor in widest_first:
        begin, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _LENGTH_BYTES)  # values begin at a multiple of 8 bytes
    length = len(header).to_bytes(_LENGTH_BYTES, "little")
    return [length + header, *(_memory_of(tensor) for _, tensor in widest_first)]


def tensors_in(data: Buffer) -> dict[str, Tensor]:
    """Return a file's tensors as views of its bytes, which have been checked."""
    length = int.from_bytes(memoryview(data)[:_LENGTH_BYTES], "little")
    entries = json.loads(bytes(memoryview(data)[_LENGTH_BYTES : _LENGTH_BYTES + length]))
    values = torch.frombuffer(data, dtype=torch.uint8)[_LENGTH_BYTES + length :]
    tensors = {}
    for name, entry in entries.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            raw = values[begin:end].view(_DTYPES[entry["dtype"]])
            tensors[name] = raw.view(entry["shape"])
    return tensors


def _memory_of(tensor: Tensor) -> memoryview:
    return tensor.view(-1).view(torch.uint8).numpy().data
