"""Harvest into many folders, each killed at another instant and then resumed; for test_harvest.

Usage: killed_harvest.py FOLDER. Writes FOLDER/whole, FOLDER/resumed-<n> (killed once, at the n-th
instant) and FOLDER/often (killed again and again). Each harvest runs in a forked child, which kills
itself with SIGKILL: half way through writing a file, before a sync, before a rename or before a
removal. Prints the number of instants.
"""

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import Gemma2Config, Gemma2ForCausalLM

from panscope.events import silent
from panscope.model.families import family_of
from panscope.model.load import Model
from panscope.model.text import Rows
from panscope.stages import harvest

CONFIG = harvest.Config(
    sites=("resid_post.0", "attn_z.1"), tokens=60, bucket_tokens=32, batch_rows=2, seed=3
)
TWO_SHARDS = CONFIG.model_copy(update={"sites": ("attn_z.1",), "tokens": 40})


def tiny_model() -> Model:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=6, sliding_window=4,
        attn_implementation="eager",
    )  # fmt: skip
    lm = Gemma2ForCausalLM(config).eval().requires_grad_(False)
    tokenizer = Tokenizer(WordLevel({}, unk_token="?"))
    family = family_of({"model_type": "gemma2"}, "tiny")
    return Model(
        lm, tokenizer, family, "tiny", "digest", bos_id=2, special_ids=frozenset({0, 1, 2})
    )


def rows_from(row: int, n_rows: int = 11, batch_rows: int = 2) -> Iterator[Rows]:
    """Rows of 8 tokens that begin with BOS; some have a second one."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 50, (n_rows, 8), generator=generator)
    ids[:, 0] = 2
    documents = (ids == 2).flatten().cumsum(0).view_as(ids)
    for start in range(row, n_rows, batch_rows):
        part = slice(start, start + batch_rows)
        kinds = ("prose",) * len(ids[part])
        yield Rows(ids[part], documents[part], ids[part] != 2, kinds)


def killed_before(
    instants: Iterator[int], fatal: int, act: Callable[..., Any]
) -> Callable[..., Any]:
    def acting(*args: Any, **kwargs: Any) -> Any:
        if next(instants) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return act(*args, **kwargs)

    return acting


def killed_half_way(instants: Iterator[int], fatal: int) -> Callable[[Path, bytes], int]:
    write_bytes = Path.write_bytes

    def writing(path: Path, data: bytes) -> int:
        if next(instants) == fatal:
            write_bytes(path, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write_bytes(path, data)

    return writing


def harvest_in_child(model: Model, out: Path, fatal: int) -> bool:
    """Harvest in a fork that is killed at an instant; say whether it lived to the end."""
    child = os.fork()
    if child == 0:
        instants = itertools.count()
        Path.write_bytes = killed_half_way(instants, fatal)  # type: ignore[method-assign]
        Path.replace = killed_before(instants, fatal, Path.replace)  # type: ignore[method-assign]
        os.fsync = killed_before(instants, fatal, lambda _: None)  # a kill loses no cached page
        shutil.rmtree = killed_before(instants, fatal, shutil.rmtree)
        harvest.run(TWO_SHARDS, model, rows_from, {"model": "m"}, out, silent)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status == 0


def main(folder: Path) -> None:
    model = tiny_model()
    assert harvest_in_child(model, folder / "whole", fatal=-1)
    for fatal in itertools.count():
        out = folder / f"resumed-{fatal}"
        if harvest_in_child(model, out, fatal):
            break
        assert harvest_in_child(model, out, -1)
    # Each life outlasts the 12 instants of a shard and the removal of an unsealed one.
    lives = itertools.count(14)
    while not harvest_in_child(model, folder / "often", next(lives)):
        pass
    print(fatal)  # noqa: T201


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
