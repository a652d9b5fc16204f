"""The draw: the weights that a Sae begins with, a function of its seed.

In a group of processes each makes the whole draw, a shard at a time, and keeps its own: a shard
begins with the rows that it has in the Sae of one process, and no process needs room for the whole.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from panscope.dist import ALONE, Group
from panscope.kernels.pairs import Decoder, Encoder
from panscope.stages.train.sweep import Spec


def draw(spec: Spec, d_in: int, d_out: int, group: Group = ALONE) -> tuple[Encoder, Decoder]:
    """Draw rows He-uniform and bring them to unit norm; an autoencoder starts with both equal.

    A transcoder's encoder is drawn by itself (Gemma Scope, appendix C).
    """
    generator = torch.Generator().manual_seed(spec.seed)
    w_dec = _unit_rows(spec.width, d_out, generator, group)
    w_enc = w_dec.clone() if spec.centres else _unit_rows(spec.width, d_in, generator, group)
    return w_enc, w_dec


def _unit_rows(
    width: int, d: int, generator: torch.Generator, group: Group
) -> Float[Tensor, "shard d"]:
    bound, shard = math.sqrt(6 / d), (width // group.size, d)
    for rank in range(group.size):
        drawn = torch.empty(shard).uniform_(-bound, bound, generator=generator)
        if rank == group.rank:
            rows = drawn
    return rows.div_(rows.norm(dim=1, keepdim=True))
