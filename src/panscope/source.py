"""Where training takes activations from: a live stream, or a store that harvest wrote."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from panscope import config, files
from panscope.config import digest_of
from panscope.errors import ConfigError, Corrupt
from panscope.model.load import Model
from panscope.noted import read_note, write_note
from panscope.place import Place, Where
from panscope.recipe import Recipe
from panscope.sites import Site
from panscope.stages import harvest
from panscope.stages.harvest import Config as HarvestConfig
from panscope.stages.harvest import RowsFrom
from panscope.stages.train import BatchesFrom
from panscope.store import shared
from panscope.store.reader import Store
from panscope.store.shared import Config as StoreConfig
from panscope.store.shuffle import Batch

Batches = Generator[Mapping[Site, Tensor], None, None]


class Source(NamedTuple):
    """A stream that can be begun at any batch, and the digests of what it is made from."""

    batches_from: BatchesFrom
    inputs: dict[str, str]


class Begin(config.Config):
    """Where training began in the order of a store's shards; `stream` names store and order."""

    stream: str
    visit: int


def live(
    recipe: Recipe,
    model: Model,
    rows_from: RowsFrom,
    sites: Sequence[Site],
    inputs: Mapping[str, str],
) -> Source:
    """Run the model over the text while Saes are trained at some of `sites`."""
    if recipe.store.model_copy(update={"folder": None}) != StoreConfig():
        found = "says how a store is read, but training reads the live stream"
        raise ConfigError("[store]", found, 'set source = "store"')

    def batches_from(batch: int, at: tuple[Site, ...]) -> Batches:
        settings, size = _harvest_of(recipe, at), recipe.train.batch_tokens
        stream = harvest.stream(settings, model, rows_from, size, batch)
        return (batch.values for batch in stream)

    # A live stream has no end, and its values at a site do not depend on the other sites.
    shape = _harvest_of(recipe, sites).model_dump(mode="json", exclude={"tokens"})
    return Source(batches_from, {**inputs, "stream": digest_of(shape)})


def stored(
    recipe: Recipe, model: Model, folder: Place, note: Path, inputs: Mapping[str, str]
) -> Source:
    """Read a store; `note` says, or is made to say, where in it training began.

    ConfigError for a store of another model.
    """
    store, seed = Store.open(folder), recipe.harvest.seed
    refuse_another_model(store.folder, store.manifest, inputs)
    begin = _begin(recipe.store, store, seed, note)
    passed = store.batches_before(begin, recipe.train.batch_tokens, seed)

    def batches_from(batch: int, sites: tuple[Site, ...]) -> Batches:
        stream = _batches(recipe, store, sites, passed + batch)
        return ({s: v.to(model.device) for s, v in b.values.items()} for b in stream)

    made_from = {
        **inputs,
        "store": store.manifest.digest,
        "stream": digest_of({"seed": seed}),
        **({"begin": f"shard {begin} of the order"} if begin else {}),
    }
    return Source(batches_from, made_from)


def refuse_another_model(
    folder: Where, manifest: files.Manifest, inputs: Mapping[str, str]
) -> None:
    """Raise ConfigError for an artefact that was made from another model than `inputs` name."""
    if manifest.inputs.get("model", inputs["model"]) != inputs["model"]:
        do = "name the model it was made from, or choose another output"
        raise ConfigError(str(folder), "was made from another model", do)


def _harvest_of(recipe: Recipe, sites: Sequence[Site]) -> HarvestConfig:
    return recipe.harvest.model_copy(update={"sites": tuple(map(str, sites))})


def _batches(recipe: Recipe, store: Store, sites: tuple[Site, ...], batch: int) -> Iterator[Batch]:
    """Read a store from a batch on, by ourselves or through the window we have with others."""
    size, seed = recipe.train.batch_tokens, recipe.harvest.seed
    if window := round(recipe.store.shared_gb * 1e9):
        return shared.batches(store, sites, size, seed, batch, window)
    return store.batches(sites, size, seed, batch=batch)


def _begin(config: StoreConfig, store: Store, seed: int, note: Path) -> int:
    """Return the visit at which training begins, which is noted when it joins others."""
    if not config.join:
        return config.begin
    stream = digest_of([store.manifest.digest, seed])
    if (begin := _noted(note)) is None:
        front = shared.front(store, seed)
        begin = Begin(stream=stream, visit=config.begin if front is None else front)
        write_note(note, begin)
    if begin.stream != stream:
        do = "choose another output or delete it"
        raise ConfigError(str(note), "tells of another store or seed", do)
    return begin.visit


def _noted(path: Path) -> Begin | None:
    try:
        return read_note(Begin, path)
    except Corrupt as error:
        do = "delete it and the suite to train from the start"
        raise Corrupt(str(path), "does not say where training began", do) from error
