"""From an Atlas to labels with scores: features in groups, each written when it is whole."""

import contextlib
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from random import Random
from threading import Event
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from panscope import config
from panscope.atlas.contexts import Contexts
from panscope.atlas.features import Atlas
from panscope.atlas.labels import Score
from panscope.atlas.notes import Notes
from panscope.config import digest_of
from panscope.errors import ConfigError, NotFound, nearest
from panscope.events import Advanced, Emit, Finished, Started, Warned
from panscope.stages.explain import judge, meaning, rules
from panscope.stages.explain.client import connect, refuse_without_library
from panscope.stages.explain.endpoint import Endpoint
from panscope.stages.explain.group import LEAST, Explainer, Manner, case, labels
from panscope.stages.explain.judge import Judge
from panscope.stages.explain.letter import Letter
from panscope.stages.explain.score import Scorer
from panscope.stages.explain.windows import Row, Rows

STAGE = "explain"
GROUP = 256  # features explained, then scored beside each other's labels, then written
ROWS_KEPT = 1 << 14  # of text, unpacked: 100 MB at 128 tokens
Metrics = dict[str, float]
By = Literal["rules", "endpoint"]
Positive = Annotated[int, Field(gt=0)]


class Config(config.Config):
    """Who explains which features, on how many windows, and how the labels are scored."""

    by: By = "rules"
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
    meaning: Endpoint | None = None
    """Where an embedding model answers, by which labels are found by what they mean."""

    @property
    def at_once(self) -> int:
        """How many features are worked on together."""
        return self.endpoint.at_once if self.by == "endpoint" else 1


class Asked(NamedTuple):
    """An explainer, what it has spent so far, and what it was asked in vain."""

    explainer: Explainer
    spent: Callable[[], Metrics]
    in_vain: Callable[[], list[str]]


def config_of(run: Path) -> Config:
    """Read how the recipe of a run folder explains; a run without one explains as usual.

    Raises ConfigError for a recipe that cannot be used.
    """
    path = run / "recipe.json"
    tree = config.read_tree(path) if path.is_file() else {}
    if not isinstance(section := tree.get("explain", {}), dict):
        raise ConfigError(str(path), "explain is no section", "write its keys in braces")
    return Config.parse(section, str(path))


def embedding_of(run: Path) -> Endpoint:
    """Return the embedding model that the recipe of a run folder names.

    Raises ConfigError if it names none, or what asks it is not installed.
    """
    refuse_without_library()
    if (endpoint := config_of(run).meaning) is not None:
        return endpoint
    do = "name an embedding model in [explain.meaning] and run panscope explain"
    raise ConfigError(str(run), "has no labels by meaning", do)


def run(
    config: Config,
    atlas: Atlas,
    notes: Notes,
    kept: Path,
    emit: Emit,
    closing: Event | None = None,
) -> Mapping[str, int]:
    """Label the features of an atlas and score the labels, into `notes`; say how many became what.

    Answers of an endpoint are kept in the folder `kept`. A feature that has a label made in the
    same way from the same windows is left as it is.

    Raises NotFound for a Sae or feature that is not there, Interrupted once `closing` is set while
    an endpoint is asked.
    """
    refuse_unknown(config, atlas)
    started, counts = time.monotonic(), Counter[str]()
    indices = {sae: chosen(config, atlas, sae) for sae in named_saes(config, atlas)}
    rows, found = rows_of(atlas), defaultdict[str, list[Score]](list)
    emit(Started(STAGE, sum(map(len, indices.values())), "features"))
    # The explainer ends first: on an interrupt it lets go of the threads that wait for an answer.
    with (
        ThreadPoolExecutor(config.at_once) as pool,
        explainer_of(config, kept, closing) as asked,
    ):
        manner = manner_of(config, atlas, asked.explainer)
        for sae, group in _groups(indices):
            features = atlas.features(sae, in_company(config, atlas, sae, group))
            cases = [case(manner, feature, rows) for feature in features]
            made, became = labels(manner, sae, cases, group, notes, pool)
            notes.add_all(made)
            counts += became + Counter({"features": len(group)})
            for score in (score for label in made for score in label.scores):
                found[score.scorer].append(score)
            emit(Advanced(STAGE, counts["features"], {**_means(found), **asked.spent()}))
    if config.meaning is not None:
        meaning.learn(config.meaning, notes)
    for text in (*_said(counts), *asked.in_vain()):
        emit(Warned(STAGE, text))
    emit(Finished(STAGE, time.monotonic() - started))
    return counts


