"""The pass: text through the model once, firings into a log, the log into an Atlas, Sae by Sae.

`run` does all. In shares, on several machines: `read` the text, when all have then `tell` of the
Saes, and `seal` once at the end.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field

from panscope import config, files, splice
from panscope.atlas.columns import FeatureColumns, write_columns
from panscope.atlas.features import FILES, features_file, write_contexts, write_pieces
from panscope.atlas.records import Context
from panscope.dist import WHOLE, Share
from panscope.errors import ConfigError, Incomplete
from panscope.events import Advanced, Emit, Finished, Started, Warned
from panscope.kernels.pairs import Pairs
from panscope.model import tap
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.sae.sae import Sae
from panscope.sae.suite import Suite
from panscope.stages.describe import features
from panscope.stages.describe.directions import effects
from panscope.stages.describe.fired import Fired
from panscope.stages.describe.log import Log
from panscope.stages.describe.map import How, place
from panscope.stages.describe.tally import Tally, scale_of
from panscope.stages.describe.tokens import Text

STAGE = "describe"
PIECE_TOKENS = 1 << 15  # of the log: of twelve Saes that fire 20 latents a token, 94 MB
AGAIN = "run describe again: it writes what is missing"
Count = Annotated[int, Field(gt=0)]
RowsFrom = Callable[[int], Iterator[Rows]]
"""Yields the text's passes from a row on."""


class Config(config.Config):
    """How much text is read, and how much of it is kept for each feature."""

    tokens: Count = 1_000_000
    batch_rows: Count = 8
    """Rows of a forward pass: values of 8 x 128 tokens stay in a CPU's cache; raise on a GPU."""
    n_top: Count = 10
    """Strongest contexts kept for each feature."""
    n_listed: Annotated[int, Field(gt=0, le=100)] = 10
    """Logits, neighbours and companions listed for each feature."""
    map: How = "pca"
    """What places features on a map of their Sae; "umap" needs the extra of that name."""
    seed: int = 0


class Work(NamedTuple):
    """What an atlas is made from, and where it goes.

    `about` is added to the Atlas's facts (how to load the model again, what the text is).
    """

    config: Config
    model: Model
    suite: Suite
    rows_from: RowsFrom
    inputs: Mapping[str, str]
    about: Mapping[str, Any]
    out: Path
    emit: Emit

    @property
    def made(self) -> files.Manifest | None:
        """The manifest, if the atlas is finished; ConfigError if `out` holds another one."""
        return files.made(self.out, "atlas", self.config.described, self.inputs)

    @property
    def log(self) -> Log:
        """The log of the firings."""
        return Log.of(self.out, files.artefact_digest(self.config.described, self.inputs))

    def saes(self) -> dict[str, Sae]:
        """Load all Saes to where the model is."""
        names = self.suite.names
        return {name: self.suite.load(name).to(self.model.device) for name in names}


def run(work: Work) -> files.Manifest:
    """Describe every feature of a suite on the text and write the Atlas.

    A finished atlas is reused, an unfinished one resumed: what is in the log is not read again.
    ConfigError if `out` holds another one.
    """
    if manifest := work.made:
        work.log.remove()  # where a run was killed between the manifest and this
        work.emit(Finished(STAGE, 0.0, reused=True))
        return manifest
    started = time.monotonic()
    read(work)
    tell(work)
    manifest = _sealed(work)
    work.emit(Finished(STAGE, time.monotonic() - started))
    return manifest


def read(work: Work, share: Share = WHOLE) -> None:
    """Write a share of the text's pieces into the log, those that it lacks.

    The text of other shares is counted, not run.
    """
    if work.made:
        return
    done_tokens, log = 0, work.log
    for problem in log.drop_damaged():
        work.emit(Warned(STAGE, f"{problem}. It is made again."))
    work.emit(Started(STAGE, work.config.tokens, "tokens"))
    first = next(number for number in count() if not log.has(number))
    number, saes = first - 1, work.saes()
    for number, first_row, passes in _pieces(work, first):
        if number in share and not log.has(number):
            with torch.inference_mode():
                log.write(number, first_row, passes, _fired(work.model, saes, passes))
        if number in share:
            done_tokens += sum(rows.ids.numel() for rows in passes)
            work.emit(Advanced(STAGE, min(done_tokens, work.config.tokens)))
    log.end(number + 1)


