"""Jobs on Ray: each is a task, a lost worker's task is started again, what a job refuses is raised.

The run folder must be the same for all machines of the cluster, and so must the paths that the
recipe names. Nothing but a job's few words goes through Ray: artefacts meet on disk, and events
come through files (see `relay`).
"""

import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panscope.allocator import keep_freed_memory
from panscope.errors import ConfigError, Incomplete, Interrupted, NotFound, PanscopeError
from panscope.events import Emit, fan_out
from panscope.jobs import Job, Verb, do, phases
from panscope.launch import Launch, sinks
from panscope.recipe import Recipe
from panscope.relay import LOOK_SECONDS, Relay, to_relay

LIVES = 4  # of a job: three workers may be lost
PATIENCE_SECONDS = 60  # for jobs that were asked to stop; training writes a checkpoint
KNOCK_SECONDS = 10  # at an address, before Ray, which tries for minutes


@dataclass(frozen=True, slots=True)
class Cluster:
    """The workers of a Ray cluster, on one recipe."""

    recipe: Recipe
    out: Path
    relay: Relay
    n_workers: int
    resources: Mapping[str, int]
    """What each worker takes for itself."""
    leads: bool = True

    def run(self, verb: Verb) -> None:
        """Do all jobs of a verb.

        Raises what a job raised, and Incomplete if one has lost its worker time after time.
        """
        for jobs in phases(verb, self.n_workers):
            self._finish([self._begin(job) for job in jobs])

    def _begin(self, job: Job) -> Any:
        """Hand out a job; return the promise of its end."""
        task = _ray().remote(max_retries=LIVES - 1, **self.resources)(_work)
        return task.remote(job, self.recipe, self.out, Path.cwd())

    def _finish(self, running: Sequence[Any]) -> None:
        """Wait for jobs and show what they do; if one fails, stop the others and say why."""
        ray = _ray()
        try:
            while running:
                ended, running = ray.wait(running, timeout=LOOK_SECONDS)
                self.relay.look()
                ray.get(ended)
        except ray.exceptions.RayTaskError as error:
            self._stop(running)
            raise (error.cause if isinstance(error.cause, PanscopeError) else error) from None
        except ray.exceptions.RayError as error:
            self._stop(running)
            found = f"a job lost its worker {LIVES} times ({type(error).__name__})"
            do = "look into Ray's logs for why; the same command goes on from what is done"
            raise Incomplete("ray", found, do) from error
        except KeyboardInterrupt:
            self._stop(running)
            do = "run the same command again and it goes on from there"
            raise Interrupted("ray", "SIGINT stopped all workers", do, signal.SIGINT) from None

    def _stop(self, running: Sequence[Any]) -> None:
        ray = _ray()
        for job in running:
            ray.cancel(job)
        if running:
            ray.wait(running, num_returns=len(running), timeout=PATIENCE_SECONDS)
        self.relay.look()


@contextmanager
def on_ray(
    recipe: Recipe, out: Path, bars: Emit, n_workers: int | None, address: str | None
) -> Iterator[Cluster]:
    """Run a recipe on the cluster at an address, or on one of this machine's, made for it.

    Without a number of workers: one a GPU, or one a machine if there are no GPUs. Raises
    ConfigError for a recipe that splits latents: Ray's workers exchange no tensors.
    """
    if recipe.train.latent_shards > 1:
        do = "start as many processes with torchrun, or leave it out"
        raise ConfigError("train.latent_shards", "needs processes that exchange tensors", do)
    ray = _ray()
    _connect(address, n_workers)
    try:
        n_workers, resources = _divided(ray.nodes(), n_workers)
        with closing(Relay(out, fan_out(bars, *sinks(recipe, out)))) as relay:
            yield Cluster(recipe, out.absolute(), relay, n_workers, resources)
    finally:
        ray.shutdown()


def _work(job: Job, recipe: Recipe, out: Path, folder: Path) -> None:
    """Do a job: the whole of what a worker runs. Relative paths are those of the driver."""
    keep_freed_memory()
    with chdir(folder):
        do(job, Launch(recipe, out, to_relay(out, job.share.rank, job.name)))


def _connect(address: str | None, n_workers: int | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray's maker is not told of a run
        n_cpus = max(os.cpu_count() or 1, n_workers or 1)
        options |= {"num_cpus": n_cpus, "include_dashboard": False, "address": "local"}
        options |= {"object_store_memory": 100 << 20}  # of which a job needs a few hundred bytes
        options |= {"_system_config": {"task_oom_retries": LIVES - 1}}  # Ray's own limit is none
    else:
        _refuse_silent(address)
        options |= {"address": address}
    try:
        _ray().init(**options)
    except ConnectionError as error:
        raise _no_cluster(address) from error
    except Exception as error:
        if type(error) is not Exception:  # Ray raises nothing more specific
            raise
        found = f"the cluster did not start ({str(error).partition('. ')[0]})"
        do = "try again when the machine has less to do, or start a cluster and give its address"
        raise Incomplete("ray", found, do) from error


def _refuse_silent(address: str) -> None:
    """Raise NotFound if nothing listens at an address, ConfigError if it is none."""
    if address == "auto":  # Ray looks for a cluster of this machine, and says at once
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        raise ConfigError("--ray-address", f"{address} is not HOST:PORT", "write 10.0.0.7:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address) from error


def _no_cluster(address: str | None) -> NotFound:
    do = "check the address, or leave it out for a cluster on this machine"
    return NotFound(f"ray {address}", "no cluster answers there", do)


def _divided(
    machines: Sequence[Mapping[str, Any]], n_workers: int | None
) -> tuple[int, dict[str, int]]:
    """Say how many workers there are, and what each takes: a GPU if there are any, and its CPUs.

    >>> sizes = [{"CPU": 8.0}, {"CPU": 4.0}]
    >>> _divided([{"Alive": True, "Resources": size} for size in sizes], 3)
    (3, {'num_cpus': 4})
    """
    alive = [machine["Resources"] for machine in machines if machine["Alive"]]
    n_gpus = sum(int(machine.get("GPU", 0)) for machine in alive)
    wanted = n_workers or n_gpus or len(alive)

    def places(n_cpus: int) -> int:
        """Count the workers that the machines hold when each takes so many CPUs."""
        held = [(int(m.get("CPU", 0)) // n_cpus, int(m.get("GPU", 0))) for m in alive]
        return sum(min(pair) if n_gpus else pair[0] for pair in held)

    most = max(int(machine.get("CPU", 0)) for machine in alive)
    n_cpus = next((n for n in range(most, 0, -1) if places(n) >= wanted), None)
    if n_cpus is None:
        found = f"{wanted} workers are more than the {places(1)} that the cluster has room for"
        raise ConfigError("--workers", found, "ask for fewer, or add machines")
    return wanted, {"num_cpus": n_cpus, **({"num_gpus": 1} if n_gpus else {})}


def _ray() -> Any:
    try:
        import ray  # an extra, and seconds to import
    except ImportError as error:
        do = "run pip install 'panscope[ray]'"
        raise ConfigError("--on ray", "ray is not installed", do) from error
    return ray
