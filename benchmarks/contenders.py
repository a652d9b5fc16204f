"""Who is timed: the floor, the dense definition, ours, and the peers."""

from collections.abc import Callable
from functools import partial
from itertools import count

import peers
import torch
from peers import Contender, Start
from torch import Tensor

from panscope.kernels import reference
from panscope.sites import Site
from panscope.stages.train.bank import begin
from panscope.stages.train.objective import Config, Schedule, Threshold
from panscope.stages.train.sweep import specs


def floor(start: Start) -> Contender:
    """One encoder product in fp32, by torch, into memory that is there already."""
    w, out = start.w_enc.T.contiguous(), torch.empty(start.n_tokens, len(start.w_enc))
    return Contender(lambda x: torch.mm(x, w, out=out), lambda x: 0.0)


def dense(start: Start) -> Contender:
    """The definition, by autograd, and torch's Adam."""
    values = (start.w_enc.T, start.b_enc, start.w_dec, start.b_dec, start.threshold)
    leaves = [v.clone(memory_format=torch.contiguous_format).requires_grad_() for v in values]
    w_enc, b_enc, w_dec, b_dec, threshold = leaves
    adam = torch.optim.Adam(leaves, peers.LEARNING_RATE, (0.0, 0.999))

    def loss(x: Tensor) -> Tensor:
        z = torch.addmm(b_enc, x - b_dec, w_enc)
        f = reference.jumprelu(z, threshold, start.bandwidth)
        l0 = reference.l0(z, threshold, start.bandwidth)
        error = reference.decode(f, w_dec, b_dec) - x
        return error.square().sum(1).mean() + (l0 / start.l0 - 1).square()

    def step(x: Tensor) -> None:
        adam.zero_grad()
        loss(x).backward()
        with torch.no_grad():
            assert w_dec.grad is not None
            w_dec.grad -= (w_dec.grad * w_dec).sum(1, keepdim=True) * w_dec
            adam.step()
            w_dec.div_(w_dec.norm(dim=1, keepdim=True))

    encode = peers.mean_l0(lambda x: reference.encode(x - b_dec, w_enc, b_enc, threshold))
    return Contender(step, encode)


def ours(*starts: Start) -> Contender:
    """A bank of one Sae for each start, as training runs it."""
    site, width = Site("resid_post", 0), len(starts[0].w_enc)
    config = Config(
        sites=(str(site),),
        widths=(width,),
        target_l0=tuple(float(start.l0) for start in starts),
        schedule=Schedule(
            learning_rate=peers.LEARNING_RATE,
            warmup_steps=0,
            decay_share=0,
            sparsity_warmup_steps=0,
        ),
        threshold=Threshold(initial=1, bandwidth=starts[0].bandwidth),
    )
    unit = torch.eye(starts[0].w_enc.shape[1])  # rows of norm 1: the bank's scale is 1
    bank = begin(config, specs(config, n_layers=1), [{site: unit}])
    for member, start in zip(bank.members, starts, strict=True):
        v = member.vectors
        peers.fill_([(member.rows.w_enc, start.w_enc), (member.rows.w_dec, start.w_dec)])
        peers.fill_([(v["b_enc"], start.b_enc), (v["b_dec"], start.b_dec)])
        peers.fill_([(v["threshold"], start.threshold)])
        member.density = start.l0 / width
    steps = count()

    @torch.inference_mode()
    def step(x: Tensor) -> None:
        bank.step_({site: x}, next(steps))

    return Contender(step, lambda x: peers.mean_l0(bank.members[0].sae().encode)(x))


Weights = Callable[[int], Start]
"""Gives weights of an L0."""


def alone(build: Callable[[Start], Contender], weights: Weights) -> Contender:
    """Start one Sae at the common L0."""
    return build(weights(L0))


def four(weights: Weights) -> Contender:
    """Start four Saes of other L0, of the same mean."""
    return ours(*map(weights, FOUR))


L0 = 32
FOUR = (16, 24, 40, 48)
CONTENDERS: dict[str, tuple[Callable[[Weights], Contender], str]] = {
    "floor": (partial(alone, floor), "torch"),
    "dense": (partial(alone, dense), "torch"),
    "panscope": (partial(alone, ours), "panscope"),
    "panscope, four Saes": (four, "panscope"),
    "SAELens JumpReLU": (partial(alone, peers.saelens_jumprelu), "sae_lens"),
    "SAELens TopK": (partial(alone, peers.saelens_topk), "sae_lens"),
    "dictionary_learning JumpReLU": (
        partial(alone, peers.dictionary_learning_jumprelu),
        "dictionary_learning",
    ),
    "dictionary_learning BatchTopK": (
        partial(alone, peers.dictionary_learning_batchtopk),
        "dictionary_learning",
    ),
    "sparsify TopK": (partial(alone, peers.sparsify_topk), "sparsify"),
}
"""How each is built, and the library it needs."""