def _pieces(work: Work, first: int) -> Iterator[tuple[int, int, list[Rows]]]:
    """Yield the pieces of the text from `first` on: number, first row, and forward passes."""
    opening = next(work.rows_from(0), None)
    if opening is None:
        raise ConfigError(STAGE, "the text has no rows", "give more text")
    pass_tokens = work.config.batch_rows * opening.ids.shape[1]
    in_piece = max(1, PIECE_TOKENS // pass_tokens)
    n_passes = -(-work.config.tokens // pass_tokens)
    first_row = first * in_piece * work.config.batch_rows
    passes = islice(work.rows_from(first_row), max(0, n_passes - first * in_piece))
    for number in count(first):
        if not (piece := list(islice(passes, in_piece))):
            return
        yield number, number * in_piece * work.config.batch_rows, piece


def _fired(model: Model, saes: Mapping[str, Sae], passes: Sequence[Rows]) -> dict[str, list[Pairs]]:
    """Run the model over a piece, and return what fired of each Sae, pass by pass."""
    sites = {site for sae in saes.values() for site in sae.reads}
    fired: dict[str, list[Pairs]] = {name: [] for name in saes}
    for rows in passes:
        values = tap.run(model, rows.ids, read=sites).values
        for name, sae in saes.items():
            fired[name].append(sae.pairs(splice.side_by_side(values, sae.reads, rows.mask)))
    return fired


def tell(work: Work, share: Share = WHOLE) -> None:
    """Make the features of a share of the Saes from the log, those that are not made yet."""
    if work.made:
        return
    log, saes = work.log, work.saes()
    text = Text.of([(seal.first_row, rows) for seal, rows in log.pieces()])
    work.emit(Started(STAGE, len(saes), "Saes"))
    for number, name in enumerate(work.suite.names):
        path = work.out / features_file(name)
        if number in share and log.told(name, path) is None:
            with torch.inference_mode():
                columns, facts = _told(work, name, saes, text)
            write_columns(work.out, name, columns)
            log.tell(name, facts, sorted(set(columns.examples.context.tolist())), path)
        work.emit(Advanced(STAGE, number + 1))


def _told(
    work: Work, name: str, saes: Mapping[str, Sae], text: Text
) -> tuple[FeatureColumns, dict[str, Any]]:
    """Return the features of a Sae, and what the manifest says of it."""
    settings, sae = work.config, saes[name]
    fired = Fired.of(work.log.codes(name, sae.width))
    scale = work.suite.facts[name].get("scale") or scale_of(fired.codes)
    tally = Tally.zero(sae.width, scale, settings.n_top, len(text.kinds), settings.seed)
    for firings, tokens in zip(fired.by_latent, text.tokens, strict=True):
        tally.add_(firings, tokens)
    logits = effects(sae.w_dec, work.model.to_logits(sae.writes[0]), settings.n_listed)
    facts = {
        "sae": name,
        "site": str(sae.reads[0]),
        "width": sae.width,
        "n_tokens": tally.n_tokens,
        "n_alive": int((tally.maximum > 0).sum()),
        "bin_edges": list(tally.histogram.edges),
        "logit_bin_edges": list(logits.edges),
    }
    places = place(sae.w_dec, settings.map, settings.seed)
    n_heads = work.model.heads_at(sae.writes[0]) if len(sae.writes) == 1 else 0
    told = features.columns(
        name, saes, tally, fired, text, logits, places, settings.n_listed, n_heads
    )
    return told, facts


def seal(work: Work) -> files.Manifest:
    """Make an atlas of what all shares have told; Incomplete if something is missing."""
    if manifest := work.made:
        work.emit(Finished(STAGE, 0.0, reused=True))
        return manifest
    manifest = _sealed(work)
    work.emit(Finished(STAGE, 0.0))
    return manifest


def _sealed(work: Work) -> files.Manifest:
    log, out = work.log, work.out
    told = {name: log.told(name, out / features_file(name)) for name in work.suite.names}
    pieces = log.pieces()
    facts, used = [], set[int]()
    for name, found in told.items():
        if found is None:
            raise Incomplete(str(out), f"the features of {name} are not written", AGAIN)
        facts.append(found.facts)
        used |= set(found.contexts)
    _remove_strangers(out, [out / features_file(name) for name in told])
    rows = [row for seal, rows in pieces for row in _contexts(seal.first_row, rows)]
    write_contexts(out, (context for context in rows if context.context in used))
    write_pieces(out, work.model.pieces())
    kinds = Text.of([(seal.first_row, rows) for seal, rows in pieces]).kinds
    about = {**work.about, "saes": facts, "kinds": kinds}
    manifest = files.seal(out, "atlas", work.config.described, work.inputs, about)
    log.remove()
    return manifest


def _remove_strangers(out: Path, ours: Sequence[Path]) -> None:
    """Remove what killed writers and an unfinished description of another suite have left."""
    named = [path for pattern in FILES for path in out.glob(pattern)]
    for path in (*out.rglob(".*.tmp"), *(path for path in named if path not in ours)):
        path.unlink()


def _contexts(first_row: int, rows: Rows) -> Iterator[Context]:
    """Yield rows, numbered."""
    every = zip(rows.ids.tolist(), rows.documents.tolist(), rows.kinds, strict=True)
    for number, (ids, documents, kind) in enumerate(every, first_row):
        yield Context(number, tuple(ids), tuple(documents), kind)
