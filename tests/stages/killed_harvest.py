"""Harvest into many folders, each killed at another instant and then resumed; for test_harvest.

Usage: killed_harvest.py FOLDER. Writes FOLDER/whole, FOLDER/resumed-<n> (killed once, at the n-th
instant), FOLDER/often (killed again and again) and FOLDER/several-<n> (by three processes at once,
killed at random, the clock jumping). Each harvest runs in a forked child, which kills itself with
SIGKILL: half way through a write, before a sync, a rename or a removal. Prints the number of
instants.
"""

import itertools
import os
import random
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
SEVERAL = 10
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


def killed_half_way(instants: Iterator[int], fatal: int) -> Callable[[int, memoryview], int]:
    write = os.write

    def writing(file: int, data: memoryview) -> int:
        if next(instants) == fatal:
            write(file, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(file, data)

    return writing


def start(model: Model, out: Path, fatal: int) -> int:
    """Fork a child that harvests and is killed at an instant; return its process number."""
    child = os.fork()
    if child == 0:
        instants = itertools.count()
        os.write = killed_half_way(instants, fatal)
        Path.replace = killed_before(instants, fatal, Path.replace)  # type: ignore[method-assign]
        Path.unlink = killed_before(instants, fatal, Path.unlink)  # type: ignore[method-assign]
        os.fsync = killed_before(instants, fatal, lambda _: None)  # a kill loses no cached page
        shutil.rmtree = killed_before(instants, fatal, shutil.rmtree)
        harvest.run(harvest.Work(TWO_SHARDS, model, rows_from, {"model": "m"}, out, silent))
        os._exit(0)
    return child


def end(child: int) -> bool:
    """Wait for a child; say whether it lived to the end."""
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status == 0


def harvest_in_child(model: Model, out: Path, fatal: int) -> bool:
    return end(start(model, out, fatal))


def sealed_in(out: Path) -> dict[str, tuple[int, bytes]]:
    """Return inode and bytes of every file of every sealed shard."""
    shards = [seal.parent for seal in out.glob("shard-*/seal.json")]
    files = [file for shard in shards for file in shard.iterdir()]
    return {str(file): (file.stat().st_ino, file.read_bytes()) for file in files}


def jump(out: Path, draw: random.Random) -> None:
    """Set the times of all files anywhere between 1970 and 2100, as a clock that jumped would."""
    for file in (*out.rglob("*"), *out.rglob(".*")):
        os.utime(file, (draw.uniform(0, 4e9), draw.uniform(0, 4e9)))


def several(model: Model, out: Path, draw: random.Random) -> None:
    """Let three processes harvest one store, each killed at a random instant, until one is done."""
    while True:
        children = [start(model, out, draw.choice([-1, draw.randrange(80)])) for _ in range(3)]
        lived = [end(child) for child in children]
        jump(out, draw)
        if any(lived):
            break
    before = sealed_in(out)
    assert harvest_in_child(model, out, -1)
    assert sealed_in(out) == before, "something sealed was lost or written again"


def main(folder: Path) -> None:
    model = tiny_model()
    assert harvest_in_child(model, folder / "whole", fatal=-1)
    for fatal in itertools.count():
        out = folder / f"resumed-{fatal}"
        if harvest_in_child(model, out, fatal):
            break
        sealed = sealed_in(out)
        assert harvest_in_child(model, out, -1)
        assert sealed.items() <= sealed_in(out).items(), "something sealed was written again"
    # Each life outlasts the instants of a shard and the removal of an unsealed one.
    lives = itertools.count(24)
    while not harvest_in_child(model, folder / "often", next(lives)):
        pass
    for n in range(SEVERAL):
        several(model, folder / f"several-{n}", random.Random(n))
    print(fatal)  # noqa: T201


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
