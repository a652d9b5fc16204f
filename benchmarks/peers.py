"""Other trainers under one interface, so that one loop can time them all.

Each contender drives the class that its library ships, as the library's own loop does, from given
weights. `make peers` installs them into an environment of their own; what is not installed there
is left out, with a sentence.
"""

import importlib.util
import os
import sys
import tempfile
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

os.environ |= {"TQDM_DISABLE": "1", "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}

LEARNING_RATE = 1e-5  # weights stay near where they began, so every step has the same L0
MANY_STEPS = 10**6


class Start(NamedTuple):
    """Weights to train on from; both matrices are (latents, d)."""

    w_enc: Tensor
    b_enc: Tensor
    w_dec: Tensor
    b_dec: Tensor
    threshold: Tensor
    l0: int
    bandwidth: float
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Contender:
    """One training step on a batch, and the mean L0 of the codes on it."""

    step: Callable[[Tensor], object]
    l0: Callable[[Tensor], float]


def missing(library: str) -> str | None:
    """Say that a library is not installed, if so."""
    if importlib.util.find_spec(library):
        return None
    return f"{library} is not installed here: `make peers` makes an environment that has it"


def mean_l0(encode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], float]:
    """Count what an encoder's codes hold, without a gradient."""

    @torch.no_grad()
    def count(x: Tensor) -> float:
        return float((encode(x).to_dense() != 0).sum(1).float().mean())

    return count


@torch.no_grad()
def fill_(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Copy each value into its parameter."""
    for parameter, value in pairs:
        parameter.copy_(value)


def saelens_jumprelu(start: Start) -> Contender:
    from sae_lens import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig

    width, d = start.w_enc.shape
    config = JumpReLUTrainingSAEConfig(
        d_in=d,
        d_sae=width,
        device="cpu",
        jumprelu_bandwidth=start.bandwidth,
        jumprelu_sparsity_loss_mode="quadratic",
        target_l0=float(start.l0),
        l0_coefficient=1e-3,
    )
    sae = JumpReLUTrainingSAE(config)
    fill_([(sae.threshold, start.threshold)])
    return _saelens(sae, start)


def saelens_topk(start: Start) -> Contender:
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

    width, d = start.w_enc.shape
    config = TopKTrainingSAEConfig(
        d_in=d,
        d_sae=width,
        device="cpu",
        k=start.l0,
        use_sparse_activations=True,
        rescale_acts_by_decoder_norm=False,  # with sparse codes it fails in backward, torch 2.13
    )
    return _saelens(TopKTrainingSAE(config), start)


def _saelens(sae: torch.nn.Module, start: Start) -> Contender:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    fill_([(sae.W_enc, start.w_enc.T), (sae.W_dec, start.w_dec)])
    fill_([(sae.b_enc, start.b_enc), (sae.b_dec, start.b_dec)])
    config = SAETrainerConfig(
        total_training_samples=MANY_STEPS,
        train_batch_size_samples=1,
        device="cpu",
        lr=LEARNING_RATE,
        lr_end=LEARNING_RATE,
        lr_warm_up_steps=0,
        lr_decay_steps=0,
        adam_beta1=0.0,
    )
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))

    def step(x: Tensor) -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    return Contender(step, mean_l0(sae.encode))


def dictionary_learning() -> types.ModuleType:
    """Import the trainers; the package's buffer asks for nnsight, which no trainer uses."""
    if "nnsight" not in sys.modules:
        sys.modules["nnsight"] = types.ModuleType("nnsight")
        sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]
    return importlib.import_module("dictionary_learning.trainers")


def dictionary_learning_jumprelu(start: Start) -> Contender:
    width, d = start.w_enc.shape
    trainer = dictionary_learning().JumpReluTrainer(
        steps=MANY_STEPS,
        activation_dim=d,
        dict_size=width,
        layer=0,
        lm_name="none",
        lr=LEARNING_RATE,
        bandwidth=start.bandwidth,
        target_l0=float(start.l0),
        warmup_steps=1,
    )
    ae = trainer.ae  # encodes x as it is: b_dec is folded into the encoder's bias
    fill_([(ae.W_enc, start.w_enc.T), (ae.W_dec, start.w_dec), (ae.threshold, start.threshold)])
    fill_([(ae.b_enc, start.b_enc - start.w_enc @ start.b_dec), (ae.b_dec, start.b_dec)])
    return Contender(_counted(trainer.update), mean_l0(ae.encode))


