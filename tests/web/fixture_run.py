"""A small run folder with plausible text, and a live model made of the same numbers."""

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path

import numpy as np
from tests.atlas.one_by_one import write_features

from panscope.atlas.features import write_contexts, write_pieces
from panscope.atlas.labels import Label, Score
from panscope.atlas.notes import Notes
from panscope.atlas.records import Band, Context, Elsewhere, Example, Feature, SaeRecord
from panscope.edits import Edit
from panscope.errors import ConfigError
from panscope.files import seal
from panscope.web.readings import (
    Activations,
    Microscope,
    Near,
    SaeReading,
    Seen,
    TokensBeside,
    WrittenToken,
)

HOSTILE = "<script>alert(1)</script>"
TEXTS = {
    "fiction": (
        "The old woman set the lamp on the sill and listened to the rain.",
        "He walked down to the river in March, when the ice had begun to break.",
        "“You never told me,” she said, and the door closed behind her.",
        "Nothing in the house was blue except the kettle, and the kettle was very blue.",
        "By Tuesday the snow had covered the road, the gate and half of the garden wall.",
        "The dog slept under the table; the cat watched the dog; the clock watched them both.",
    ),
    "news": (
        "The committee met on Monday, 14 September, and adjourned after three hours.",
        "Prices rose by 2.4 percent in April, the third increase since January.",
        "The minister said that the bridge would open in October, at a cost of 90 million.",
        "Two rivers flooded on Friday night; no one was hurt, officials told reporters.",
        "Scientists found water under the ice of a small moon of Saturn.",
    ),
    "code": (
        "def area(width, height):\n    return width * height\n",
        "for name in names:\n    if name not in seen:\n        seen.add(name)\n",
        "while queue:\n    node = queue.pop()\n    visit(node)\n    return None\n",
        f"page = 1\n{HOSTILE}\n",
    ),
    "French": (
        "Le chat dort sous la table et la pluie tombe sur le jardin.",
        "Elle a dit que le train partait à midi, mais il était déjà deux heures.",
        "Les rues de la ville étaient bleues de neige en janvier.",
    ),
}
THEMES = (
    "January March April September October janvier",
    "Monday Tuesday Friday",
    "said told listened watched dit",
    "river rivers rain snow ice water pluie neige",
    "dog cat chat",
    "blue bleues",
    "the The la Le le Les",
    ". ;",
    ",",
    "def for while return if in not",
    "( ) : *",
    "lamp table kettle clock door gate wall garden jardin",
    "14 2 4 90 three third Two deux half",
    "name names seen node queue width height",
    "he He she her one them Elle il",
    "committee minister officials reporters Scientists",
    "and et but mais",
    "\n",
    "“ ” ”,",
    "on in under to by By sur sous",
)
N_PIECES_SHOWN, BINS, CONTEXT, SCALE, N_HEADS = 8, 24, 64, 500, 12
SCORES = (Score("detection", 0.91, 0.52, 40, 1), Score("fuzzing", 0.84, 0.5, 40))
LOGIT_EDGES = np.linspace(-6, 6, 25)
SITES = ("attn_z.0", "mlp_out.1", "resid_post.1")


def tokenise(text: str) -> list[str]:
    """Split into words with the blank before them, signs, and line breaks."""
    return re.findall(rf"{re.escape(HOSTILE)}| ?\w+|\n| ?[^\w\s]+| +", text)


PIECES = [
    "<bos>",
    *sorted({p for texts in TEXTS.values() for t in texts for p in tokenise(" " + t)}),
]
IDS = {piece: number for number, piece in enumerate(PIECES)}


