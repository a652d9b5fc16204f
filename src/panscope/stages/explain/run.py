"""From an Atlas to labels with scores: features in groups, each written when it is whole."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from panscope import config
from panscope.atlas.features import Atlas
from panscope.atlas.labels import Label, Score
from panscope.atlas.notes import Notes
from panscope.atlas.queries import Contexts
from panscope.atlas.records import Feature
from panscope.config import digest_of
from panscope.errors import NotFound, nearest
from panscope.events import Advanced, Emit, Finished, Started, Warned
from panscope.stages.explain import judge, rules
from panscope.stages.explain.client import Client, Endpoint, connect
from panscope.stages.explain.score import Reading, Scorer, scores
from panscope.stages.explain.windows import Halves, Row, Rows, Window, halves

STAGE = "explain"
GROUP = 256  # features explained, then scored beside each other's labels, then written
LEAST = 2  # firing windows that each half must have
ROWS_KEPT = 1 << 14  # of text, unpacked: 100 MB at 128 tokens
Positive = Annotated[int, Field(gt=0)]


class Config(config.Config):
    """Who explains which features, on how many windows, and how the labels are scored."""

    by: Literal["rules", "endpoint"] = "rules"
    """`rules` needs no language model; `endpoint` asks the one of `[explain.endpoint]`."""
    saes: tuple[str, ...] = ("*",)
    """Ids of Saes, with `*` for any part."""
    features: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Indices; without any, all that are alive."""
    at_most: Positive | None = None
    """Features of each Sae, drawn by the seed."""
    scorers: tuple[Scorer, ...] = ("detection", "fuzzing", "simulation")
    window_tokens: Annotated[int, Field(ge=4)] = 24
    windows: Annotated[int, Field(ge=LEAST)] = 10
    """Firing windows shown, and as many others scored; as many silent ones go with each."""
    seed: int = 0
    endpoint: Endpoint = Endpoint()

    @property
    def decides(self) -> str:
        """The digest of all that a label and its scores depend on."""
        names = {"by", "scorers", "window_tokens", "windows", "seed"}
        asked = {"base_url", "model", "temperature", "answer_tokens"}
        told = self.endpoint.model_dump(include=asked) if self.by == "endpoint" else {}
        return digest_of({**self.model_dump(include=names), "endpoint": told})