def named_saes(config: Config, atlas: Atlas) -> list[str]:
    """Find the Saes that are named, in the order of a forward pass."""
    for pattern in config.saes:
        if not any(fnmatchcase(sae, pattern) for sae in atlas.saes):
            found = f"no Sae is named {pattern!r}"
            raise NotFound("explain.saes", found, nearest(pattern, atlas.saes))
    return [sae for sae in atlas.saes if any(fnmatchcase(sae, p) for p in config.saes)]


def refuse_unknown(config: Config, atlas: Atlas) -> None:
    """Raise NotFound for Saes and features that are named and not there."""
    for sae in named_saes(config, atlas):
        width = atlas.sae(sae).width
        if beyond := [index for index in config.features if index >= width]:
            do = f"give indices from 0 to {width - 1}"
            raise NotFound("explain.features", f"{sae} has no feature {beyond[0]}", do)


def chosen(config: Config, atlas: Atlas, sae: str) -> list[int]:
    """List the features to explain, in order of their index."""
    asked = sorted(set(config.features)) or _alive(atlas, sae)
    if config.at_most is None or config.at_most >= len(asked):
        return asked
    return sorted(Random(f"{config.seed} {sae}").sample(asked, config.at_most))


def _groups(chosen: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, Sequence[int]]]:
    """Divide each Sae's features into groups of about equal size."""
    for sae, indices in chosen.items():
        n_groups = -(-len(indices) // GROUP)
        edges = [len(indices) * n // max(n_groups, 1) for n in range(n_groups + 1)]
        yield from ((sae, indices[a:b]) for a, b in pairwise(edges))


def in_company(config: Config, atlas: Atlas, sae: str, group: Sequence[int]) -> Sequence[int]:
    """Add, to a feature that is alone, another whose label is its baseline."""
    others = [index for index in _alive(atlas, sae) if index not in group]
    if len(group) > 1 or not others:
        return group
    return [*group, Random(f"{config.seed} {sae} {group[0]}").choice(others)]


def _alive(atlas: Atlas, sae: str) -> list[int]:
    found: list[int] = np.flatnonzero(atlas.column(sae, "count")["count"].to_numpy()).tolist()
    return found


def rows_of(atlas: Atlas) -> Rows:
    """Look rows of the atlas's text up, some of them kept."""
    contexts, pieces = Contexts(atlas), atlas.pieces
    return lru_cache(ROWS_KEPT)(lambda number: Row.of(contexts.get(number), pieces))


def manner_of(config: Config, atlas: Atlas, explainer: Explainer) -> Manner:
    """Name all that labels and scores will depend on besides the feature."""
    how = config.model_dump(exclude={"saes", "features", "at_most", "endpoint", "meaning"})
    asked = {"base_url", "model", "temperature", "answer_tokens", "more"}
    whom = config.endpoint.model_dump(include=asked) if config.by == "endpoint" else {}
    digest = digest_of({"atlas": atlas.manifest.digest, **how, **whom})
    return Manner(
        explainer, config.scorers, config.window_tokens, config.windows, config.seed, digest
    )


@contextmanager
def explainer_of(config: Config, kept: Path, closing: Event | None) -> Iterator[Asked]:
    """Yield the explainer that the recipe names."""
    if config.by == "rules":
        yield Asked(Explainer("panscope", "rules", rules.explain, Letter), dict, list)
        return
    with contextlib.closing(connect(config.endpoint, kept, closing)) as client:
        explain = partial(judge.explain, ask=client.ask)
        read = partial(Judge, ask=client.ask)
        explainer = Explainer(config.endpoint.model, "model", explain, read)
        yield Asked(explainer, client.metrics, client.warnings)


def _means(found: Mapping[str, Sequence[Score]]) -> Metrics:
    """Average the scores so far, and their baselines."""
    values = {name: _mean([score.value for score in of]) for name, of in found.items()}
    baselines = {f"{name} shuffled": _mean([s.baseline for s in of]) for name, of in found.items()}
    return {**values, **baselines}


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def _said(counts: Counter[str]) -> Iterator[str]:
    if n := counts["without windows"]:
        yield f"not explained, for want of examples in different documents: {n:,} of the features"
    if n := counts["without answer"]:
        yield f"not explained, for want of a usable answer: {n:,} of the features"