class World:
    """Which token makes which latent of a Sae fire, and how strongly: `strength[latent, token]`."""

    def __init__(self, sae: str, width: int, beside: Sequence[str] = ()) -> None:
        self.sae, self.width, self.beside = sae, width, beside
        self.random = np.random.default_rng(sum(map(ord, sae)))
        self.gain = self.random.uniform(4, 30, width)
        self.place = np.random.default_rng(width).normal(0, 1, (width, 2))

    @cached_property
    def strength(self) -> np.ndarray:
        table = np.zeros((self.width, len(PIECES)))
        for latent in range(self.width):
            table[latent, self._responds_to(latent)] = self.gain[latent]
            weak = self.random.choice(len(PIECES), 6)
            table[latent, weak] = np.maximum(table[latent, weak], self.gain[latent] / 5)
        table *= self.random.uniform(0.6, 1, table.shape)
        table[[5, self.width - 1]] = 0  # dead
        table[:, 0] = 0
        return table

    def _responds_to(self, latent: int) -> list[int]:
        if latent < len(THEMES):
            words = THEMES[latent].split() if THEMES[latent].strip() else [THEMES[latent]]
            return [i for i, piece in enumerate(PIECES) if (piece.strip(" ") or piece) in words]
        return self.random.choice(len(PIECES), 1 + latent % 5).tolist()

    def activations(self, tokens: np.ndarray) -> np.ndarray:
        """(latents position) values: the token's strength, rising and falling along the row."""
        wave = 0.85 + 0.15 * np.cos(np.arange(len(tokens)) * 1.7 + np.arange(self.width)[:, None])
        return self.strength[:, tokens] * wave


def contexts() -> list[Context]:
    """Rows of sentences of one kind."""
    random = np.random.default_rng(0)
    return [_context(number, list(TEXTS)[number % 4], random) for number in range(40)]


def _context(number: int, kind: str, random: np.random.Generator) -> Context:
    tokens, documents = [0], [number]
    while len(tokens) < CONTEXT:
        text = TEXTS[kind][random.integers(len(TEXTS[kind]))]
        new = [IDS[p] for p in tokenise(" " + text if kind != "code" else text) if p in IDS]
        tokens += new
        documents += [number] * len(new)
    return Context(number, tuple(tokens[:CONTEXT]), tuple(documents[:CONTEXT]), kind)


def feature(world: World, latent: int, values: np.ndarray, rows: Sequence[Context]) -> Feature:
    """One latent's record over all contexts; `values` is (contexts position)."""
    fired = values[values > 0]
    top = float(fired.max(initial=0))
    bands = _bands(fired, top) if fired.size else ()
    edges = np.geomspace(0.1, 50, BINS + 1)
    effect = (
        world.random.normal(0, 1, len(PIECES)) + world.strength[latent] / world.gain[latent] * 4
    )
    order = np.argsort(-effect)
    near, encoder, with_it = (_others(world, latent) for _ in range(3))
    return Feature(
        index=latent,
        count=fired.size * SCALE // (1 + 40 * (latent % 7 == 3)),
        density=fired.size / values.size / (1 + 2_000 * (latent % 7 == 3)),
        max=top,
        mean=float(fired.mean()) if fired.size else 0.0,
        histogram=tuple((np.histogram(np.clip(fired, 0.1, 50), edges)[0] * SCALE).tolist()),
        top_tokens=tuple(order[:N_PIECES_SHOWN].tolist()),
        top_logits=tuple(effect[order[:N_PIECES_SHOWN]].tolist()),
        bottom_tokens=tuple(order[::-1][:N_PIECES_SHOWN].tolist()),
        bottom_logits=tuple(effect[order[::-1][:N_PIECES_SHOWN]].tolist()),
        neighbours=tuple(near),
        neighbour_cosines=_falling(world, near),
        bands=bands,
        examples=tuple(_examples(values, bands)),
        std=float(fired.std()) if fired.size else 0.0,
        companions=with_it,
        companion_jaccards=_falling(world, with_it),
        companion_correlations=_falling(world, with_it),
        encoder_neighbours=encoder,
        encoder_neighbour_cosines=_falling(world, encoder),
        elsewhere=tuple(_elsewhere(world, near)),
        kind_counts=tuple(_kind_counts(values, rows).tolist()),
        logit_histogram=tuple(np.histogram(np.clip(effect, -6, 6), LOGIT_EDGES)[0].tolist()),
        x=float(world.place[latent, 0]),
        y=float(world.place[latent, 1]),
        head_shares=_head_shares(world, latent),
    )


