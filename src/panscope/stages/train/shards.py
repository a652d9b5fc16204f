"""Latents in shards: a Sae of which each process of a group holds an equal slice.

All processes see the same batches. The encoder's product and every gather by latent are a process's
own. What all rebuild is summed, once a step: tokens x d_out numbers (Matryoshka: a prefix), as in
the tensor parallelism of Gemma Scope (Lieberum et al. 2024, arXiv:2408.05147, section 3.3). So
the error, and with it the gradients of what all share (`b_dec`, `skip`), is the same to the bit in
all of them. Alone, a process holds the whole, and its steps are those of a trainer without shards.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from panscope.dist import Group
from panscope.errors import PanscopeError
from panscope.kernels.pairs import Body, Decoder, Pairs, PerPair, Residual, compared_


def bounds_here(bounds: tuple[int, ...], group: Group) -> tuple[int, ...]:
    """Return before which of this process's latents each prefix ends; the last is their number.

    >>> [bounds_here((8, 30, 48), Group(rank, 2)) for rank in (0, 1)]
    [(8, 24, 24), (0, 6, 24)]
    """
    width = bounds[-1] // group.size
    first = group.rank * width
    return tuple(min(max(bound - first, 0), width) for bound in bounds)


def residual(
    body: Body,
    pairs: Pairs,
    f: PerPair,
    w_dec: Decoder,
    target: Float[Tensor, "tokens d_out"],
    bounds: tuple[int, ...],
    group: Group,
) -> Residual:
    """Compare what all processes rebuild with `target`, and pull on this one's pairs."""
    if group.size == 1:
        return body.residual(pairs, f, w_dec, target, bounds)
    rebuilt = group.sum_(body.decode(pairs, f, w_dec, bounds))
    error, squared = compared_(rebuilt, target)
    return Residual(error, body.pull(pairs, error, w_dec, bounds), squared)


def largest(pairs: Pairs, k: int, group: Group) -> Pairs:
    """Keep each token's k largest values over all processes' latents."""
    if group.size == 1:
        return pairs.largest(k)
    return pairs.kept(are_largest(pairs.padded(), k, group)[pairs.token.long(), pairs.slot])


def are_largest(z: Float[Tensor, "rows here"], k: int, group: Group) -> Bool[Tensor, "rows here"]:
    """Mark, row by row, what is among the k largest of all processes' values.

    Each process cuts the same candidates in the same way, so equal values are told apart alike.
    """
    best = z.topk(min(k, z.shape[1]))  # more than k of one process cannot be among the largest
    mine = torch.ones_like(best.indices, dtype=torch.bool)
    if group.size > 1:
        candidates = z.new_full((k, len(z)), -torch.inf)
        candidates[: z.shape[1]] = best.values.T
        everyones = group.gathered(candidates)
        chosen = torch.zeros_like(everyones, dtype=torch.bool)
        chosen.scatter_(0, everyones.topk(k, dim=0).indices, True)
        mine = chosen[group.rank * k :][: best.values.shape[1]].T
    return torch.zeros_like(z, dtype=torch.bool).scatter_(1, best.indices, mine)


def check_alike(name: str, shared: Tensor, group: Group) -> None:
    """Raise if a tensor that all processes share is not the same in all, to the bit."""
    everyones = group.gathered(shared[None])
    if not torch.equal(everyones, everyones[:1].expand_as(everyones)):
        found = f"is not the same in all {group.size} processes"
        do = "they must read the same activations: train from a store, on machines of one kind"
        raise PanscopeError(f"train, {name}", found, do)
