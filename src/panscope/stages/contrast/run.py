"""The contrast: features found on one half of two sets of prompts, tested on the other half.

contrast/<name>/
  manifest.json    the configuration; digests of model, suite and both sets
  result.json      `Result`: the features that differ, and of each Sae its probes and ablations
  report.md        the same as tables
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from panscope import config, files
from panscope.config import digest_of
from panscope.errors import ConfigError
from panscope.events import Advanced, Emit, Finished, Started
from panscope.model.load import Model
from panscope.sae.suite import Suite
from panscope.stages.contrast.ablation import Bench
from panscope.stages.contrast.difference import PerLatent, discovered, effect, ranked
from panscope.stages.contrast.pooled import Pool, Pooled, pooled
from panscope.stages.contrast.probe import probes
from panscope.stages.contrast.prompts import Prompts, halved
from panscope.stages.contrast.report import report
from panscope.stages.contrast.result import Found, OfSae, Result

STAGE = "contrast"
KIND = "contrast"
FILES = ("result.json", "report.md")
Count = Annotated[int, Field(gt=0)]


class Config(config.Config):
    """What is made of each prompt, and how much of what differs is kept."""

    saes: tuple[str, ...] = ()
    """Which Saes of the suite; none means all."""
    pool: Pool = "mean"
    """Over a prompt's tokens; special ones are left out."""
    ks: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 5, 20)
    """Latents of the sparse probes."""
    n_ablated: Count = 5
    """Features of each Sae that are ablated together."""
    answers: tuple[str, str] | None = None
    """Two answers whose logits at the prompts' ends are compared, by the first token of each."""
    false_discovery: Annotated[float, Field(gt=0, lt=1)] = 0.05
    n_listed: Count = 25
    batch_rows: Count = 8
    seed: int = 0


def run(
    config: Config,
    model: Model,
    suite: Suite,
    a: Sequence[str],
    b: Sequence[str],
    out: Path,
    emit: Emit,
) -> files.Manifest:
    """Contrast two sets of prompts and write the result to `out`.

    A finished one is reused; ConfigError if `out` holds another one.
    """
    made_from = {"model": model.digest, "suite": suite.manifest.digest}
    inputs = {**made_from, "a": digest_of(list(a)), "b": digest_of(list(b))}
    if manifest := files.made(out, KIND, config.described, inputs):
        emit(Finished(STAGE, 0.0, reused=True))
        return manifest
    started = time.monotonic()
    with torch.inference_mode():
        result = _contrast(config, model, suite, a, b, emit)
    files.clear_unsealed(out, FILES)
    tree = dataclasses.asdict(result)
    files.write_json(out / "result.json", tree)
    files.write_bytes(out / "report.md", report(result, config.false_discovery).encode())
    facts = {key: tree[key] for key in ("n_a", "n_b", "n_tested", "n_different")}
    manifest = files.seal(out, KIND, config.described, inputs, facts)
    emit(Finished(STAGE, time.monotonic() - started))
    return manifest


def _contrast(
    config: Config, model: Model, suite: Suite, a: Sequence[str], b: Sequence[str], emit: Emit
) -> Result:
    names = config.saes or suite.names
    saes = {name: suite.load(name).to(model.device) for name in names}
    prompts = halved(list(map(model.encode, a)), list(map(model.encode, b)), config.seed)
    n_batches = -(-len(prompts.rows) // config.batch_rows)
    step = _steps(n_batches + len(names), emit)  # prompts are read, then Saes compared
    vectors = pooled(model, saes, prompts.rows, config.pool, config.batch_rows, step)
    effects = {name: _effect(vectors[name], prompts) for name in names}
    found = _found(vectors, effects, prompts)
    differ = [one for one in found if one.q <= config.false_discovery]
    bench = _bench(config, model, prompts)
    base = bench.outcome({}, [])
    of_saes = []
    for name, sae in saes.items():
        best, others = _to_ablate(config, vectors[name], effects[name])
        of_sae = OfSae(
            sae=name,
            n_different=sum(one.sae == name for one in differ),
            probes=probes(vectors[name], prompts, effects[name], config.ks),
            ablated=tuple(best),
            ablation=bench.ablated(name, sae, best, base),
            control=bench.ablated(name, sae, others, base),
        )
        of_saes.append(of_sae)
        step()
    listed = tuple(sorted(differ, key=lambda one: -abs(one.effect))[: config.n_listed])
    return Result(len(a), len(b), len(found), len(differ), listed, tuple(of_saes))


def _steps(n_steps: int, emit: Emit) -> Callable[[], None]:
    """Begin to tell progress; what is returned is called after each step."""
    emit(Started(STAGE, n_steps, "steps"))
    done = count(1)
    return lambda: emit(Advanced(STAGE, next(done)))


def _effect(pooled: Pooled, prompts: Prompts) -> PerLatent:
    train = ~prompts.is_test
    return effect(pooled.latents[train], prompts.is_a[train])


def _found(
    vectors: Mapping[str, Pooled], effects: Mapping[str, PerLatent], prompts: Prompts
) -> list[Found]:
    """Test every feature of every Sae on the held-out half, corrected over all."""
    test = prompts.is_test
    tests = {n: ranked(one.latents[test], prompts.is_a[test]) for n, one in vectors.items()}
    qs = iter(discovered(torch.cat([one.p for one in tests.values()])).tolist())
    found = []
    for name, one in vectors.items():
        columns = (  # float64 for the sake of p
            effects[name],
            tests[name].auroc,
            tests[name].p,
            one.latents[prompts.is_a].mean(0),
            one.latents[~prompts.is_a].mean(0),
        )
        for index, (d, auroc, p, a, b) in enumerate(torch.stack(columns, 1).tolist()):
            found.append(Found(name, index, d, auroc, p, next(qs), a, b))
    return found


def _bench(config: Config, model: Model, prompts: Prompts) -> Bench:
    """Lay out the held-out prompts, and find the tokens of the answers."""
    test = prompts.is_test
    rows = [row for row, is_test in zip(prompts.rows, test.tolist(), strict=True) if is_test]
    answers = None
    if config.answers is not None:
        one, other = (_first_token(model, answer) for answer in config.answers)
        if one == other:
            found = f"begin with the same token {model.pieces()[one]!r}"
            raise ConfigError("answers", found, "give two that differ there, with their blanks")
        answers = (one, other)
    return Bench(model, rows, prompts.is_a[test], answers, config.batch_rows)


def _first_token(model: Model, answer: str) -> int:
    tokens = model.encode(answer)[1:]
    if not tokens:
        raise ConfigError("answers", "one is empty", "give a word each, with its blank")
    return tokens[0]


def _to_ablate(config: Config, pooled: Pooled, effect: PerLatent) -> tuple[list[int], list[int]]:
    """List the features with the largest effects, and as many drawn of the others that fire."""
    order = effect.abs().argsort(descending=True, stable=True).tolist()
    fires = (pooled.latents > 0).any(0)
    rest = [index for index in order[config.n_ablated :] if fires[index]]
    generator = torch.Generator().manual_seed(config.seed)
    drawn = torch.randperm(len(rest), generator=generator)[: config.n_ablated]
    return order[: config.n_ablated], [rest[n] for n in drawn]
