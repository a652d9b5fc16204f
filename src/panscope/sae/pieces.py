"""A Sae's weights as a safetensors file, written piece by piece.

In a group of processes each holds an equal slice of the latents. All take part in writing, the
first one writes, and no process needs room for more than a piece of the whole.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from panscope.dist import ALONE, Group
from panscope.files import replacing

PIECE_NUMBERS = 1 << 24  # of one process: 64 MiB
NUMBER_BYTES = 4
AXIS = {"w_enc": 1, "b_enc": 0, "w_dec": 0, "threshold": 0}
"""Along which axis a weight's latents lie; the others belong to no latent."""


def write(path: Path, weights: Mapping[str, Tensor], group: Group) -> None:
    """Write the whole of weights of which this process holds its latents' part, as float32."""
    pieces = _placed(dict(sorted(weights.items())), group)
    if not group.is_first:
        for _ in pieces:  # each is an exchange
            pass
        return
    with replacing(path) as temporary, temporary.open("wb") as file:
        for start, piece in pieces:
            file.seek(start)
            file.write(piece)


def _placed(weights: Mapping[str, Tensor], group: Group) -> Iterator[tuple[int, memoryview]]:
    """Yield the head and every piece, each with the byte of the file at which it begins."""
    shapes = {name: _whole(name, weight, group) for name, weight in weights.items()}
    head = _head(shapes)
    yield 0, memoryview(head)
    start = len(head)
    for name, weight in weights.items():
        for row, piece in _pieces(weight, AXIS.get(name), group):
            before = row * piece[:1].numel() * NUMBER_BYTES
            yield start + before, piece.cpu().contiguous().numpy().data
        start += math.prod(shapes[name]) * NUMBER_BYTES


def _whole(name: str, weight: Tensor, group: Group) -> tuple[int, ...]:
    """Return a weight's shape with all latents."""
    axis = AXIS.get(name)
    return tuple(n * group.size if i == axis else n for i, n in enumerate(weight.shape))


def _head(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    tree, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * NUMBER_BYTES
        tree[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _pieces(weight: Tensor, axis: int | None, group: Group) -> Iterator[tuple[int, Tensor]]:
    """Yield some rows at a time of all processes, and the row of the whole they begin at."""
    group = ALONE if axis is None else group
    n_rows = max(1, PIECE_NUMBERS // max(1, weight[:1].numel()))
    for first in range(0, len(weight), n_rows):
        parts = group.gathered(weight[first : first + n_rows].float()).chunk(group.size)
        if axis == 1:
            yield first, torch.cat(parts, dim=1)
            continue
        for rank, part in enumerate(parts):
            yield rank * len(weight) + first, part
