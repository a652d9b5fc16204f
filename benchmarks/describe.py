"""Time what `describe` does beside encoding: the log, the counting, the companions, the examples.

    python benchmarks/describe.py [--size pocket|gemma] [--tokens N]

A Sae of random directions over random activations, its threshold such that about L0 latents fire a
token: what fires costs the same whatever it means. Encoding is `Sae.pairs`, by the same kernels as
in the stage. Work on the weights alone does not grow with the text, and the examples' hardly does.
Seconds are those of the processor, so that other work beside it counts little. The last line is
JSON.
"""

import argparse
import json
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from tables import machine
from torch.nn.functional import normalize

from panscope.kernels.pairs import Pairs
from panscope.model.text import Rows
from panscope.sae.sae import Sae
from panscope.sites import Site
from panscope.stages.describe import bands, directions, examples
from panscope.stages.describe.companions import companions
from panscope.stages.describe.fired import Fired
from panscope.stages.describe.log import Log
from panscope.stages.describe.tally import Tally
from panscope.stages.describe.tokens import Text

CONTEXT, PASS_ROWS, PIECE_PASSES = 128, 32, 4
BESIDE = ("log", "sort", "tally", "companions", "examples")


class Size(NamedTuple):
    d: int
    width: int
    l0: int
    tokens: int
    vocab: int


SIZES = {
    "pocket": Size(256, 2_048, 20, 131_072, 4_096),
    "gemma": Size(2_304, 16_384, 60, 16_384, 4_096),
}


@dataclass
class Clock:
    """Seconds of the processor, all threads together, by what they were spent on."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.seconds[what] += time.process_time() - started


def random_sae(size: Size) -> Sae:
    """Directions at random, and one threshold that about L0 latents pass."""
    rows = normalize(torch.randn(size.width, size.d), dim=1)
    z = torch.randn(512, size.d) @ rows.T
    threshold = z.flatten()[: 1 << 20].quantile(1 - size.l0 / size.width)
    site = (Site("resid_post", 0),)
    per_latent = torch.zeros(size.width)
    return Sae(rows.T, per_latent, rows, torch.zeros(size.d), per_latent + threshold, site, site)


def rows_of(first: int) -> Rows:
    """A pass of packed rows, four of each document, position 0 masked."""
    numbers = torch.arange(first, first + PASS_ROWS)[:, None].expand(PASS_ROWS, CONTEXT)
    mask = torch.ones(PASS_ROWS, CONTEXT, dtype=torch.bool)
    mask[:, 0] = False
    kinds = tuple(("code", "news", "prose")[n % 3] for n in range(first, first + PASS_ROWS))
    return Rows(torch.zeros_like(numbers), numbers // 4, mask, kinds)


def measure(size: Size, folder: Path) -> tuple[dict[str, float], float, int]:
    """Describe one Sae; return seconds by what, firings a token, and tokens."""
    torch.manual_seed(0)
    sae, clock, log = random_sae(size), Clock(), Log.of(folder, "benchmark")
    sae.pairs(torch.randn(256, size.d))  # the first call looks for the fastest screen
    n_pieces = max(1, size.tokens // (CONTEXT * PASS_ROWS * PIECE_PASSES))
    for piece in range(n_pieces):
        first = piece * PIECE_PASSES * PASS_ROWS
        passes = [rows_of(first + n * PASS_ROWS) for n in range(PIECE_PASSES)]
        fired: list[Pairs] = []
        for rows in passes:
            x = torch.randn(int(rows.mask.sum()), size.d)
            with clock("encode"):
                fired.append(sae.pairs(x))
        with clock("log"):
            log.write(piece, first, passes, {"a/b": fired})
    with clock("log"):
        log.end(n_pieces)
        text = Text.of([(seal.first_row, rows) for seal, rows in log.pieces()])
        codes = log.codes("a/b", size.width)
    tally = Tally.zero(size.width, float(sae.threshold[0]), 10, len(text.kinds), 0)
    with clock("sort"):
        everything = Fired.of(codes)
    with clock("tally"):
        for firings, tokens in zip(everything.by_latent, text.tokens, strict=True):
            tally.add_(firings, tokens)
    with clock("companions"):
        companions(everything, tally, 10)
    with clock("examples"):
        joined = bands.joined(tally)
        chosen = bands.chosen(tally, joined, text.documents, CONTEXT)
        examples.columns(chosen, everything, text)
    with clock("weights"):
        directions.effects(sae.w_dec, torch.randn(size.d, size.vocab), 10)
        directions.near(sae.w_dec, 10)
        directions.near(sae.w_enc.T, 10)
    n_firings = int(tally.histogram.counts.sum())
    return dict(clock.seconds), n_firings / tally.n_tokens, tally.n_tokens


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="pocket")
    parser.add_argument("--tokens", type=int)
    asked = parser.parse_args()
    size = SIZES[asked.size]
    size = size._replace(tokens=asked.tokens or size.tokens)
    with tempfile.TemporaryDirectory() as folder:
        seconds, l0, n_tokens = measure(size, Path(folder))
    print(machine())
    for what, spent in seconds.items():
        share = spent / seconds["encode"]
        print(f"{what:>12}  {spent:7.2f} s  {spent / n_tokens * 1e6:8.2f} us/token  {share:6.1%}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    beside = sum(seconds[what] for what in BESIDE) / seconds["encode"]
    facts = {"l0": l0, "tokens": n_tokens, "peak_bytes": peak, "beside": beside}
    print(f"{'beside':>12}  {beside:.1%} of encoding: {', '.join(BESIDE)}")
    print(json.dumps({**facts, **seconds}))


if __name__ == "__main__":
    main()
