"""Time trainers by turns in one process: a round is one step of each on the same batch.

    python benchmarks/rounds.py D WIDTH ROUNDS NAME...

On a shared machine only what was measured side by side can be compared, so ratios are taken round
by round. Prints one JSON object: seconds of every round by contender, and what could not run.
`train.py` calls this with the environment (allocator, instruction set) that it wants measured.
"""

import json
import os
import sys
import time
from collections.abc import Sequence

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import torch
from contenders import CONTENDERS
from crowd import activations, crowd, weights
from peers import missing

N_TOKENS = 4096
N_BATCHES = 4
WARM_ROUNDS = 2


def measure(d: int, width: int, n_rounds: int, names: Sequence[str]) -> dict[str, object]:
    """Run the rounds; return seconds and L0 by contender."""
    generator = torch.Generator().manual_seed(0)
    world = crowd(d, generator)
    batches = [activations(world, N_TOKENS, generator) for _ in range(N_BATCHES)]
    start_at = weights(world, batches[0], width, generator)
    skipped = {name: text for name in names if (text := missing(CONTENDERS[name][1]))}
    running = {name: CONTENDERS[name][0](start_at) for name in names if name not in skipped}
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for number in range(WARM_ROUNDS + n_rounds):
        x = batches[number % N_BATCHES]
        for name, contender in running.items():
            began = time.perf_counter()
            contender.step(x)
            seconds[name].append(time.perf_counter() - began)
    return {
        "seconds": {name: times[WARM_ROUNDS:] for name, times in seconds.items()},
        "l0": {name: contender.l0(batches[0]) for name, contender in running.items()},
        "skipped": skipped,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def main() -> None:
    d, width, n_rounds, *names = sys.argv[1:]
    print(json.dumps(measure(int(d), int(width), int(n_rounds), names)), flush=True)
    os._exit(0)  # one library's loop still waits for a batch


if __name__ == "__main__":
    main()
