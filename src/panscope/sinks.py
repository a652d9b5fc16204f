"""Where else the numbers of training can go: TensorBoard, Weights & Biases.

Sinks of events, like those of `panscope.events`, whose libraries are extras: each is imported when
its sink is made, so that a missing one is named before any work.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from panscope.config import digest_of
from panscope.errors import ConfigError, PanscopeError
from panscope.events import Emit, Event, Finished, Measured, Started


def to_tensorboard(folder: Path) -> Emit:
    """Write what is measured as TensorBoard's event files, each Sae as a run: `folder/<sae id>`.

    So a metric's chart has a curve for every Sae. A resumed run replaces what it repeats.
    """
    summary_writer = _library("tensorboard", "torch.utils.tensorboard").SummaryWriter
    writers: dict[str, Any] = {}

    def emit(event: Event) -> None:
        match event:
            case Measured():
                for sae in event.saes:
                    if sae not in writers:
                        writers[sae] = _opened(summary_writer, folder / sae, event.step)
                    _write(writers[sae], sae, event)
            case Finished(stage="train"):
                while writers:
                    writers.popitem()[1].close()

    return emit


def _opened(summary_writer: Any, folder: Path, step: int) -> Any:
    """Open a run of TensorBoard's that hides what was written at this step or later."""
    try:
        return summary_writer(str(folder), purge_step=step)
    except OSError as error:
        found = f"could not be written ({error.strerror})"
        raise PanscopeError(str(folder), found, "check space and permissions") from error


def _write(writer: Any, sae: str, event: Measured) -> None:
    for metric, value in event.saes[sae].items():
        writer.add_scalar(metric, value, event.step)
    counts = event.densities.get(sae, ())
    if sum(counts):
        histogram = _histogram(counts, event.density_edges)
        writer.add_histogram_raw("log10 density", **histogram, global_step=event.step)
    writer.flush()


def _histogram(counts: Sequence[int], edges: Sequence[float]) -> dict[str, Any]:
    """Describe counts between edges as TensorBoard wants them: moments from the bins' middles."""
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return {
        "min": edges[0],
        "max": edges[-1],
        "num": sum(counts),
        "sum": sum(n * middle for n, middle in zip(counts, middles, strict=True)),
        "sum_squares": sum(n * middle**2 for n, middle in zip(counts, middles, strict=True)),
        "bucket_limits": list(edges[1:]),
        "bucket_counts": list(counts),
    }


def to_wandb(project: str, name: str, config: Mapping[str, Any]) -> Emit:
    """Log what is measured to Weights & Biases; the same name and config continue the same run.

    The run is opened when a stage starts to train and closed when it has finished. The environment
    says where to (WANDB_MODE=offline: into a folder).
    """
    wandb = _library("wandb", "wandb")
    run_id = digest_of({"name": name, "config": dict(config)})[:16]
    runs: list[Any] = []

    def emit(event: Event) -> None:
        match event:
            case Started(stage="train"):
                runs.append(_started(wandb, project, name, run_id, config))
            case Measured() if runs:
                runs[0].log({"step": event.step, "tokens": event.tokens, **_named(event)})
            case Finished(stage="train") if runs:
                runs.pop().finish()

    return emit


def _started(
    wandb: ModuleType, project: str, name: str, run_id: str, config: Mapping[str, Any]
) -> Any:
    """Open a run with curves over `step`; W&B's own counter refuses steps that are repeated."""
    try:
        run = wandb.init(project=project, name=name, id=run_id, config=dict(config), resume="allow")
    except wandb.Error as error:
        do = "run `wandb login`, or set WANDB_MODE=offline"
        raise PanscopeError(
            f"wandb project {project}", f"cannot be opened ({error})", do
        ) from error
    run.define_metric("*", step_metric="step")
    return run


def _named(event: Measured) -> dict[str, float]:
    """Name every number `<metric>/<sae id>`."""
    return {
        f"{metric}/{sae}": value
        for sae, metrics in event.saes.items()
        for metric, value in metrics.items()
    }


def _library(extra: str, module: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        found = f"needs {error.name or extra}, which is not installed"
        raise ConfigError(
            f"metrics to {extra}", found, f"run pip install 'panscope[{extra}]'"
        ) from error
