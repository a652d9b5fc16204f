"""This machine's rates, measured in about twenty seconds: products, forward passes, the disk."""

import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import torch

from panscope.errors import PanscopeError
from panscope.events import Advanced, Emit, Finished, Started
from panscope.model import load, tap
from panscope.plan.machines import Machine
from panscope.plan.work import Wanted
from panscope.stages.train import memory
from panscope.stages.train.pace import Product, floor_seconds
from panscope.stages.train.sweep import sites_of

STAGE = "calibrate"
SECONDS = 20.0
MEASURED = 4
FLOPS = {"cpu": 1e11, "cuda": 1e14}  # of one timed pass: about a second, if a row is not more
CHUNK = 1 << 26  # bytes, written and synced at a time
MOST_CHUNKS = 64  # 4 GiB
FREE_SHARE = 0.1  # of the disk's free space that may be used

Measure = Callable[[], float]
"""Does something once and returns its rate."""


def here(wanted: Wanted, folder: Path, emit: Emit, seconds: float = SECONDS) -> Machine:
    """Measure this machine with a recipe's own shapes and, for the disk, near a folder.

    Raises PanscopeError if nothing can be written there.
    """
    device = load.device_of(wanted.recipe.model)
    clock = _Clock(emit, seconds)
    emit(Started(STAGE, round(seconds), "seconds"))
    with torch.inference_mode():
        train_flops = clock.median(partial(_products, wanted, device))
        model_flops = clock.median(_forward(wanted, device))
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    with _scratch(there) as file:
        n_chunks = int(FREE_SHARE * shutil.disk_usage(there).free / CHUNK)
        write_bytes, read_bytes = _disk(file, min(max(1, n_chunks), MOST_CHUNKS), clock)
    emit(Finished(STAGE, clock.passed))
    return Machine(
        name="this machine",
        memory_bytes=memory.memory_of(device),
        model_flops=model_flops,
        train_flops=train_flops,
        write_bytes=write_bytes,
        read_bytes=read_bytes,
        is_gpu=device.type == "cuda",
    )


class _Clock:
    """Gives each measurement its share of the time, and reports what has passed."""

    def __init__(self, emit: Emit, seconds: float) -> None:
        self._emit, self._seconds = emit, seconds
        self._started = time.monotonic()

    @property
    def passed(self) -> float:
        """The seconds since the start."""
        return time.monotonic() - self._started

    def ticks(self) -> Iterator[None]:
        """Yield once, and again until a measurement's share of the time is over."""
        end = self.passed + self._seconds / MEASURED
        while True:
            yield
            self._emit(Advanced(STAGE, min(round(self.passed), round(self._seconds))))
            if self.passed >= end:
                return

    def median(self, measure: Measure) -> float:
        """Measure for a share of the time; the first warms up, and counts if there is no other."""
        ticks = self.ticks()
        first = [measure() for _ in itertools.islice(ticks, 1)]
        return statistics.median([measure() for _ in ticks] or first)


def _products(wanted: Wanted, device: torch.device) -> float:
    """Multiply as the trainer does for every Sae of the suite, in float32, cut down."""
    size = wanted.recipe.train.batch_tokens
    products = [Product(size, wanted.size(spec.reads), spec.width) for spec in wanted.specs]
    return sum(product.flops for product in products) / floor_seconds(products, device)


def _forward(wanted: Wanted, device: torch.device) -> Measure:
    """Prepare forward passes, of the model if it is here, or products of a layer's size."""
    recipe, shape = wanted.recipe, wanted.shape
    context, most = recipe.text.context, FLOPS[device.type]
    sites = sites_of(wanted.specs)
    flops = context * wanted.forward(sites)
    if flops and load.is_here(recipe.model):  # the embedding alone takes none
        model = load.load(recipe.model)
        n_rows = min(recipe.harvest.batch_rows, 1 + int(most / flops))
        ids = torch.randint(shape.n_vocab, (n_rows, context), device=device)
        return partial(_rate, lambda: tap.run(model, ids, read=sites), n_rows * flops, device)
    kind = {"dtype": getattr(torch, recipe.model.dtype), "device": device}
    w = torch.randn(shape.d_model, shape.n_layer_parameters // shape.d_model, **kind)
    n_tokens = min(recipe.harvest.batch_rows * context, 1 + int(most / (2.0 * w.numel())))
    x = torch.randn(n_tokens, shape.d_model, **kind)
    return partial(_rate, lambda: torch.mm(x, w), 2.0 * n_tokens * w.numel(), device)


def _rate(run: Callable[[], object], flops: float, device: torch.device) -> float:
    def whole() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return flops / _seconds(whole)


@contextmanager
def _scratch(folder: Path) -> Iterator[IO[bytes]]:
    """Open a file without a name, which no kill leaves behind."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            yield file
    except OSError as error:
        found = f"the disk's speed cannot be measured ({error.strerror})"
        do = "give another --output, or --no-calibration"
        raise PanscopeError(str(folder), found, do) from error


def _disk(file: IO[bytes], n_chunks: int, clock: _Clock) -> tuple[float, float]:
    """Write and read; return bytes a second, each the median of its chunks.

    Memory that holds what was written is given up first, where the file system does that.
    """
    data = os.urandom(CHUNK)  # nothing that a file system could compress
    written = [_seconds(_write, file, data) for _ in itertools.islice(clock.ticks(), n_chunks)]
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    file.seek(0)
    read = [_seconds(file.read, CHUNK) for _ in itertools.islice(clock.ticks(), len(written))]
    return CHUNK / statistics.median(written), CHUNK / statistics.median(read)


def _write(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    os.fsync(file.fileno())


def _seconds(act: Callable[..., object], *args: object) -> float:
    started = time.perf_counter()
    act(*args)
    return time.perf_counter() - started
