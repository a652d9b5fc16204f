"""The training loop: one bank's pass over the stream, batches in, Saes out; resumable to the bit.

The stream is a function of the batch number alone, so a checkpoint holds the members and the step.
Metrics stay on the device and are read every few steps; on a GPU no step waits for the host. In a
group of processes all run this loop, each on its part of the latents; the first one speaks, and
writes what is not a process's own.
"""

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from panscope import files
from panscope.dist import ALONE, Group
from panscope.errors import Incomplete
from panscope.events import Advanced, Measured
from panscope.sae.suite import write_sae
from panscope.stages.train import bank, checkpoint, ledger
from panscope.stages.train.bank import Batch
from panscope.stages.train.guard import Guard, check_weights
from panscope.stages.train.ledger import Trained
from panscope.stages.train.member import Member
from panscope.stages.train.meter import DENSITY_EDGES
from panscope.stages.train.pace import Pace, Product, floor_seconds
from panscope.stages.train.stop import Stop
from panscope.stages.train.sweep import Spec, sites_of
from panscope.stages.train.watch import Aim, Reading, Watch
from panscope.stages.train.work import STAGE, Work

SCALE_BATCHES = 4  # of the stream's first: 1 % of error in the scale at 4,096 tokens a batch
SHOWN = ("loss", "l0", "fvu")  # of a Sae's metrics, those whose mean over all is shown


