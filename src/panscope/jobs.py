"""A verb as jobs for several workers, and who does them: this process, or those of torchrun.

    harvest    every worker its shards · one seals the store
    train      one fixes the banks · every worker its banks · one makes them a suite; or, with the
               latents of each Sae split, all together
    evaluate   one
    describe   every worker its part of the text · every worker its Saes · one seals the atlas
    explain    one

A job resumes what an earlier life of it left, as the verb itself does, so a lost worker's job is
given to another and nothing that is sealed is done twice.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Literal

from panscope import dist
from panscope.dist import WHOLE, Share
from panscope.events import Emit, Warned, fan_out
from panscope.launch import Launch, sinks
from panscope.recipe import Recipe
from panscope.relay import Relay, to_relay

Verb = Literal["harvest", "train", "evaluate", "describe", "explain"]
Act = Literal["whole", "begin", "share", "tell", "seal", "together"]


@dataclass(frozen=True, slots=True)
class Job:
    """What one worker does of a verb."""

    verb: Verb
    act: Act = "whole"
    share: Share = WHOLE

    @property
    def name(self) -> str:
        """Names it among the jobs of a run, without the worker's number."""
        return f"{self.verb}-{self.act}"


def phases(verb: Verb, n_workers: int, splits_latents: bool = False) -> list[list[Job]]:
    """List the jobs of a verb; those of a phase may be done at once, when the ones before are."""
    shares = [Job(verb, "share", Share(rank, n_workers)) for rank in range(n_workers)]
    first = Share(0, n_workers)
    match verb:
        case "train" if splits_latents:
            return [[Job(verb, "together", Share(rank, n_workers)) for rank in range(n_workers)]]
        case "harvest" if n_workers > 1:
            return [shares, [Job(verb, "seal", first)]]
        case "train" if n_workers > 1:
            return [[Job(verb, "begin", first)], shares, [Job(verb, "seal", first)]]
        case "describe" if n_workers > 1:
            tell = [Job(verb, "tell", job.share) for job in shares]
            return [shares, tell, [Job(verb, "seal", first)]]
        case _:
            return [[Job(verb)]]


def do(job: Job, launch: Launch) -> None:
    """Do one job."""
    match job.verb, job.act:
        case "harvest", "share":
            launch.write_shards(job.share)
        case "harvest", "seal":
            launch.seal_store()
        case "harvest", _:
            launch.harvest()
        case "train", "begin":
            launch.begin_training(job.share.world)
        case "train", "together":
            launch.train_together(job.share)
        case "train", "share":
            launch.train_share(job.share)
        case "train", _:
            launch.train()
        case "evaluate", _:
            launch.evaluate()
        case "describe", "share":
            launch.read_firings(job.share)
        case "describe", "tell":
            launch.tell_features(job.share)
        case "describe", "seal":
            launch.seal_atlas()
        case "describe", _:
            launch.describe()
        case "explain", _:
            launch.explain()


@dataclass(frozen=True, slots=True)
class Processes:
    """This process, and those that torchrun started with it if it did."""

    launch: Launch
    share: Share
    look: Callable[[], None] = dist.idle
    """Take what the others have emitted."""

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self.share.rank == 0

    def run(self, verb: Verb) -> None:
        """Do this process's jobs of a verb; return when all processes have done theirs."""
        splits = self.launch.recipe.train.latent_shards > 1
        for jobs in phases(verb, self.share.world, splits):
            if self.share.rank < len(jobs):
                do(jobs[self.share.rank], self.launch)
            dist.wait_for_all(self.look)
            self.look()


@contextmanager
def here(recipe: Recipe, out: Path, bars: Emit) -> Iterator[Processes]:
    """Run a recipe in this process, or in those of torchrun: the first shows what all do."""
    with dist.joined() as share:
        if share.rank > 0:
            dist.wait_for_all()  # until the files of an earlier run are gone
            emit = to_relay(out, share.rank, "torchrun")
            yield Processes(Launch(recipe, out, emit), share)
            return
        with closing(Relay(out, fan_out(bars, *sinks(recipe, out)))) as relay:
            if times := int(environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
                text = f"a process was lost, and all go on from what they had (restart {times})"
                relay(Warned("torchrun", text))
            dist.wait_for_all()
            yield Processes(Launch(recipe, out, relay), share, relay.look)
