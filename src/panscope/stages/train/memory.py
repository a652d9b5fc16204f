"""In which groups Saes are trained: what each needs in memory, and how much there is.

Saes that fit in memory together share each batch of the stream; what does not fit is trained in
another pass over the same stream, so no Sae's result depends on the grouping.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from panscope.errors import ConfigError
from panscope.sites import Site
from panscope.stages.train.objective import Config
from panscope.stages.train.sweep import Spec

FLOAT_BYTES = 4
DENSEST_STEP_BYTES = {"gated": 56, "relu": 40, "topk": 24, "batch_topk": 24, "jumprelu": 16}
"""For each pre-activation of a batch, while codes are dense: measured at 2,048 x 4,096."""
SHARE = 0.5  # of the device's memory, when the recipe names no limit
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

Sizes = Mapping[Site, int]
"""The number of dimensions at each site."""


def state_bytes(spec: Spec, d_at: Sizes, shards: int = 1) -> int:
    """Return what a Sae keeps from step to step: weights and second moments, float32.

    Of `shards` processes that hold equal parts of its latents, each keeps so much.
    """
    d_in, d_out = (sum(d_at[site] for site in sites) for sites in (spec.reads, spec.writes))
    skip = d_in * d_out if spec.saes.kind == "skip_transcoder" else 0
    width = spec.width // shards
    vectors = 8 * width + d_out
    return 2 * FLOAT_BYTES * (width * (d_in + d_out) + skip + vectors)


def step_bytes(spec: Spec, d_at: Sizes, batch_tokens: int, shards: int = 1) -> int:
    """Return what a step needs besides, at most: inputs, errors, a packed encoder, the codes.

    Codes are at their densest in the first steps, where half of all latents may fire.
    """
    d_in, d_out = (sum(d_at[site] for site in sites) for sites in (spec.reads, spec.writes))
    width = spec.width // shards
    dense = batch_tokens * (3 * d_in + (2 + len(spec.bounds)) * d_out) + width * d_in
    codes = DENSEST_STEP_BYTES[spec.saes.architecture] * batch_tokens * width
    return FLOAT_BYTES * dense + codes


def groups(
    wanted: Sequence[Spec], d_at: Sizes, config: Config, device: torch.device
) -> list[tuple[Spec, ...]]:
    """Split Saes, in order, into groups whose memory stays within the recipe's limit.

    Raises ConfigError if one Sae alone does not fit.
    """
    limit = int(config.memory_gb * 1e9) if config.memory_gb else _limit(config, device)
    packed: list[list[Spec]] = [[]]
    for spec in wanted:
        alone = group_bytes([spec], d_at, config, device)
        if alone > limit:
            found = f"needs {alone / 1e9:.1f} GB, more than the {limit / 1e9:.1f} GB it may take"
            raise ConfigError(spec.sae, found, "raise train.memory_gb, or lower its width")
        if group_bytes([*packed[-1], spec], d_at, config, device) > limit:
            packed.append([])
        packed[-1].append(spec)
    return [tuple(group) for group in packed]


def _limit(config: Config, device: torch.device) -> int:
    """Return what a process may take of its GPU, or of a host that it shares with the others."""
    sharers = config.latent_shards if device.type == "cpu" else 1
    return int(SHARE * memory_of(device) / sharers)


def group_bytes(specs: Sequence[Spec], d_at: Sizes, config: Config, device: torch.device) -> int:
    """Return the memory of a group: states, inputs, and a step for each that is trained at once.

    With `latent_shards`, that of each process.
    """
    shards = config.latent_shards
    at_once = torch.get_num_threads() if device.type == "cpu" and shards == 1 else 1
    states = sum(state_bytes(spec, d_at, shards) for spec in specs)
    ends = {ends for spec in specs for ends in (spec.reads, spec.writes)}
    inputs = config.batch_tokens * sum(d_at[site] for sites in ends for site in sites)
    steps = sorted(step_bytes(spec, d_at, config.batch_tokens, shards) for spec in specs)
    return states + FLOAT_BYTES * inputs + sum(steps[-at_once:])


def memory_of(device: torch.device) -> int:
    """Return a device's whole memory in bytes; of the host, what its container may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([host, *container_limits()])


def container_limits(paths: Sequence[str] = CONTAINER_LIMITS) -> list[int]:
    """Return the limits that control groups set; "max" is none."""
    found = [Path(path).read_text().strip() for path in paths if Path(path).is_file()]
    return [int(text) for text in found if text.isdecimal()]