def _head_shares(world: World, latent: int) -> tuple[float, ...]:
    """Of features of heads alone; the last feature's direction is zero."""
    if not world.sae.startswith("attn_z"):
        return ()
    drawn = np.random.default_rng(latent).gamma(1, 1, N_HEADS) * (latent < world.width - 1)
    return tuple((drawn / max(drawn.sum(), 1e-9)).tolist())


def _others(world: World, latent: int) -> tuple[int, ...]:
    drawn = world.random.choice(world.width, 4, replace=False).tolist()
    return tuple(n for n in drawn if n != latent)


def _falling(world: World, near: Sequence[int]) -> tuple[float, ...]:
    return tuple(np.sort(world.random.uniform(0.1, 0.8, len(near)))[::-1].tolist())


def _elsewhere(world: World, near: Sequence[int]) -> Iterator[Elsewhere]:
    """Features of the other Saes at sites of the stream; the fixture's own names are known."""
    others = [name for name in world.beside if name != world.sae]
    for number, index in enumerate(near[: len(others)]):
        yield Elsewhere(others[number], index, 0.9 - 0.2 * number)


def _kind_counts(values: np.ndarray, rows: Sequence[Context]) -> np.ndarray:
    fired = (values > 0).sum(axis=1) * SCALE
    of_kind = np.array([list(TEXTS).index(row.kind) for row in rows])
    return np.bincount(of_kind, fired, minlength=len(TEXTS)).astype(int)


def _bands(fired: np.ndarray, top: float) -> tuple[Band, ...]:
    edges = [top * share for share in (1.001, 0.75, 0.5, 0.25, 0)]
    shares = [
        float(((fired >= low) & (fired < high)).mean()) for high, low in itertools.pairwise(edges)
    ]
    return tuple(
        Band(low, high, s) for (high, low), s in zip(itertools.pairwise(edges), shares, strict=True)
    )


