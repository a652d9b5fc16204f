"""A suite, bank after bank: begun, trained, in shares if several workers train it, and sealed.

Banks, each as many Saes of one length as fit in memory together, are trained one after another,
each in a pass of its own over the stream. `run` does all. In shares, on several machines: `begin`
fixes the banks, `train_banks` trains those of a share, and `run` makes them a suite.
"""

import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from panscope import files
from panscope.dist import ALONE, WHOLE, Group, Share
from panscope.events import Finished, Started, silent
from panscope.sae.suite import FILES, KIND
from panscope.sites import Site
from panscope.stages.train import checkpoint, ledger
from panscope.stages.train.ledger import Trained
from panscope.stages.train.loop import Pass
from panscope.stages.train.stop import Stop, listening
from panscope.stages.train.work import STAGE, Work


def run(work: Work, group: Group = ALONE) -> files.Manifest:
    """Train the suite that a configuration asks for.

    A finished suite is reused, an interrupted one resumed; ConfigError if `out` holds another one.
    SIGINT and SIGTERM raise Interrupted after a checkpoint of the step they fall into. The
    processes of a `group` see the same stream, share `out`, and split the latents of every Sae.
    """
    work = work if group.is_first else work._replace(emit=silent)
    with group.in_turn():
        manifest = _made(work)
    if manifest:
        work.emit(Finished(STAGE, 0.0, reused=True))
        return manifest
    started = time.monotonic()
    with listening(group) as stop, torch.inference_mode():
        with group.in_turn():
            work = begin(work)
        trained = _train(work, stop, WHOLE, group)
        with group.in_turn():
            manifest = _made(work) or _sealed(work, trained)
        work.emit(Finished(STAGE, time.monotonic() - started))
        stop.check("after its last step")
    return manifest


def _made(work: Work) -> files.Manifest | None:
    """Return the manifest of the suite if it is finished, without its checkpoints."""
    manifest = work.made
    if manifest:
        checkpoint.remove(work.out)
    return manifest


def begin(work: Work) -> Work:
    """Fix which Saes are trained together: as the interrupted run of the same lengths did."""
    if work.made:
        return work
    names = tuple(tuple(f"{spec.sae} {spec.n_steps}" for spec in specs) for specs in work.banks)
    named = dict(zip(itertools.chain(*names), itertools.chain(*work.banks), strict=True))
    begun = ledger.as_begun(work.out, names, work.warn, work.config.latent_shards)
    return work._replace(banks=[tuple(named[name] for name in bank) for bank in begun])


def train_banks(work: Work, share: Share) -> None:
    """Train the banks of a share, whose numbers `begin` has fixed; `run` makes all a suite.

    Several processes may, one share each: what a bank becomes depends on nothing else.
    """
    if work.made:
        return
    with listening() as stop, torch.inference_mode():
        _train(work, stop, share, ALONE)


def _train(work: Work, stop: Stop, share: Share, group: Group) -> list[Trained]:
    n_steps = sum(specs[0].n_steps for specs in work.banks)
    work.emit(Started(STAGE, n_steps * work.config.batch_tokens, "tokens"))
    mine = [number for number in range(len(work.banks)) if number in share]
    before = itertools.accumulate((work.banks[n][0].n_steps for n in mine), initial=0)
    return [
        Pass(work, number, done, stop, group).trained()
        for number, done in zip(mine, before, strict=False)
    ]


def _sealed(work: Work, banks: Sequence[Trained]) -> files.Manifest:
    """Make the Saes of all banks a suite, without what interrupted writers left."""
    out = work.out
    records = {name: record for trained in banks for name, record in trained.files.items()}
    left = {path for pattern in (*FILES, "**/.*.tmp") for path in out.glob(pattern)}
    for path in left:
        if path.relative_to(out).as_posix() not in records:
            path.unlink()
    facts = {"saes": _in_order(fact for trained in banks for fact in trained.facts)}
    manifest = files.seal_records(out, KIND, work.config.described, work.inputs, facts, records)
    checkpoint.remove(out)
    return manifest


def _in_order(facts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort the facts of Saes by site, in the order of a forward pass."""
    return sorted(facts, key=lambda fact: Site.parse(fact["site"]).order)