def dictionary_learning_batchtopk(start: Start) -> Contender:
    width, d = start.w_enc.shape
    trainer = dictionary_learning().BatchTopKTrainer(
        steps=MANY_STEPS,
        activation_dim=d,
        dict_size=width,
        k=start.l0,
        layer=0,
        lm_name="none",
        lr=LEARNING_RATE,
        warmup_steps=1,
        device="cpu",
    )
    ae = trainer.ae
    fill_([(ae.encoder.weight, start.w_enc), (ae.decoder.weight, start.w_dec.T)])
    fill_([(ae.encoder.bias, start.b_enc), (ae.b_dec, start.b_dec)])
    encode = mean_l0(lambda x: ae.encode(x, use_threshold=False))
    return Contender(_counted(trainer.update), encode)


def _counted(update: Callable[[int, Tensor], object]) -> Callable[[Tensor], object]:
    """Number the steps from 1: step 0 would replace b_dec by a geometric median."""
    steps = iter(range(1, MANY_STEPS))
    return lambda x: update(next(steps), x)


class Fed:
    """Runs a loop in a thread and hands it one batch each time it asks."""

    def __init__(self) -> None:
        self.asked, self.given = threading.Semaphore(0), threading.Semaphore(0)
        self.batch: Tensor | None = None
        self.error: Exception | None = None

    def start(self, loop: Callable[[], object]) -> None:
        """Run the loop until it asks for its first batch."""
        threading.Thread(target=self._run, args=(loop,), daemon=True).start()
        self._wait()

    def _run(self, loop: Callable[[], object]) -> None:
        try:
            loop()
        except Exception as error:  # noqa: BLE001  the thread that waits raises it
            self.error = error
            self.asked.release()

    def ask(self) -> Tensor:
        """Wait for a batch; the loop's side."""
        self.asked.release()
        self.given.acquire()
        assert self.batch is not None
        return self.batch

    def step(self, batch: Tensor) -> None:
        """Hand over a batch and wait until the loop asks for another."""
        self.batch = batch
        self.given.release()
        self._wait()

    def _wait(self) -> None:
        self.asked.acquire()
        if self.error:
            raise self.error


def sparsify_topk(start: Start) -> Contender:
    """Give `Trainer.fit` a model of one module, whose output is the batch."""
    from sparsify import SparseCoderConfig, TrainConfig, Trainer
    from transformers import PretrainedConfig, PreTrainedModel

    width, d = start.w_enc.shape
    fed, started = Fed(), False

    class Source(PreTrainedModel):
        config_class = PretrainedConfig
        base_model_prefix = ""

        def __init__(self) -> None:
            super().__init__(PretrainedConfig())
            self.out = torch.nn.Identity()
            self.anchor = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids: Tensor, **_: object) -> Tensor:
            x = fed.ask() if started else torch.zeros(input_ids.numel(), d)
            return self.out(x.unsqueeze(0))

    class Tokens(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return MANY_STEPS

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"input_ids": torch.ones(start.n_tokens, dtype=torch.long)}

    config = TrainConfig(
        SparseCoderConfig(num_latents=width, k=start.l0),
        batch_size=1,
        hookpoints=["out"],
        lr=LEARNING_RATE,
        log_to_wandb=False,
        save_every=MANY_STEPS,
        save_dir=tempfile.mkdtemp(),
    )
    trainer = Trainer(config, Tokens(), Source())  # runs the model once to learn d
    (sae,) = trainer.saes.values()
    started = True
    fed.start(trainer.fit)
    fill_([(sae.encoder.weight, start.w_enc), (sae.W_dec, start.w_dec)])
    fill_([(sae.encoder.bias, start.b_enc), (sae.b_dec, start.b_dec)])
    return Contender(fed.step, lambda x: float(sae.cfg.k))
