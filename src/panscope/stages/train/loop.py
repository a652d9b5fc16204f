"""The training loop: batches in, a Suite out; resumable to the bit.

The stream is a function of the batch number alone, so a checkpoint holds the members and the step.
Metrics stay on the device and are read every `READ_STEPS`; no step waits for the host.
"""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from panscope import files
from panscope.config import digest_of
from panscope.errors import ConfigError, Corrupt
from panscope.events import Advanced, Emit, Finished, Started
from panscope.sae.suite import FILES, KIND, write_sae
from panscope.sites import Site
from panscope.stages.train.bank import Member, Spec, scale_of, specs
from panscope.stages.train.objective import Config

Batch = Mapping[Site, Tensor]
BatchesFrom = Callable[[int], Iterator[Batch]]

STAGE = "train"
CHECKPOINT = ".checkpoint.safetensors"
READ_STEPS = 20
SCALE_BATCHES = 4  # of the stream's first: 1 % of error in the scale at 4,096 tokens a batch


def run(
    config: Config,
    sites: Sequence[Site],
    batches_from: BatchesFrom,
    inputs: Mapping[str, str],
    out: Path,
    emit: Emit,
) -> files.Manifest:
    """Train the suite that `config` asks for and write it to `out`.

    `batches_from(k)` yields the stream from batch k on: raw activations, one tensor a site, each of
    `config.batch_tokens` rows. `inputs` names what the stream was made from. A finished suite is
    reused, an interrupted one resumed; ConfigError if `out` holds another one.
    """
    described = config.model_dump(mode="json")
    for left_over in out.glob(f".{CHECKPOINT}.*.tmp"):  # of a process killed while writing it
        left_over.unlink()
    if manifest := files.made(out, KIND, described, inputs):
        (out / CHECKPOINT).unlink(missing_ok=True)
        emit(Finished(STAGE, 0.0, reused=True))
        return manifest
    started = time.monotonic()
    with torch.inference_mode():
        stream = batches_from(0)
        first = list(itertools.islice(stream, SCALE_BATCHES))
        members = _members(config, sites, first)
        step = _read_checkpoint_(members, _key(config, inputs), out)
        batches = batches_from(step) if step else itertools.chain(first, stream)
        del first, stream  # with a bucket in them: resuming must not hold two
        _train_(members, step, config, batches, inputs, out, emit)
        manifest = _write(members, config, inputs, out)
    emit(Finished(STAGE, time.monotonic() - started))
    return manifest


def _train_(
    members: Sequence[Member],
    first_step: int,
    config: Config,
    batches: Iterator[Batch],
    inputs: Mapping[str, str],
    out: Path,
    emit: Emit,
) -> None:
    emit(Started(STAGE, config.n_steps * config.batch_tokens, "tokens"))
    for step in range(first_step, config.n_steps):
        batch = next(batches)
        seen = [member.step_(batch[member.spec.site], step, config) for member in members]
        if (step + 1) % READ_STEPS == 0 or step + 1 == config.n_steps:
            loss, l0 = torch.stack(seen).mean(0).tolist()
            metrics = {"loss": loss, "l0": l0}
            emit(Advanced(STAGE, (step + 1) * config.batch_tokens, metrics))
        if (step + 1) % config.checkpoint_steps == 0:
            _write_checkpoint(members, step + 1, _key(config, inputs), out)


def _members(config: Config, sites: Sequence[Site], first: Sequence[Batch]) -> list[Member]:
    """Make the bank at step 0, its scales from the stream's first batches."""
    x_at = {site: torch.cat([batch[site] for batch in first]) for site in sites}
    return [_member(spec, x_at[spec.site], config) for spec in specs(config, sites)]


def _member(spec: Spec, x: Tensor, config: Config) -> Member:
    return Member.begin(spec, x.shape[1], scale_of(x), config, x.device)


def _key(config: Config, inputs: Mapping[str, str]) -> str:
    return digest_of({"config": config.model_dump(mode="json"), "inputs": dict(inputs)})


def _write_checkpoint(members: Sequence[Member], step: int, key: str, out: Path) -> None:
    state = {name: tensor for member in members for name, tensor in member.state().items()}
    metadata = {"step": str(step), "key": key, "sha256": _sha256(state)}
    files.write_bytes(out / CHECKPOINT, save(state, metadata))


def _read_checkpoint_(members: Sequence[Member], key: str, out: Path) -> int:
    """Load the checkpoint of this very recipe into the members and return its step, or 0."""
    path = out / CHECKPOINT
    if not path.is_file():
        return 0
    remedy = "delete it to train from the start"
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata()
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise Corrupt(str(path), f"is not a checkpoint ({error})", remedy) from error
    if metadata["sha256"] != _sha256(state):
        raise Corrupt(str(path), "its tensors do not match their checksum", remedy)
    if metadata["key"] != key:
        found = "was written by another recipe"
        raise ConfigError(str(path), found, "choose another output or delete that folder")
    for member in members:
        member.load_(state)
    return int(metadata["step"])


def _sha256(state: Mapping[str, Tensor]) -> str:
    """Hash tensors by name and bytes."""
    hashed = hashlib.sha256()
    for name in sorted(state):
        hashed.update(name.encode())
        hashed.update(state[name].cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()


def _write(
    members: Sequence[Member], config: Config, inputs: Mapping[str, str], out: Path
) -> files.Manifest:
    files.clear_unsealed(out, FILES)
    for member in members:
        write_sae(out, member.spec.sae, member.sae())
    trained = config.n_steps * config.batch_tokens
    facts = {"saes": [{**_facts(member), "trained_tokens": trained} for member in members]}
    described = config.model_dump(mode="json")
    manifest = files.seal(out, KIND, described, inputs, facts)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return manifest


def _facts(member: Member) -> dict[str, object]:
    spec = member.spec
    return {
        "sae": spec.sae,
        "site": str(spec.site),
        "width": spec.width,
        **spec.penalty.model_dump(),
        "seed": spec.seed,
        "scale": member.scale,
    }
