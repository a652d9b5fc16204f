"""The training step on a GPU: ours against one encoder product, a compiled dense step and SAELens.

    python benchmarks/gpu.py [--rounds 11] [--json benchmarks/gpu.json] [--write]

Gemma-2-2B's size: d = 2304, widths 16k to 131k, batches of 4,096 tokens, L0 60; then 78 Saes of 16k
(all sites of 26 layers) in one bank. Contenders take turns on the same batches in one process;
medians of rounds, timed by events on the device. Prints tables and writes JSON; with --write the
tables go into benchmarks/README.md. SAELens is measured where it is installed (see `make peers`).
"""

import argparse
import gc
import json
import statistics
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from gpu_contenders import (
    N_TOKENS,
    WARM_ROUNDS,
    D,
    Ours,
    Step,
    Weights,
    activations,
    dense_step,
    in_tf32,
    product,
    saelens,
)
from tables import write_table
from torch import Tensor

WIDTHS = (16_384, 65_536, 131_072)
BANK_WIDTH, N_SITES = 16_384, 78
N_BATCHES = 4


def milliseconds(step: Step, x: Tensor) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    step(x)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def by_turns(
    builders: dict[str, Callable[[], Step]], batches: list[Tensor], n_rounds: int
) -> dict[str, float]:
    """Return medians over rounds; a contender that runs out of memory is left out."""
    steps: dict[str, Step] = {}
    times: dict[str, list[float]] = {name: [] for name in builders}
    for number in range(WARM_ROUNDS + n_rounds):
        for name in list(times):
            try:
                step = steps.setdefault(name, steps.get(name) or builders[name]())
                times[name].append(milliseconds(step, batches[number % N_BATCHES]))
            except torch.OutOfMemoryError:
                print(f"{name}: not enough memory", file=sys.stderr)
                del times[name]
                steps.pop(name, None)
    return {name: statistics.median(taken[WARM_ROUNDS:]) for name, taken in times.items()}


def measure(width: int, n_rounds: int) -> dict[str, float]:
    """Time one width; ours first and alone, for its peak of memory."""
    torch.compiler.reset()  # or the second width would be compiled for any width
    start, batches = Weights(width), activations(N_BATCHES, seed=1)
    before = settled_memory()
    ours = Ours(start)
    for x in batches:
        ours.step(x)
    memory = (torch.cuda.max_memory_allocated() - before) / 1e9
    builders: dict[str, Callable[[], Step]] = {
        "ours": lambda: ours.step,
        "product fp32": lambda: product(start, torch.float32),
        "product TF32": lambda: in_tf32(product(start, torch.float32)),
        "product fp16": lambda: product(start, torch.float16),
        "dense fp32": lambda: dense_step(start),
        "dense TF32": lambda: in_tf32(dense_step(start)),
    }
    times = by_turns(builders, batches, n_rounds)
    l0 = float(ours.l0)
    del ours, builders
    settled_memory()
    times |= saelens(start, batches, n_rounds)
    return {"width": width, "l0": l0, "memory_gb": memory, **times}


def measure_bank(n_rounds: int) -> dict[str, float | int]:
    """Time one step of every Sae of a bank, each on activations of its own site."""
    stated = N_SITES * (4 * BANK_WIDTH * D + N_TOKENS * D) * 4 / 1e9
    before = settled_memory()
    if stated * 1.1e9 > torch.cuda.mem_get_info()[0]:
        print(f"the bank needs {stated * 1.1:.0f} GB, more than is free here", file=sys.stderr)
        return {}
    sites = activations(N_SITES, seed=2)
    bank = [Ours(Weights(BANK_WIDTH, seed)) for seed in range(N_SITES)]

    def step(_: Tensor) -> None:
        for member, x in zip(bank, sites, strict=True):
            member.step(x)

    times = [milliseconds(step, sites[0]) for _ in range(WARM_ROUNDS + n_rounds)][WARM_ROUNDS:]
    memory = (torch.cuda.max_memory_allocated() - before) / 1e9
    l0 = statistics.mean(float(member.l0) for member in bank)
    milli = statistics.median(times)
    return {
        "saes": N_SITES,
        "width": BANK_WIDTH,
        "l0": l0,
        "ours": milli,
        "tokens_per_second": N_TOKENS / milli * 1e3,
        "stated_gb": stated,
        "memory_gb": memory,
    }


def settled_memory() -> int:
    """Free what nothing holds, forget the peak, and return the bytes that are held."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


LINES = {
    "width": ("latents", "{:,}"),
    "l0": ("L0", "{:.0f}"),
    "memory_gb": ("ours, peak memory, GB", "{:.1f}"),
    "ours": ("ours, ms", "{:.2f}"),
    "product fp32": ("encoder product in fp32, ms", "{:.2f}"),
    "product TF32": ("in TF32, ms", "{:.2f}"),
    "product fp16": ("in fp16, ms", "{:.2f}"),
    "dense fp32": ("dense step, compiled, fp32, ms", "{:.1f}"),
    "dense TF32": ("with TF32, ms", "{:.1f}"),
    "SAELens": ("SAELens JumpReLU, fp32, ms", "{:.1f}"),
}
RATIOS = (
    ("ours", "product fp32"),
    ("ours", "product TF32"),
    ("dense fp32", "ours"),
    ("dense TF32", "ours"),
    ("SAELens", "ours"),
)


def table(results: list[dict[str, float]]) -> str:
    """Lay out a line for each quantity, a column for each width."""
    lines = [
        [label, *(form.format(r[key]) if key in r else "–" for r in results)]
        for key, (label, form) in LINES.items()
    ]
    lines.insert(1, ["---", *("---:" for _ in results)])
    for above, below in RATIOS:
        lines.append([f"{above} / {below}", *(ratio(r, above, below) for r in results)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio(result: dict[str, float], above: str, below: str) -> str:
    if above in result and below in result:
        return f"{result[above] / result[below]:.2f}"
    return "–"


def machine() -> str:
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    return f"{torch.cuda.get_device_name()}, {versions}, {date.today().isoformat()}"


def bank_sentence(bank: dict[str, float | int]) -> str:
    return (
        f"{bank['saes']} Saes of {bank['width']:,}, L0 {bank['l0']:.0f}, in one bank: "
        f"{bank['ours']:.0f} ms a step of all, {bank['tokens_per_second']:,.0f} tokens/s; "
        f"{bank['stated_gb']:.1f} GB stated before, {bank['memory_gb']:.1f} GB at the peak."
    )


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a GPU with CUDA, and torch sees none on this machine.")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    results = [measure(width, asked.rounds) for width in WIDTHS]
    bank = measure_bank(max(3, asked.rounds // 2))
    text = "\n\n".join([machine(), table(results), *([bank_sentence(bank)] if bank else [])])
    if asked.write:
        write_table("gpu", text)
    else:
        print(text)
    found = {"machine": machine(), "widths": results, "bank": bank}
    asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
