"""Activations of the pocket model at three sites: harvested once into stores, read from there."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from torch import Tensor

from panscope.events import silent
from panscope.model import load, text
from panscope.sites import Site
from panscope.stages import harvest
from panscope.store.reader import Store

STORES = Path(__file__).parent.parent / "runs" / "quality"
SITES = (Site("resid_post", 2), Site("mlp_out", 2), Site("attn_z", 2))
HELD_OUT_TOKENS = 32_768
ALL = 10**9  # tokens: the text is read once, whole
TEXT = text.Config(path="pocket", context=128, held_out=0.1)
SETTINGS = harvest.Config(
    sites=tuple(map(str, SITES)), dtype="float32", bucket_tokens=131_072, batch_rows=32
)

Split = Literal["train", "held_out"]


@cache
def store(split: Split) -> Store:
    """Open a split's store; harvest it first if need be."""
    folder = STORES / split
    tokens = ALL if split == "train" else HELD_OUT_TOKENS
    model = load.load(load.Config())
    rows_from = lambda row: text.rows(TEXT, model, split, SETTINGS.batch_rows, row)  # noqa: E731
    inputs = {"model": model.digest, "text": text.fingerprint(TEXT), "split": split}
    settings = SETTINGS.model_copy(update={"tokens": tokens})
    harvest.run(harvest.Work(settings, model, rows_from, inputs, folder, silent))
    return Store.open(folder)


@cache
def held_out(site: Site) -> Tensor:
    """Return the site's held-out activations."""
    one = store("held_out").shard(0, [site])
    return one.values[site][:HELD_OUT_TOKENS]


def batches_from(site: Site, batch_tokens: int, seed: int) -> Callable[[int], Iterator[Tensor]]:
    """Return a stream without end that visits the training text's shards in a drawn order."""

    def batches(first: int) -> Iterator[Tensor]:
        stream = store("train").batches((site,), batch_tokens, seed, batch=first)
        return (batch.values[site].float() for batch in stream)

    return batches
