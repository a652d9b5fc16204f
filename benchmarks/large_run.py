"""A run folder as large as one likes, of numbers made up: for what serving it costs.

    python benchmarks/large_run.py FOLDER [--features 200000] [--saes 12]

Every feature has four bands and 24 examples in contexts of 128 tokens, as `describe` leaves them.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from panscope.atlas.columns import (
    BandColumns,
    Best,
    CompanionColumns,
    ElsewhereColumns,
    ExampleColumns,
    FeatureColumns,
    write_columns,
)
from panscope.atlas.features import Atlas, write_contexts, write_pieces
from panscope.atlas.records import Context
from panscope.files import seal

Numbers = NDArray[np.int64]
N_TOKENS, CONTEXT, BINS, N_LISTED, N_NEAR = 100_000_000, 128, 64, 10, 10
KINDS = [{"kind": "prose", "n_tokens": N_TOKENS // 2}, {"kind": "code", "n_tokens": N_TOKENS // 2}]
N_BANDS, N_EXAMPLES, N_STRONGEST, VOCAB = 4, 24, 8, 4_096
EDGES = np.geomspace(1e-2, 1e3, BINS + 1)


def make(run: Path, n_features: int, n_saes: int, n_contexts: int) -> list[str]:
    """Write an atlas of so many features and seal it; return the ids of its Saes."""
    random = np.random.default_rng(0)
    width = -(-n_features // n_saes)
    names = [f"resid_post.{layer}/w{width}_l0_50_s0" for layer in range(n_saes)]
    records = []
    for name in names:
        others = [other for other in names if other != name]
        columns = made_up(random, width, n_contexts, others)
        write_columns(run / "atlas", name, columns)
        records.append(record(name, width, int((columns.count > 0).sum())))
    write_contexts(run / "atlas", contexts(random, n_contexts))
    write_pieces(run / "atlas", [f" w{n}" for n in range(VOCAB)])
    seal(
        run / "atlas",
        "atlas",
        {},
        {},
        {"saes": records, "model": {"name": "made-up"}, "kinds": KINDS},
    )
    return names


def names_of(run: Path) -> list[str]:
    return list(Atlas(run / "atlas").saes)


def make_live(run: Path) -> list[str]:
    """Write a run of the pocket model with random Saes at all its 12 sites; return their ids."""
    import torch

    from panscope.model import load
    from panscope.sae.sae import Sae
    from panscope.sae.suite import write_sae
    from panscope.sites import match_sites

    model, width, random = load.load(load.Config()), 1_024, np.random.default_rng(0)
    sites = match_sites(("resid_post.*", "mlp_out.*", "attn_z.*"), model.n_layers)
    names, records = [f"{site}/w{width}_l0_50_s0" for site in sites], []
    for name, site in zip(names, sites, strict=True):
        w_dec = torch.nn.functional.normalize(torch.randn(width, model.d_at(site)))
        zeros = torch.zeros(width), torch.zeros(model.d_at(site))
        threshold = torch.full((width,), 2.0)
        sae = Sae(w_dec.T.clone(), zeros[0], w_dec, zeros[1], threshold, (site,), (site,))
        write_sae(run / "suite", name, sae)
        others = [other for other in names if other != name]
        write_columns(run / "atlas", name, made_up(random, width, 1_000, others))
        records.append(record(name, width, width))
    write_contexts(run / "atlas", contexts(random, 1_000))
    write_pieces(run / "atlas", model.pieces())
    seal(run / "suite", "suite", {}, {}, {"saes": [{"sae": n, "width": width} for n in names]})
    seal(
        run / "atlas",
        "atlas",
        {},
        {},
        {"saes": records, "model": {"name": "pocket"}, "kinds": KINDS},
    )
    return names


def record(name: str, width: int, n_alive: int) -> dict[str, object]:
    facts = {"sae": name, "site": name.partition("/")[0], "width": width, "n_tokens": N_TOKENS}
    return facts | {
        "n_alive": n_alive,
        "bin_edges": EDGES.tolist(),
        "logit_bin_edges": EDGES.tolist(),
    }


def made_up(
    random: np.random.Generator, width: int, n_contexts: int, others: list[str]
) -> FeatureColumns:
    density = 10 ** random.uniform(-6, -1, width) * (random.random(width) > 0.02)
    top = random.uniform(10, 500, width) * (density > 0)
    return FeatureColumns(
        count=(density * N_TOKENS).astype(np.int64),
        density=density,
        max=top,
        mean=top / 4,
        std=top / 5,
        histogram=random.integers(0, 10_000, (width, BINS)),
        kind_counts=random.integers(0, 10_000, (width, len(KINDS))),
        top=best(random, width, VOCAB, N_LISTED),
        bottom=best(random, width, VOCAB, N_LISTED),
        logit_histogram=random.integers(0, 1_000, (width, BINS)),
        near=best(random, width, width, N_NEAR),
        encoder_near=best(random, width, width, N_NEAR),
        elsewhere=elsewhere(random, width, others),
        companions=companions(random, width),
        bands=bands(top),
        examples=examples(random, top, n_contexts),
        x=random.normal(0, 1, width),
        y=random.normal(0, 1, width),
        head_shares=np.empty((width, 0)),
    )


def elsewhere(random: np.random.Generator, width: int, others: list[str]) -> ElsewhereColumns:
    of_sae = random.integers(0, len(others), (width, N_NEAR))
    return ElsewhereColumns(others, of_sae, best(random, width, width, N_NEAR))


def companions(random: np.random.Generator, width: int) -> CompanionColumns:
    near = best(random, width, width, N_NEAR)
    values = near.values.ravel()
    return CompanionColumns(np.full(width, N_NEAR), near.ids.ravel(), values, values)


def best(random: np.random.Generator, width: int, of: int, k: int) -> Best:
    values = -np.sort(-random.normal(0, 1, (width, k)))
    return Best(random.integers(0, of, (width, k)), values)


def bands(top: NDArray[np.float64]) -> BandColumns:
    edges = np.outer(top, np.linspace(1.01, 0, N_BANDS + 1))
    shares = np.full(edges[:, 1:].size, 1 / N_BANDS)
    counts = np.full(len(top), N_BANDS)
    return BandColumns(counts, edges[:, 1:].ravel(), edges[:, :-1].ravel(), shares)


def examples(
    random: np.random.Generator, top: NDArray[np.float64], n_contexts: int
) -> ExampleColumns:
    """24 of each feature: the strongest eight, then four of each band; five firings in each."""
    n = len(top) * N_EXAMPLES
    band = np.tile([-1] * N_STRONGEST + [b for b in range(N_BANDS) for _ in range(4)], len(top))
    starts = random.integers(1, CONTEXT - 5, n)
    positions = (starts[:, None] + np.arange(5)).ravel()
    values = random.random((n, 5)) * np.repeat(top, N_EXAMPLES)[:, None]
    return ExampleColumns(
        counts=np.full(len(top), N_EXAMPLES),
        band=band,
        context=random.integers(0, n_contexts, n),
        peak=starts + 2,
        lengths=np.full(n, 5),
        positions=positions,
        values=values.ravel(),
    )


def contexts(random: np.random.Generator, n_contexts: int) -> Iterator[Context]:
    for number in range(n_contexts):
        tokens = (0, *random.integers(1, VOCAB, CONTEXT - 1).tolist())
        yield Context(number, tokens, (number,) * CONTEXT, ("fiction", "code", "news")[number % 3])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--features", type=int, default=200_000)
    parser.add_argument("--saes", type=int, default=12)
    parser.add_argument("--contexts", type=int, default=50_000)
    asked = parser.parse_args()
    make(asked.folder, asked.features, asked.saes, asked.contexts)
