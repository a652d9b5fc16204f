"""The pass: text through the model once, firings into tallies, tallies into an Atlas."""

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from panscope import config, files, splice
from panscope.atlas.columns import write_columns
from panscope.atlas.features import FILES, write_contexts, write_pieces
from panscope.atlas.records import Context
from panscope.events import Advanced, Emit, Finished, Started
from panscope.model import tap
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.sae.sae import Sae
from panscope.sae.suite import Suite
from panscope.stages.describe.bands import columns
from panscope.stages.describe.directions import directions
from panscope.stages.describe.tally import Tally

STAGE = "describe"
Count = Annotated[int, Field(gt=0)]


class Config(config.Config):
    """How much text is read, and how much of it is kept for each feature."""

    tokens: Count = 1_000_000
    batch_rows: Count = 8
    """Rows of a forward pass: values of 8 x 128 tokens stay in a CPU's cache; raise on a GPU."""
    n_top: Count = 10
    """Strongest contexts kept for each feature."""
    n_listed: Annotated[int, Field(gt=0, le=100)] = 10
    """Logits and neighbours listed for each feature."""
    seed: int = 0


def run(
    config: Config,
    model: Model,
    suite: Suite,
    batches: Iterable[Rows],
    inputs: Mapping[str, str],
    about: Mapping[str, Any],
    out: Path,
    emit: Emit,
) -> files.Manifest:
    """Describe every feature of `suite` on the text of `batches` and write the Atlas to `out`.

    `about` is added to the Atlas's facts (how to load the model again, what the text is). A
    finished atlas is reused; ConfigError if `out` holds another one.
    """
    described = config.model_dump(mode="json")
    if manifest := files.made(out, "atlas", described, inputs):
        emit(Finished(STAGE, 0.0, reused=True))
        return manifest
    started = time.monotonic()
    saes = {name: suite.load(name).to(model.device) for name in suite.names}
    with torch.inference_mode():
        tallies, rows = _read(config, model, suite, saes, batches, emit)
        facts = _write(config, model, saes, tallies, rows, out)
    manifest = files.seal(out, "atlas", described, inputs, {**about, "saes": facts})
    emit(Finished(STAGE, time.monotonic() - started))
    return manifest


def _read(
    config: Config,
    model: Model,
    suite: Suite,
    saes: Mapping[str, Sae],
    batches: Iterable[Rows],
    emit: Emit,
) -> tuple[dict[str, Tally], list[Rows]]:
    """Make the pass; return the tallies and the rows that were read."""
    tallies: dict[str, Tally] = {}
    read: list[Rows] = []
    sites = {site for sae in saes.values() for site in sae.reads}
    n_rows = seen_tokens = 0
    emit(Started(STAGE, config.tokens, "tokens"))
    for rows in batches:
        if seen_tokens >= config.tokens:
            break
        values = tap.run(model, rows.ids, read=sites).values
        for name, sae in saes.items():
            if name not in tallies:
                tallies[name] = _tally(config, suite, name, rows)
            pairs = sae.pairs(splice.side_by_side(values, sae.reads, rows.mask))
            tallies[name].add_(pairs, rows.mask, n_rows)
        read.append(rows)
        n_rows += len(rows.ids)
        seen_tokens += rows.ids.numel()
        emit(Advanced(STAGE, min(seen_tokens, config.tokens)))
    return tallies, read


def _tally(config: Config, suite: Suite, name: str, rows: Rows) -> Tally:
    facts = suite.facts[name]
    context = rows.ids.shape[1]
    return Tally.zero(facts["width"], facts["scale"], config.n_top, context, config.seed)


def _write(
    config: Config,
    model: Model,
    saes: Mapping[str, Sae],
    tallies: Mapping[str, Tally],
    read: list[Rows],
    out: Path,
) -> list[dict[str, Any]]:
    """Write the atlas's files; return the facts of its Saes."""
    files.clear_unsealed(out, FILES)
    facts, used = [], set[int]()
    for name, sae in saes.items():
        to_logits = model.to_logits(sae.writes[0])
        found = directions(sae.w_dec, to_logits, config.n_listed)
        described = columns(tallies[name], found)
        used |= set(described.examples.context.tolist())
        write_columns(out, name, described)
        facts.append(_facts(name, sae, tallies[name]))
    write_contexts(out, (c for c in _contexts(read) if c.context in used))
    write_pieces(out, model.pieces())
    return facts


def _facts(name: str, sae: Sae, tally: Tally) -> dict[str, Any]:
    return {
        "sae": name,
        "site": str(sae.reads[0]),
        "width": sae.width,
        "n_tokens": tally.n_tokens,
        "n_alive": int((tally.maximum > 0).sum()),
        "bin_edges": list(tally.histogram.edges),
    }


def _contexts(read: list[Rows]) -> Iterator[Context]:
    """Yield every row that was read, numbered."""
    n = 0
    for rows in read:
        for ids, documents, kind in zip(rows.ids, rows.documents, rows.kinds, strict=True):
            yield Context(n, tuple(ids.tolist()), tuple(documents.tolist()), kind)
            n += 1
