"""In which groups Saes are trained: what each needs in memory, and how much there is.

Saes that are trained equally long and fit in memory together share each batch of the stream; the
others are trained in further passes over the same stream, so no Sae's result depends on the
grouping.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import accumulate
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


def state_bytes(spec: Spec, d_at: Sizes, config: Config) -> int:
    """Return what a Sae keeps from step to step: weights and their moments, float32.

    With `latent_shards`, that of each process.
    """
    d_in, d_out = (sum(d_at[site] for site in sites) for sites in (spec.reads, spec.writes))
    skip = d_in * d_out if spec.saes.kind == "skip_transcoder" else 0
    width = spec.width // config.latent_shards
    numbers = width * (d_in + d_out) + skip + 8 * width + d_out
    return (3 if config.schedule.momentum else 2) * FLOAT_BYTES * numbers


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
    wanted: Sequence[Spec], d_at: Sizes, config: Config, device: torch.device, n_workers: int = 1
) -> list[tuple[Spec, ...]]:
    """Split Saes into groups whose memory stays within the recipe's limit (see `packed`).

    At least one group for each worker, of about equal cost, if there are as many Saes. Workers with
    no limit from the recipe share the host's memory. Raises ConfigError if one Sae does not fit.
    """
    limit = limit_bytes(config, memory_of(device))
    if device.type == "cpu" and not config.memory_gb:
        limit //= n_workers * config.latent_shards
    for spec in wanted:
        alone = group_bytes([spec], d_at, config, device)
        if alone > limit:
            found = f"needs {alone / 1e9:.1f} GB, more than the {limit / 1e9:.1f} GB it may take"
            raise ConfigError(spec.sae, found, "raise train.memory_gb, or lower its width")
    parts = _parts(wanted, d_at, config, n_workers)
    return [group for part in parts for group in packed(part, d_at, config, device, limit)]


def _parts(wanted: Sequence[Spec], d_at: Sizes, config: Config, n: int) -> list[list[Spec]]:
    """Cut Saes, in order, into up to n parts of about equal state, so that a part has few sites."""
    costs = [state_bytes(spec, d_at, config) for spec in wanted]
    middles = [end - cost / 2 for end, cost in zip(accumulate(costs), costs, strict=True)]
    parts: list[list[Spec]] = [[] for _ in range(n)]
    for spec, middle in zip(wanted, middles, strict=True):
        parts[int(n * middle / sum(costs))].append(spec)
    return [part for part in parts if part]


def packed(
    wanted: Sequence[Spec], d_at: Sizes, config: Config, device: torch.device, limit: int
) -> list[tuple[Spec, ...]]:
    """Group Saes that are trained equally long and fit into `limit` bytes, the shortest first.

    One that does not fit alone is a group by itself.
    """
    by_length = sorted(wanted, key=lambda spec: spec.n_steps)
    groups: list[list[Spec]] = []
    for spec in by_length:
        together = [*groups[-1], spec] if groups else []
        is_as_long = groups and groups[-1][0].n_steps == spec.n_steps
        if is_as_long and group_bytes(together, d_at, config, device) <= limit:
            groups[-1].append(spec)
        else:
            groups.append([spec])
    return [tuple(group) for group in groups]


def limit_bytes(config: Config, memory: int) -> int:
    """Return what Saes trained together may take, on a device of so much memory."""
    return int(config.memory_gb * 1e9) if config.memory_gb else int(SHARE * memory)


def group_bytes(specs: Sequence[Spec], d_at: Sizes, config: Config, device: torch.device) -> int:
    """Return the memory of a group: states, inputs, and a step for each that is trained at once.

    With `latent_shards`, that of each process.
    """
    shards = config.latent_shards
    at_once = torch.get_num_threads() if device.type == "cpu" and shards == 1 else 1
    states = sum(state_bytes(spec, d_at, config) for spec in specs)
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