@dataclass(frozen=True, slots=True)
class Explainer:
    """Someone who finds labels; `author` and `method` stand in the notes."""

    author: str
    method: str
    explain: Callable[[Sequence[Window]], Reading | None]
    at_once: int
    client: Client | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A feature, its windows, and what a label of it is made from."""

    index: int
    halves: Halves
    made_from: str


def run(config: Config, atlas: Atlas, notes: Notes, kept: Path, emit: Emit) -> Mapping[str, int]:
    """Label the features of an atlas and score the labels, into `notes`; say how many became what.

    Answers of an endpoint are kept in the folder `kept`. A feature that has a label made in the
    same way from the same windows is left as it is.

    Raises NotFound for a Sae or feature that is not there.
    """
    started, counts = time.monotonic(), Counter[str]()
    chosen = {sae: _chosen(config, atlas, sae) for sae in _saes(config, atlas)}
    rows = _rows(atlas)
    emit(Started(STAGE, sum(map(len, chosen.values())), "features"))
    values: dict[str, list[Score]] = {}
    with _explainer(config, kept) as explainer, ThreadPoolExecutor(explainer.at_once) as pool:
        for sae, indices in chosen.items():
            for group in _groups(indices):
                features = atlas.features(sae, group)
                cases = [_case(config, atlas, feature, rows) for feature in features]
                labels = _labels(config, explainer, pool, sae, cases, notes, counts)
                notes.add_all(labels)
                counts["features"] += len(group)
                for score in (score for label in labels for score in label.scores):
                    values.setdefault(score.scorer, []).append(score)
                emit(Advanced(STAGE, counts["features"], _metrics(values, explainer)))
    for text in _said(counts):
        emit(Warned(STAGE, text))
    emit(Finished(STAGE, time.monotonic() - started, reused=counts["features"] == counts["known"]))
    return counts


def _saes(config: Config, atlas: Atlas) -> list[str]:
    """Find the Saes that are named, in the order of a forward pass."""
    for pattern in config.saes:
        if not any(fnmatchcase(sae, pattern) for sae in atlas.saes):
            found = f"no Sae is named {pattern!r}"
            raise NotFound("explain.saes", found, nearest(pattern, atlas.saes))
    return [sae for sae in atlas.saes if any(fnmatchcase(sae, p) for p in config.saes)]


def _chosen(config: Config, atlas: Atlas, sae: str) -> list[int]:
    """List the features to explain, in order of their index."""
    width = atlas.sae(sae).width
    if beyond := [index for index in config.features if index >= width]:
        do = f"give indices from 0 to {width - 1}"
        raise NotFound("explain.features", f"{sae} has no feature {beyond[0]}", do)
    alive = np.flatnonzero(atlas.column(sae, "count")["count"].to_numpy()).tolist()
    asked = sorted(set(config.features)) or alive
    if config.at_most is None or config.at_most >= len(asked):
        return asked
    return sorted(Random(f"{config.seed} {sae}").sample(asked, config.at_most))


def _groups(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    """Divide features into groups of about equal size, so that none is left alone at the end."""
    n_groups = -(-len(indices) // GROUP)
    edges = [len(indices) * n // max(n_groups, 1) for n in range(n_groups + 1)]
    return (indices[a:b] for a, b in pairwise(edges))


def _rows(atlas: Atlas) -> Rows:
    contexts, pieces = Contexts(atlas), atlas.pieces
    return lru_cache(ROWS_KEPT)(lambda number: Row.of(contexts.get(number), pieces))


def _case(config: Config, atlas: Atlas, feature: Feature, rows: Rows) -> Case:
    cut = halves(feature, rows, config.window_tokens, config.windows, config.seed)
    shown = [(window.context, window.start) for window in cut.shown]
    made_from = {"atlas": atlas.manifest.digest, "config": config.decides, "shown": shown}
    return Case(feature.index, cut, json.dumps(made_from))


def _labels(
    config: Config,
    explainer: Explainer,
    pool: ThreadPoolExecutor,
    sae: str,
    cases: Sequence[Case],
    notes: Notes,
    counts: Counter[str],
) -> list[Label]:
    """Explain the features of a group and score those that have no such label yet."""
    fit = [case for case in cases if _has_windows(case)]
    known = {case.index for case in fit if _is_known(case, sae, notes)}
    counts["without windows"] += len(cases) - len(fit)
    counts["known"] += len(known)
    if len(known) == len(fit):
        return []
    found = list(pool.map(lambda case: explainer.explain(case.halves.shown), fit))
    pairs = [(case, own) for case, own in zip(fit, found, strict=True) if own is not None]
    counts["without answer"] += len(fit) - len(pairs)
    others = _others([own for _, own in pairs], config.seed)
    wanted = [
        (case, own, other)
        for (case, own), other in zip(pairs, others, strict=True)
        if case.index not in known
    ]
    counts["labelled"] += len(wanted)
    return list(pool.map(partial(_label, config, explainer, sae), *zip(*wanted, strict=True)))


def _label(
    config: Config, explainer: Explainer, sae: str, case: Case, own: Reading, other: Reading | None
) -> Label:
    scored = scores(config.scorers, own, other, case.halves.scored, config.seed, explainer.author)
    return Label(
        sae=sae,
        index=case.index,
        text=own.text,
        author=explainer.author,
        method=explainer.method,
        scores=scored,
        made_from=case.made_from,
    )


def _has_windows(case: Case) -> bool:
    return all(
        sum(window.fires for window in half) >= LEAST
        for half in (case.halves.shown, case.halves.scored)
    )


def _is_known(case: Case, sae: str, notes: Notes) -> bool:
    return any(label.made_from == case.made_from for label in notes.labels(sae, case.index))


def _others(readings: Sequence[Reading], seed: int) -> list[Reading | None]:
    """Give each label another's for comparison; None to one that is alone."""
    if len(readings) < 2:
        return [None] * len(readings)
    by = Random(seed).randrange(1, len(readings))
    return [*readings[by:], *readings[:by]]


@contextmanager
def _explainer(config: Config, kept: Path) -> Iterator[Explainer]:
    """Yield the explainer that the recipe names."""
    if config.by == "rules":
        yield Explainer("panscope", "rules", rules.explain, at_once=1)
        return
    client = connect(config.endpoint, kept)
    explain = partial(judge.explain, ask=client.ask)
    try:
        yield Explainer(config.endpoint.model, "model", explain, config.endpoint.at_once, client)
    finally:
        client.close()


def _metrics(values: Mapping[str, Sequence[Score]], explainer: Explainer) -> dict[str, float]:
    """Average the scores so far, and their baselines; say what was asked and spent."""
    metrics: dict[str, float] = {}
    for scorer, found in values.items():
        metrics[scorer] = _mean([score.value for score in found])
        metrics[f"{scorer} shuffled"] = _mean([score.baseline for score in found])
    if (client := explainer.client) is not None:
        spent = client.spent
        metrics |= {"dollars": spent.dollars(client.endpoint), "asked": spent.asked}
        metrics |= {"kept": spent.kept, "no answer": spent.failed}
        metrics |= {"tokens in": spent.tokens_in, "tokens out": spent.tokens_out}
    return metrics


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def _said(counts: Counter[str]) -> Iterator[str]:
    if n := counts["without windows"]:
        yield f"{n:,} features have too few examples in different documents to be explained"
    if n := counts["without answer"]:
        yield f"{n:,} features had no usable answer: run the same command again"
