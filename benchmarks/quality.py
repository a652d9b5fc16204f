"""Quality at equal tokens: known features, real activations, and short runs.

    python benchmarks/quality.py worlds [--seeds 0 1 2]     recovery of known features
    python benchmarks/quality.py sites [--seeds 0 1 2]      held-out FVU over L0, pocket model
    python benchmarks/quality.py short [--seeds 0 1 2]      learning rates over run lengths
    python benchmarks/quality.py table                      into benchmarks/README.md

Each fit appends a row to benchmarks/quality.jsonl; what has a row is not run again, so a part may
be stopped and started. Take ours out when the trainer's rules have changed. The peers run where
they are installed (`make peers`).
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from itertools import count, product
from pathlib import Path

import fits
import torch
import worlds
from fits import Problem
from harvested import SITES as POCKET_SITES
from harvested import batches_from, held_out
from peers import missing
from torch import Tensor

from panscope.kernels import reference
from panscope.sae.sae import Sae
from panscope.sites import Site

ROWS = Path(__file__).with_name("quality.jsonl")
BATCH_TOKENS = 1024
SITE_WIDTH = 1024
SITE_TOKENS = 1_000_000
WORLD_TOKENS = {"superposed": 2_000_000, "independent": 4_000_000, "related": 4_000_000}
WORLD_SEED = 42
SCORED_TOKENS = 50_000
TARGETS = (8.0, 16.0, 32.0, 64.0)
SHORT_STEPS = (250, 500, 1000, 2000)
SHORT_RATES = (1e-3, 2e-3, 4e-3, 6e-3, 1e-2, 2e-2)
LIBRARIES = {
    "panscope": "panscope",
    "SAELens": "sae_lens",
    "dictionary_learning": "dictionary_learning",
}

Found = dict[str, float]
Question = tuple[dict[str, object], Callable[[], Found]]
"""What identifies a result, and how it is found."""


def world_questions(seeds: list[int], trainers: list[str]) -> Iterator[Question]:
    """Fit every world with every trainer; score against the true dictionary."""
    ours = partial(fits.panscope, schedule=fits.PAPERS)
    for seed, name in product(seeds, worlds.WORLDS):
        fit_of = {
            "panscope, true L0": partial(ours, target_l0=_true_l0(name)),
            "panscope, price 1": partial(ours, price=1.0),
            "panscope, price 2": partial(ours, price=2.0),
            "SAELens, price 1": partial(fits.saelens, price=1.0),
            "SAELens, price 2": partial(fits.saelens, price=2.0),
        }
        for trainer in _runnable(fit_of, trainers):
            asked = {"part": "worlds", "world": name, "trainer": trainer, "seed": seed}
            yield asked, partial(_recovery, name, seed, fit_of[trainer])


def _recovery(name: str, seed: int, fit: Callable[[Problem], Sae]) -> Found:
    world, scored = _world(name)
    width, d = world.directions.shape
    stream = partial(_world_batches, world, seed)
    sae = fit(Problem(stream, d, width, WORLD_TOKENS[name], BATCH_TOKENS, seed))
    f, x_hat = encoded(sae, scored.x)
    return worlds.score(scored, f, x_hat, sae.w_dec, world.directions)._asdict()


@cache
def _world(name: str) -> tuple[worlds.World, worlds.Sample]:
    world = worlds.WORLDS[name](WORLD_SEED)
    return world, world.sample(SCORED_TOKENS, torch.Generator().manual_seed(WORLD_SEED))


def _true_l0(name: str) -> float:
    _, scored = _world(name)
    return float((scored.strengths > 0).sum(1).float().mean())


def _world_batches(world: worlds.World, seed: int, first: int) -> Iterator[Tensor]:
    for number in count(first):
        generator = torch.Generator().manual_seed((seed + 1) * 10**6 + number)
        yield world.sample(BATCH_TOKENS, generator).x


def site_questions(seeds: list[int], trainers: list[str]) -> Iterator[Question]:
    """Fit the pocket model's sites at several L0 with every trainer; score held-out tokens."""
    for seed, target, site in product(seeds, TARGETS, POCKET_SITES):
        fit_of = {
            "panscope": partial(fits.panscope, target_l0=target),
            "SAELens": partial(fits.saelens, price=8 / target, target_l0=target, lr=6e-3),
            "dictionary_learning": partial(fits.dictionary_learning_jumprelu, target_l0=target),
        }
        for trainer in _runnable(fit_of, trainers):
            asked = {"part": "sites", "site": str(site), "trainer": trainer, "target": target}
            asked |= {"seed": seed, "tokens": SITE_TOKENS, "width": SITE_WIDTH}
            yield asked, partial(_fidelity, site, seed, SITE_TOKENS, fit_of[trainer])


def short_questions(seeds: list[int], trainers: list[str]) -> Iterator[Question]:
    """Fit one site without momentum at several rates in several numbers of steps."""
    (site, *_), target = POCKET_SITES, 32.0
    for seed, steps, rate in product(seeds, SHORT_STEPS, (None, *SHORT_RATES)):
        rates = () if rate is None else (rate,)
        fit = partial(fits.panscope, target_l0=target, rates=rates, schedule=fits.PAPERS)
        asked = {"part": "short", "steps": steps, "rate": rate, "seed": seed}
        yield asked, partial(_fidelity, site, seed, steps * BATCH_TOKENS, fit)


def _fidelity(site: Site, seed: int, tokens: int, fit: Callable[[Problem], Sae]) -> Found:
    """Return FVU, L0 and dead share on held-out tokens."""
    x, stream = held_out(site), batches_from(site, BATCH_TOKENS, seed)
    sae = fit(Problem(stream, x.shape[1], SITE_WIDTH, tokens, BATCH_TOKENS, seed))
    f, x_hat = encoded(sae, x)
    return {
        "fvu": float((x_hat - x).square().sum() / (x - x.mean(0)).square().sum()),
        "l0": float((f != 0).sum(1).float().mean()),
        "dead": float((~(f != 0).any(0)).float().mean()),
    }


@torch.no_grad()
def encoded(sae: Sae, x: Tensor) -> tuple[Tensor, Tensor]:
    """Encode and decode by the definition, whatever trained the Sae."""
    f = reference.encode(x, sae.w_enc, sae.b_enc, sae.threshold)
    return f, reference.decode(f, sae.w_dec, sae.b_dec)


def _runnable(fit_of: Mapping[str, object], trainers: list[str]) -> list[str]:
    """Keep the trainers that are wanted and installed here."""
    library = {name: name.split(",")[0] for name in fit_of}
    wanted = [name for name in fit_of if not trainers or library[name] in trainers]
    return [name for name in wanted if not missing(LIBRARIES[library[name]])]


def read(path: Path) -> list[dict[str, dict[str, object]]]:
    """Return the rows of a file, none if there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def answer(questions: Iterator[Question], path: Path) -> None:
    """Append a row for each question that has none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for asked, find in questions:
        if any(row["asked"] == asked for row in read(path)):
            continue
        began = time.monotonic()
        row = {"asked": asked, "found": find(), "seconds": round(time.monotonic() - began, 1)}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


PARTS = {"worlds": world_questions, "sites": site_questions, "short": short_questions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=(*PARTS, "table"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trainers", nargs="+", default=[], choices=tuple(LIBRARIES))
    parser.add_argument("--rows", type=Path, default=ROWS)
    asked = parser.parse_args()
    if asked.part == "table":
        import quality_tables

        quality_tables.write(read(asked.rows))
    else:
        answer(PARTS[asked.part](asked.seeds, asked.trainers), asked.rows)


if __name__ == "__main__":
    main()
