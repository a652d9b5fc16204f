"""Fit a JumpReLU Sae by each trainer: the same stream of batches, a Sae of ours as the result.

Every trainer sees the same tokens in the same order and gives a folded Sae: raw activations in,
raw units out. The peers' settings are the best of some tried on resid_post.2 at L0 32 (SAELens:
rates 1e-3 to 6e-3, kernels 0.05 to 1; dictionary_learning: rates 1e-3 to 1e-2, kernels 0.001 to
0.03); in worlds of known features SAELens has those of its own benchmark, SynthSAEBench.
"""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"TQDM_DISABLE": "1", "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}

import torch
from peers import dictionary_learning
from torch import Tensor

from panscope.sae.sae import Sae
from panscope.sites import Site

DEFAULTS: Mapping[str, float] = {}
PAPERS = {"momentum": 0.0, "bias_rate": 1.0}
"""Gemma Scope's: in worlds of known features momentum and slow biases leave latents dead."""
SITE = Site("resid_post", 0)  # a stream has one name here, whatever it holds
SCALE_BATCHES = 16

BatchesFrom = Callable[[int], Iterator[Tensor]]


@dataclass(frozen=True, slots=True)
class Problem:
    """A stream, and the Sae that is wanted of it."""

    batches_from: BatchesFrom
    """Batches of raw activations, from a number on."""
    d: int
    width: int
    tokens: int
    batch_tokens: int
    seed: int

    @property
    def n_steps(self) -> int:
        """The number of whole batches in `tokens`."""
        return self.tokens // self.batch_tokens

    @property
    def scale(self) -> float:
        """What brings the stream to unit mean square norm."""
        some = itertools.islice(self.batches_from(0), SCALE_BATCHES)
        return float(torch.cat(list(some)).square().sum(1).mean().sqrt())


def panscope(
    problem: Problem,
    price: float | None = None,
    target_l0: float | None = None,
    rates: tuple[float, ...] = (),
    schedule: Mapping[str, float] = DEFAULTS,
) -> Sae:
    """Fit by our trainer with its defaults, or at a given learning rate or schedule.

    `price` is of L0 where E|x|^2 = d, as for SAELens; here E|x|^2 = 1.
    """
    from panscope.events import silent
    from panscope.sae.suite import Suite
    from panscope.stages import train
    from panscope.stages.train.sweep import specs

    settings = {
        "sites": [str(SITE)],
        "widths": [problem.width],
        "target_l0": [] if target_l0 is None else [target_l0],
        "sparsity": [] if price is None else [price / problem.d],
        "seeds": [problem.seed],
        "tokens": problem.tokens,
        "batch_tokens": problem.batch_tokens,
        "learning_rates": rates,
        "schedule": dict(schedule),
    }
    config = train.Config.parse(settings, "benchmark")

    def batches_from(number: int, _: tuple[Site, ...]) -> Iterator[dict[Site, Tensor]]:
        return ({SITE: x} for x in problem.batches_from(number))

    with tempfile.TemporaryDirectory() as folder:
        bank = specs(config, n_layers=1)
        train.run(train.Work(config, [bank], batches_from, {}, Path(folder), silent))
        suite = Suite.open(Path(folder))
        return suite.load(suite.names[0])


def saelens(
    problem: Problem,
    price: float = 1.0,
    target_l0: float | None = None,
    lr: float = 1e-3,
    bandwidth: float = 1.0,
    threshold: float = 1.0,
    warmup_share: float = 0.0,
) -> Sae:
    """Fit by SAELens' `SAETrainer.fit`, scaled as its runner does by default for norms."""
    from sae_lens import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(problem.seed)
    scale = problem.scale / problem.d**0.5  # E|x|^2 = d
    mode = {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": target_l0}
    sae = JumpReLUTrainingSAE(
        JumpReLUTrainingSAEConfig(
            d_in=problem.d,
            d_sae=problem.width,
            device="cpu",
            l0_coefficient=price,
            l0_warm_up_steps=int(warmup_share * problem.n_steps),
            jumprelu_bandwidth=bandwidth,
            jumprelu_init_threshold=threshold,
            decoder_init_norm=0.5,  # at the default, 0.1, nothing passes a threshold of 1
            **(mode if target_l0 else {}),
        )
    )
    config = SAETrainerConfig(
        total_training_samples=problem.n_steps * problem.batch_tokens,
        train_batch_size_samples=problem.batch_tokens,
        device="cpu",
        lr=lr,
        lr_end=lr / 10,
        lr_warm_up_steps=0,
        lr_decay_steps=problem.n_steps // 3,
    )
    batches = (x / scale for x in problem.batches_from(0))
    SAETrainer(cfg=config, sae=sae, data_provider=batches).fit()
    return _folded(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.threshold, scale, sae.b_dec)


def dictionary_learning_jumprelu(
    problem: Problem, target_l0: float, lr: float = 3e-3, bandwidth: float = 0.03
) -> Sae:
    """Fit by dictionary_learning's `JumpReluTrainer.update`, as its own loop calls it."""
    torch.manual_seed(problem.seed)
    scale, n_steps = problem.scale, problem.n_steps
    trainer = dictionary_learning().JumpReluTrainer(
        steps=n_steps,
        activation_dim=problem.d,
        dict_size=problem.width,
        layer=0,
        lm_name="none",
        lr=lr,
        bandwidth=bandwidth,
        target_l0=target_l0,
        warmup_steps=n_steps // 30,
        sparsity_warmup_steps=n_steps // 5,
        decay_start=int(0.8 * n_steps),
    )
    for step, x in enumerate(itertools.islice(problem.batches_from(0), n_steps)):
        trainer.update(step, x / scale)
    ae = trainer.ae
    nothing = torch.zeros_like(ae.b_dec)
    return _folded(ae.W_enc, ae.b_enc, ae.W_dec, ae.b_dec, ae.threshold, scale, nothing)


@torch.no_grad()
def _folded(
    w_enc: Tensor,
    b_enc: Tensor,
    w_dec: Tensor,
    b_dec: Tensor,
    threshold: Tensor,
    scale: float,
    centre: Tensor,
) -> Sae:
    """Fold the scale and what was subtracted from the input; bring decoder rows to unit norm."""
    norms = w_dec.norm(dim=1)
    return Sae(
        w_enc=w_enc * norms,
        b_enc=scale * norms * (b_enc - centre @ w_enc),
        w_dec=w_dec / norms[:, None],
        b_dec=scale * b_dec,
        threshold=scale * norms * threshold,
        reads=(SITE,),
        writes=(SITE,),
    )
