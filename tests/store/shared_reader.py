"""One trainer in a process of its own, reading a store that others read; for test_shared.

Usage: shared_reader.py MEMORY STORE BUDGET_BYTES COUNT [STALL]. Says `joined`, waits for a line,
reads COUNT batches, and says as JSON a digest of each and how often it read the store. If STALL is
given, it says `filling` and stands still for good when it reads the store for that time.
"""

import hashlib
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from panscope.store import window
from panscope.store.reader import Store
from panscope.store.shared import reading
from panscope.store.shuffle import Batch, Bucket

BATCH_TOKENS, SEED = 10, 3


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def digest(batch: Batch) -> str:
    tensors = (*batch.values.values(), batch.tokens.ids, batch.tokens.documents)
    data = (tensor.view(torch.uint8).numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(b"".join(data)).hexdigest()


def main(memory: str, folder: str, budget: str, count: str, stall: str = "0") -> None:
    window.MEMORY = Path(memory)
    reads = itertools.count(1)
    shard = Store.shard

    def counted(store: Store, *args: Any) -> Bucket:
        if next(reads) == int(stall):
            say("filling")
            time.sleep(3600)
        return shard(store, *args)

    Store.shard = counted  # type: ignore[method-assign]
    store = Store.open(Path(folder))
    with reading(store, store.sites, SEED, int(budget)) as reader:
        say("joined")
        sys.stdin.readline()
        batches = store.batches(store.sites, BATCH_TOKENS, SEED, read=reader.shard)
        digests = [digest(batch) for batch in itertools.islice(batches, int(count))]
    say(json.dumps({"digests": digests, "reads": next(reads) - 1}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