def _examples(values: np.ndarray, bands: Sequence[Band]) -> list[Example]:
    strongest = np.argsort(-values.max(axis=1), kind="stable")[:8].tolist()
    found = [_example(-1, n, values[n], int(values[n].argmax())) for n in strongest]
    for number, band in enumerate(bands):
        inside = np.argwhere((values > 0) & (values >= band.low) & (values < band.high))
        for context, peak in inside[:: max(1, len(inside) // 4)][:4].tolist():
            found.append(_example(number, context, values[context], peak))
    return [example for example in found if example.values]


def _example(band: int, context: int, values: np.ndarray, peak: int) -> Example:
    fired = np.flatnonzero(values)
    return Example(band, context, peak, tuple(fired.tolist()), tuple(values[fired].tolist()))


def build(
    run: Path, sites: Sequence[str] = SITES, l0s: Sequence[int] = (30,), width: int = 64
) -> Path:
    """Write a run folder with `suite/` (metrics, no weights) and `atlas/`."""
    names = [f"{site}/w{width}_l0_{l0}_s0" for site in sites for l0 in l0s]
    build_suite(run, names, width)
    build_atlas(run, names, width)
    return run


def build_notes(run: Path, names: Sequence[str]) -> None:
    """Labels of the first features of each Sae: a machine's with scores, one a person's over it."""
    with closing(Notes.open(run / "notes.sqlite")) as notes:
        for name in names:
            for latent, theme in enumerate(THEMES[:8]):
                words = f"words such as {theme.split()[0]}"
                notes.add(Label(name, latent, words, "rules", "rules", scores=SCORES))
        notes.add(Label(names[-1], 0, "months, in English and French", "Ada"))


def build_atlas(run: Path, names: Sequence[str], width: int) -> None:
    rows = contexts()
    records = []
    for name in names:
        world = World(name, width, names)
        values = np.stack([world.activations(np.array(row.tokens)) for row in rows], axis=1)
        features = [feature(world, n, values[n], rows) for n in range(width)]
        write_features(run / "atlas", name, features)
        records.append(_record(name, width, features))
    write_contexts(run / "atlas", rows)
    write_pieces(run / "atlas", PIECES)
    model = {"name": "pocket", "dtype": "float32", "device": "cpu"}
    kinds = [
        {"kind": kind, "n_tokens": sum(row.kind == kind for row in rows) * CONTEXT * SCALE}
        for kind in TEXTS
    ]
    seal(run / "atlas", "atlas", {}, {}, {"saes": records, "model": model, "kinds": kinds})


def _record(name: str, width: int, features: Sequence[Feature]) -> dict[str, object]:
    alive = sum(feature.count > 0 for feature in features)
    edges = tuple(np.geomspace(0.1, 50, BINS + 1).tolist())
    record = SaeRecord(
        name, name.split("/")[0], width, 1_280_000, alive, edges, tuple(LOGIT_EDGES.tolist())
    )
    return {field: getattr(record, field) for field in SaeRecord.__slots__}


def build_suite(run: Path, names: Sequence[str], width: int, with_metrics: bool = True) -> None:
    facts = [_facts(name, width, with_metrics) for name in names]
    (run / "suite").mkdir(parents=True, exist_ok=True)
    seal(run / "suite", "suite", {}, {}, {"saes": facts, "evaluation": {"clean_loss": 3.213}})


def _facts(name: str, width: int, with_metrics: bool) -> dict[str, object]:
    site, own = name.split("/")
    target = int(own.split("_")[2])
    facts = {"sae": name, "site": site, "width": width, "target_l0": target, "seed": 0}
    facts |= {"steps": 3000, "trained_tokens": 3_072_000}
    return facts | ({"metrics": _metrics(site, target)} if with_metrics else {})


def _metrics(site: str, target: int) -> dict[str, object]:
    kind, layer = site.split(".")
    hard = {"attn_z": 0.6, "mlp_out": 1.1, "resid_post": 0.8}.get(kind, 1) * (1 + 0.25 * int(layer))
    fvu = 0.9 * hard / target**0.5
    positions = np.arange(1, 128)
    early = 1 + 1.5 * np.exp(-positions / 6)
    return {
        "l0": target * 1.043,
        "l0_se": 0.21,
        "fvu": fvu,
        "fvu_se": fvu * 0.02,
        "delta_loss": fvu * 0.31,
        "delta_loss_se": fvu * 0.012,
        "loss_recovered_zero": 1 - fvu / 4,
        "loss_recovered_mean": 1 - fvu / 3,
        "kl": fvu * 0.29,
        "kl_se": fvu * 0.01,
        "dead_share": 0.03125,
        "n_tokens": 262_144,
        "density_histogram": [1, 4, 20, 30, 7],
        "density_bins": [-5.0, -4.0, -3.0, -2.0, -1.0, 0.0],
        "position_l0": [None, *(target * early).tolist()],
        "position_fvu": [None, *(fvu / early).tolist()],
    }


def _written(token: int) -> WrittenToken:
    likeliest = tuple((PIECES[(token + n) % len(PIECES)], 0.5 / 2**n) for n in range(5))
    return WrittenToken(token, PIECES[token], 0.5, likeliest)


class FakeLive:
    """Answers as `panscope.web.live.Live` does, without a model."""

    def __init__(self, names: Sequence[str], width: int = 64) -> None:
        self.worlds = {name: World(name, width) for name in names}

    def activations(self, text: str, sae: str, index: int) -> Activations:
        ids, note = self._read(text)
        values = self.worlds[sae].activations(np.array([0, *ids]))[index, 1:]
        pieces = tuple(PIECES[i] for i in ids)
        return Activations(pieces, tuple(ids), tuple(values.tolist()), note)

    def microscope(
        self, text: str, k: int, max_density: float, saes: Sequence[str] = ()
    ) -> Microscope:
        ids, note = self._read(text)
        chosen = saes or list(self.worlds)
        readings = tuple(self._reading(name, np.array([0, *ids]), k) for name in chosen)
        return Microscope(tuple(PIECES[i] for i in ids), tuple(ids), readings, note)

    def direction(self, sae: str, index: int) -> tuple[float, ...]:
        return tuple(self.worlds[sae].strength[index].tolist())

    def nearest_to_feature(
        self, sae: str, index: int, saes: Sequence[str], limit: int
    ) -> tuple[Near, ...]:
        near = self._nearest(self.worlds[sae].strength[index], saes)
        return tuple(n for n in near if (n.sae, n.index) != (sae, index))[:limit]

    def nearest_to_difference(
        self, text: str, without: str, site: str, saes: Sequence[str], limit: int
    ) -> tuple[Near, ...]:
        counts = [np.bincount(self._read(t)[0], minlength=len(PIECES)) for t in (text, without)]
        return tuple(self._nearest(counts[0] - counts[1], saes)[:limit])

    def nearest_to_vector(
        self, vector: Sequence[float], site: str, saes: Sequence[str], limit: int
    ) -> tuple[Near, ...]:
        if len(vector) != len(PIECES):
            raise ConfigError("vector", f"has {len(vector)} numbers", f"give {len(PIECES)}")
        return tuple(self._nearest(np.array(vector), saes)[:limit])

    def _nearest(self, direction: np.ndarray, saes: Sequence[str]) -> list[Near]:
        near = []
        for name in saes:
            table = self.worlds[name].strength
            lengths = np.linalg.norm(table, axis=1) * np.linalg.norm(direction) + 1e-9
            cosines = (table @ direction / lengths).tolist()
            near += [Near(name, index, cosine) for index, cosine in enumerate(cosines)]
        return sorted(near, key=lambda n: -n.cosine)

    def beside(
        self, prompt: str, edits: Sequence[Edit], n_tokens: int, temperature: float, seed: int
    ) -> Iterator[TokensBeside]:
        """The same sentence twice; with edits its second half is told backwards."""
        words = [i for i in self._read("The dog slept under the table in January.")[0] if i]
        told = [*words[: len(words) // 2], *reversed(words[len(words) // 2 :])] if edits else words
        for normal, steered in itertools.islice(zip(words * 9, told * 9, strict=True), n_tokens):
            pair = (_written(normal), _written(steered))
            yield TokensBeside(*pair, float(normal != steered), (0.25,) * len(edits))

    def _reading(self, name: str, tokens: np.ndarray, k: int) -> SaeReading:
        values = self.worlds[name].activations(tokens)[:, 1:]
        order = np.argsort(-values, axis=0, kind="stable")[:k].T
        strongest = [[n for n in row if values[n, t] > 0] for t, row in enumerate(order.tolist())]
        listed = sorted({n for row in strongest for n in row})
        seen = tuple(_seen(self.worlds[name], values[n], n) for n in listed)
        rows = tuple(tuple(listed.index(n) for n in row) for row in strongest)
        return SaeReading(name, name.split("/")[0], seen, rows)

    def _read(self, text: str) -> tuple[list[int], str]:
        if not text.strip():
            raise ConfigError("text", "is empty", "write a word or more")
        known = [IDS[p] for p in tokenise(" " + text) if p in IDS]
        cut = known[: CONTEXT - 1]
        note = f"cut to the first {len(cut)} of {len(known)} tokens" if cut != known else ""
        return cut, note


def _seen(world: World, values: np.ndarray, index: int) -> Seen:
    fired = np.flatnonzero(values)
    label = [PIECES[token] for token in np.argsort(-world.strength[index])[:3]]
    positions, shown = tuple(fired.tolist()), tuple(values[fired].tolist())
    return Seen(index, 0.01, float(world.gain[index]), tuple(label), positions, shown)
