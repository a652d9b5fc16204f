"""The training loop: batches in, a Suite out; resumable to the bit.

The stream is a function of the batch number alone, so a checkpoint holds the members and the step.
Banks, each as many Saes of one length as fit in memory together, are trained one after another,
each in a pass of its own over the stream. Metrics stay on the device and are read every few steps;
on a GPU no step waits for the host. In a group of processes all run this loop, each on its part of
the latents; the first one speaks, and writes what is not a process's own.
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from panscope import files
from panscope.config import digest_of
from panscope.dist import ALONE, WHOLE, Group, Share
from panscope.errors import Incomplete
from panscope.events import Advanced, Emit, Finished, Measured, Started, Warned, silent
from panscope.sae.suite import FILES, KIND, write_sae
from panscope.sites import Site
from panscope.stages.train import bank, checkpoint
from panscope.stages.train.checkpoint import Trained
from panscope.stages.train.guard import Guard, check_weights
from panscope.stages.train.member import Member
from panscope.stages.train.meter import DENSITY_EDGES
from panscope.stages.train.objective import Config
from panscope.stages.train.pace import Pace, Product, floor_seconds
from panscope.stages.train.stop import Stop, listening
from panscope.stages.train.sweep import Spec, sites_of
from panscope.stages.train.watch import Aim, Reading, Watch

Batch = Mapping[Site, Tensor]
BatchesFrom = Callable[[int, tuple[Site, ...]], Iterator[Batch]]

STAGE = "train"
SCALE_BATCHES = 4  # of the stream's first: 1 % of error in the scale at 4,096 tokens a batch
SHOWN = ("loss", "l0", "fvu")  # of a Sae's metrics, those whose mean over all is shown


def run(
    config: Config,
    banks: Sequence[Sequence[Spec]],
    batches_from: BatchesFrom,
    inputs: Mapping[str, str],
    out: Path,
    emit: Emit,
    group: Group = ALONE,
) -> files.Manifest:
    """Train the suite that `config` asks for, bank after bank, and write it to `out`.

    `batches_from(k, sites)` yields the stream from batch k on: raw activations, one tensor a site,
    each of `config.batch_tokens` rows. `inputs` names what the stream was made from. A finished
    suite is reused, an interrupted one resumed; ConfigError if `out` holds another one. SIGINT and
    SIGTERM raise Interrupted after a checkpoint of the step they fall into. The processes of a
    `group` see the same stream, share `out`, and split the latents of every Sae.
    """
    emit = emit if group.is_first else silent
    with group.in_turn():
        manifest = _made(config, inputs, out)
    if manifest:
        emit(Finished(STAGE, 0.0, reused=True))
        return manifest
    started = time.monotonic()
    with listening(group) as stop, torch.inference_mode():
        with group.in_turn():
            banks = begin(config, banks, inputs, out, emit)
        trained = _train(config, banks, batches_from, inputs, out, emit, stop, WHOLE, group)
        with group.in_turn():
            manifest = _made(config, inputs, out) or _seal(trained, config, inputs, out)
        emit(Finished(STAGE, time.monotonic() - started))
        stop.check("after its last step")
    return manifest


def _made(config: Config, inputs: Mapping[str, str], out: Path) -> files.Manifest | None:
    """Return the manifest of the suite if it is finished, without its checkpoints."""
    manifest = _finished(config, inputs, out)
    if manifest:
        checkpoint.remove(out)
    return manifest


def work(
    config: Config,
    banks: Sequence[Sequence[Spec]],
    batches_from: BatchesFrom,
    inputs: Mapping[str, str],
    out: Path,
    emit: Emit,
    share: Share,
) -> None:
    """Train the banks of a share, whose numbers `begin` has fixed; `run` makes all a suite.

    Several processes may, one share each: what a bank becomes depends on nothing else.
    """
    if _finished(config, inputs, out):
        return
    with listening() as stop, torch.inference_mode():
        _train(config, banks, batches_from, inputs, out, emit, stop, share, ALONE)


def begin(
    config: Config,
    banks: Sequence[Sequence[Spec]],
    inputs: Mapping[str, str],
    out: Path,
    emit: Emit,
) -> Sequence[Sequence[Spec]]:
    """Fix which Saes are trained together: as the interrupted run of the same lengths did."""
    if _finished(config, inputs, out):
        return banks
    names = tuple(tuple(f"{spec.sae} {spec.n_steps}" for spec in specs) for specs in banks)
    named = dict(zip(itertools.chain(*names), itertools.chain(*banks), strict=True))
    warn = lambda text: emit(Warned(STAGE, text))  # noqa: E731
    begun = checkpoint.as_begun(out, names, warn, config.latent_shards)
    return [tuple(named[name] for name in bank) for bank in begun]


def _finished(config: Config, inputs: Mapping[str, str], out: Path) -> files.Manifest | None:
    return files.made(out, KIND, config.model_dump(mode="json"), inputs)


def _train(
    config: Config,
    banks: Sequence[Sequence[Spec]],
    batches_from: BatchesFrom,
    inputs: Mapping[str, str],
    out: Path,
    emit: Emit,
    stop: Stop,
    share: Share,
    group: Group,
) -> list[Trained]:
    n_steps = sum(specs[0].n_steps for specs in banks)
    emit(Started(STAGE, n_steps * config.batch_tokens, "tokens"))
    mine = [(number, tuple(specs)) for number, specs in enumerate(banks) if number in share]
    before = itertools.accumulate((specs[0].n_steps for _, specs in mine), initial=0)
    ends = (batches_from, inputs, out, emit, stop, group)
    return [
        Pass(config, specs, number, len(banks), done, *ends).trained()
        for done, (number, specs) in zip(before, mine, strict=False)
    ]


def read_every(n_steps: int) -> int:
    """Return after how many steps metrics are read: 20, up to 200 in runs of 20,000 and more."""
    return min(200, max(20, n_steps // 100))


@dataclass
class Pass:
    """One bank's training, in one pass over the stream."""

    config: Config
    specs: tuple[Spec, ...]
    number: int
    n_banks: int
    steps_before: int
    """Those of the banks that this process trains before it."""
    batches_from: BatchesFrom
    inputs: Mapping[str, str]
    out: Path
    emit: Emit
    stop: Stop
    group: Group = ALONE
    watch: Watch = field(default_factory=Watch)
    saved: int = 0
    """The step of the last checkpoint, 0 if there is none."""

    def trained(self) -> Trained:
        """Train the bank, or what is left of it, and write its Saes; if done, say what it made."""
        if done := checkpoint.read_trained(self.out, self.number, self.key, self.warn):
            return done
        self.stop.check(f"before bank {self.number + 1} of {self.n_banks}")
        return self._write(self._train())

    def warn(self, text: str) -> None:
        """Emit a warning."""
        self.emit(Warned(STAGE, text))

    @property
    def key(self) -> str:
        """What a checkpoint must have been made from to go on from it."""
        config = self.config.model_dump(mode="json")
        saes = [spec.sae for spec in self.specs]
        return digest_of({"config": config, "inputs": dict(self.inputs), "saes": saes})

    @property
    def n_steps(self) -> int:
        """The length of the pass, which all its Saes have."""
        return self.specs[0].n_steps

    @property
    def folder(self) -> Path:
        """Where this process's checkpoints are."""
        return checkpoint.folder_of(self.out, self.number, self.group)

    def _train(self) -> bank.Bank:
        """Take the bank from its last checkpoint, or from nothing, to the last step."""
        sites = sites_of(self.specs)
        stream = self.batches_from(0, sites)
        first = list(itertools.islice(stream, SCALE_BATCHES))
        guard, floor = self._guard(first), self._floor(first[0])
        members = bank.begin(self.config, self.specs, first, self.group)
        found = checkpoint.read(self.folder, self.key, self.warn, self.group)
        batches: Iterator[Batch] = itertools.chain(first, stream)
        if found is not None:
            members.load_(found.state)
            self.saved = found.step
            batches = self.batches_from(found.step, sites)
        pace = Pace(floor, self.saved)
        del first, stream, found  # with a bucket in them: resuming must not hold two
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
        if done < n_steps and (asked or done % self.config.checkpoint_steps == 0):
            guard.check(self._kept)
            self._save(members, done)
        if asked and done < n_steps:
            self.stop.check(f"after step {done} of {n_steps}{self._of_bank}")

    def _read(self, members: bank.Bank, done: int, pace: Pace) -> None:
        """Read the metrics since the last reading, which a resumed run has in its checkpoint."""
        every, size = read_every(self.n_steps), self.config.batch_tokens
        n_tokens = (done - (done - 1) // every * every) * size
        for member in members.members:
            member.check_alike()
        densities = {m.spec.sae: m.meter.histogram() for m in members.members}
        saes = {m.spec.sae: m.read() for m in members.members}
        if not all(math.isfinite(metrics["loss"]) for metrics in saes.values()):
            check_weights(members.state(), done, self._kept)
        self.emit(Measured(STAGE, done, done * size, saes, densities, DENSITY_EDGES))
        means = {name: statistics.fmean(m[name] for m in saes.values()) for name in SHOWN}
        all_done = (self.steps_before + done) * size
        self.emit(Advanced(STAGE, all_done, {**means, **pace.read(done, size)}))
        for member in members.members:
            reading = Reading(done, n_tokens, saes[member.spec.sae])
            for sentence in self.watch.new(Aim.of(member.spec, member.course), reading):
                self.warn(sentence)

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
            write_sae(self.out, sae, member.sae(), self.group)
            for path in files.visible_files(self.out / sae) if self.group.is_first else ():
                records[f"{sae}/{path.name}"] = _record(path)
        n_tokens = self.n_steps * self.config.batch_tokens
        facts = tuple(_facts(member, n_tokens) for member in members.members)
        trained = Trained(key=self.key, facts=facts, files=records)
        if self.group.is_first:
            checkpoint.mark_trained(self.out, self.number, trained)
        return trained

    def _next(self, batches: Iterator[Batch], step: int) -> Batch:
        batch = next(batches, None)
        if batch is None:
            found = f"the stream ended after {step} of {self.n_steps} batches"
            raise Incomplete("train", found, "lower train.tokens or give it more text")
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
        size, device = self.config.batch_tokens, batch[self.specs[0].site].device
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
        return f" of bank {self.number + 1} of {self.n_banks}" if self.n_banks > 1 else ""


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


def _seal(
    banks: Sequence[Trained], config: Config, inputs: Mapping[str, str], out: Path
) -> files.Manifest:
    """Make the Saes of all banks a suite, without what interrupted writers left."""
    records = {name: record for trained in banks for name, record in trained.files.items()}
    left = {path for pattern in (*FILES, "**/.*.tmp") for path in out.glob(pattern)}
    for path in left:
        if path.relative_to(out).as_posix() not in records:
            path.unlink()
    facts = {"saes": _in_order(fact for trained in banks for fact in trained.facts)}
    described = config.model_dump(mode="json")
    manifest = files.seal_records(out, KIND, described, inputs, facts, records)
    checkpoint.remove(out)
    return manifest


def _in_order(facts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort the facts of Saes by site, in the order of a forward pass."""
    return sorted(facts, key=lambda fact: Site.parse(fact["site"]).order)