def read_every(n_steps: int) -> int:
    """Return after how many steps metrics are read: 20, up to 200 in runs of 20,000 and more."""
    return min(200, max(20, n_steps // 100))


@dataclass
class Pass:
    """One bank's training, in one pass over the stream."""

    work: Work
    number: int
    steps_before: int
    """Those of the banks that this process trains before it."""
    stop: Stop
    group: Group = ALONE
    watch: Watch = field(default_factory=Watch)
    saved: int = 0
    """The step of the last checkpoint, 0 if there is none."""

    def trained(self) -> Trained:
        """Train the bank, or what is left of it, and write its Saes; if done, say what it made."""
        if done := ledger.read_trained(self.work.out, self.number, self.key, self.work.warn):
            return done
        self.stop.check(f"before bank {self.number + 1} of {len(self.work.banks)}")
        return self._write(self._train())

    @property
    def specs(self) -> Sequence[Spec]:
        """The Saes of the bank."""
        return self.work.banks[self.number]

    @property
    def key(self) -> str:
        """What a checkpoint must have been made from to go on from it."""
        return self.work.key(self.specs)

    @property
    def n_steps(self) -> int:
        """The length of the pass, which all its Saes have."""
        return self.specs[0].n_steps

    @property
    def folder(self) -> Path:
        """Where this process's checkpoints are."""
        return checkpoint.folder_of(self.work.out, self.number, self.group)

    def _train(self) -> bank.Bank:
        """Take the bank from its last checkpoint, or from nothing, to the last step."""
        sites = sites_of(self.specs)
        with closing(self.work.batches_from(0, sites)) as stream:
            first = list(itertools.islice(stream, SCALE_BATCHES))
            guard, floor = self._guard(first), self._floor(first[0])
            members = bank.begin(self.work.config, self.specs, first, self.group)
            found = checkpoint.read(self.folder, self.key, self.work.warn, self.group)
            batches = _all_of(first, stream)
            del first  # each batch is let go once it is trained on
            if found is None:
                return self._trained_on(batches, members, guard, Pace(floor, 0))
        members.load_(found.state)
        self.saved = found.step
        del stream, batches, found  # with a bucket in them: resuming must not hold two
        with closing(self.work.batches_from(self.saved, sites)) as stream:
            return self._trained_on(stream, members, guard, Pace(floor, self.saved))

    def _trained_on(
        self, batches: Iterator[Batch], members: bank.Bank, guard: Guard, pace: Pace
    ) -> bank.Bank:
        """Take the bank from the step that is saved to the last."""
        for step in range(self.saved, self.n_steps):
            with pace.waiting():
                batch = self._next(batches, step)
            self._step_(members, batch, step, guard, pace)
        return members

    def _step_(self, members: bank.Bank, batch: Batch, step: int, guard: Guard, pace: Pace) -> None:
        done, n_steps = step + 1, self.n_steps
        guard.see_(batch, done)
        if guard.reads_at_once:
            guard.check(self._kept)
        members.step_(batch, step)
        if done % read_every(n_steps) == 0 or done == n_steps:
            guard.check(self._kept)
            self._read(members, done, pace)
        asked = self.stop.asked()
        if done < n_steps and (asked or done % self.work.config.checkpoint_steps == 0):
            guard.check(self._kept)
            self._save(members, done)
        if asked and done < n_steps:
            self.stop.check(f"after step {done} of {n_steps}{self._of_bank}")

    def _read(self, members: bank.Bank, done: int, pace: Pace) -> None:
        """Read the metrics since the last reading, which a resumed run has in its checkpoint."""
        every, size = read_every(self.n_steps), self.work.config.batch_tokens
        n_tokens = (done - (done - 1) // every * every) * size
        for member in members.members:
            member.check_alike()
        densities = {m.spec.sae: m.meter.histogram() for m in members.members}
        saes = {m.spec.sae: m.read() for m in members.members}
        if not all(math.isfinite(metrics["loss"]) for metrics in saes.values()):
            check_weights(members.state(), done, self._kept)
        self.work.emit(Measured(STAGE, done, done * size, saes, densities, DENSITY_EDGES))
        means = {name: statistics.fmean(m[name] for m in saes.values()) for name in SHOWN}
        all_done = (self.steps_before + done) * size
        self.work.emit(Advanced(STAGE, all_done, {**means, **pace.read(done, size)}))
        for member in members.members:
            reading = Reading(done, n_tokens, saes[member.spec.sae])
            for sentence in self.watch.new(Aim.of(member.spec, member.course), reading):
                self.work.warn(sentence)

    def _save(self, members: bank.Bank, done: int) -> None:
        state = members.state()
        check_weights(state, done, self._kept)
        checkpoint.write(self.folder, done, self.key, state)
        self.saved = done

    def _write(self, members: bank.Bank) -> Trained:
        """Write the Saes of a trained bank and note that it is done."""
        check_weights(members.state(), self.n_steps, self._kept)
        records = {}
        for member in members.members:
            sae = member.spec.sae
            write_sae(self.work.out, sae, member.sae(), self.group)
            for path in files.visible_files(self.work.out / sae) if self.group.is_first else ():
                records[f"{sae}/{path.name}"] = _record(path)
        n_tokens = self.n_steps * self.work.config.batch_tokens
        facts = tuple(_facts(member, n_tokens) for member in members.members)
        trained = Trained(key=self.key, facts=facts, files=records)
        if self.group.is_first:
            ledger.mark_trained(self.work.out, self.number, trained)
        return trained

    def _next(self, batches: Iterator[Batch], step: int) -> Batch:
        batch = next(batches, None)
        if batch is None:
            found = f"the stream ended after {step} of {self.n_steps} batches"
            raise Incomplete(STAGE, found, "lower train.tokens or give it more text")
        return batch

    def _guard(self, first: Sequence[Batch]) -> Guard:
        """Make the guard and let it look at the batches that scales are made from."""
        sites = sites_of(self.specs)
        guard = Guard(sites, first[0][sites[0]].device)
        for step, batch in enumerate(first, 1):
            guard.see_(batch, step)
        guard.check(self._kept)
        return guard

    def _floor(self, batch: Batch) -> float:
        size, device = self.work.config.batch_tokens, batch[self.specs[0].site].device
        widths = [spec.width // self.group.size for spec in self.specs]
        products = [
            Product(size, sum(batch[site].shape[1] for site in spec.reads), width)
            for spec, width in zip(self.specs, widths, strict=True)
        ]
        return floor_seconds(products, device)

    @property
    def _kept(self) -> str:
        if self.saved:
            return f"the checkpoint of step {self.saved} is kept"
        return "no checkpoint was written yet"

    @property
    def _of_bank(self) -> str:
        n_banks = len(self.work.banks)
        return f" of bank {self.number + 1} of {n_banks}" if n_banks > 1 else ""


def _all_of(first: list[Batch], rest: Iterator[Batch]) -> Iterator[Batch]:
    """Yield batches that were looked at, then the others; `itertools.chain` would keep the first.

    They may be many sites wide: of a suite of Gemma's size four are gigabytes.
    """
    while first:
        yield first.pop(0)
    yield from rest


def _facts(member: Member, n_tokens: int) -> dict[str, object]:
    """Say what the manifest holds of a Sae; its scale is the unit of its latents."""
    return {
        **member.spec.facts(),
        "learning_rate": member.course.learning_rate,
        "scale": float(member.scales.written.double().square().mean().sqrt()),
        "trained_tokens": n_tokens,
    }


def _record(path: Path) -> files.FileRecord:
    return files.FileRecord(size_bytes=path.stat().st_size, blake3=files.blake3_of(path))
