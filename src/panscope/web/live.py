"""Live tests: a text through the model, Saes on its activations. The only door to torch in `web`.

The model and each Sae are loaded on first use and kept, Saes up to 4 GiB of them: those unused
longest are let go. One lock lets one text through at a time: hooks sit on the shared module, so two
passes at once would read each other's activations.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock

import torch
from jaxtyping import Float
from torch import Tensor

from panscope import splice
from panscope.atlas.queries import Catalogue
from panscope.atlas.short import Columns
from panscope.edits import Edit, in_raw_units
from panscope.errors import ConfigError
from panscope.kept import Kept
from panscope.model import tap
from panscope.model.generate import Sampling
from panscope.sae.sae import WEIGHTS, Sae
from panscope.sites import VECTOR_KINDS, Site
from panscope.stages.describe.directions import space
from panscope.web.readings import (
    Activations,
    Microscope,
    Near,
    SaeReading,
    Seen,
    TokensBeside,
    WrittenToken,
)

N_LABEL_TOKENS = 4
SAES_BYTES = 4 << 30
Sites = tuple[Site, ...]

LatentsOfTokens = Float[Tensor, "tokens latents"]


class Live:
    """Runs the model that the atlas names on what people type; implements `ReadsText`."""

    def __init__(self, suite: Path, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        opened = splice.joined(catalogue.atlas, suite)
        self._model, self._suite = opened.model, opened.suite
        self._saes = Kept[Sae](SAES_BYTES, _bytes_of)
        self._reads: dict[str, Sites] = {}
        self._lock = Lock()

    def activations(self, text: str, sae: str, index: int) -> Activations:
        """One feature's value on every token."""
        ids, note = self._encode(text)
        with self._lock:
            ((_, latents),) = self._latents(ids, [sae])
        values = latents[:, index].tolist()
        return Activations(self._pieces(ids), tuple(ids[1:]), tuple(values), note)

    def microscope(
        self, text: str, k: int, max_density: float, saes: Sequence[str] = ()
    ) -> Microscope:
        """The `k` strongest features of each token in each of `saes`, denser ones left out."""
        ids, note = self._encode(text)
        chosen = saes or self._suite.names
        with self._lock:
            readings = tuple(
                self._reading(sae, latents, k, max_density)
                for sae, latents in self._latents(ids, chosen)
            )
        return Microscope(self._pieces(ids), tuple(ids[1:]), readings, note)

    def direction(self, sae: str, index: int) -> tuple[float, ...]:
        """The decoder's direction of a feature."""
        with self._lock:
            return tuple(self._sae(sae).w_dec[index].tolist())

    def nearest_to_feature(
        self, sae: str, index: int, saes: Sequence[str], limit: int
    ) -> tuple[Near, ...]:
        """The features of `saes` that write nearest to what one writes, itself left out."""
        with self._lock:
            own = self._sae(sae)
            near = self._nearest(own.w_dec[index], own.writes, saes, limit + 1)
        return tuple(n for n in near if (n.sae, n.index) != (sae, index))[:limit]

    def nearest_to_difference(
        self, text: str, without: str, site: str, saes: Sequence[str], limit: int
    ) -> tuple[Near, ...]:
        """The features of `saes` that write nearest to how a site differs between two texts.

        Values are averaged over the tokens of each, the BOS left out.
        """
        where = self._site(site)
        with self._lock, torch.inference_mode():
            means = [self._mean(self._encode(t)[0], where) for t in (text, without)]
            return tuple(self._nearest(means[0] - means[1], (where,), saes, limit))

    def nearest_to_vector(
        self, vector: Sequence[float], site: str, saes: Sequence[str], limit: int
    ) -> tuple[Near, ...]:
        """The features of `saes` that write nearest to a direction at a site."""
        where, direction = self._site(site), torch.tensor(vector)
        if len(vector) != (d_site := self._model.d_at(where)):
            do = f"give the {d_site} that {site} has"
            raise ConfigError("vector", f"has {len(vector)} numbers", do)
        if not direction.any():
            raise ConfigError("vector", "points nowhere: all its numbers are 0", "give another")
        with self._lock:
            return tuple(self._nearest(direction, (where,), saes, limit))

    def _site(self, name: str) -> Site:
        """Find the one site that is named, if it has a vector for each token."""
        (where, *more) = self._model.sites([name])
        if more:
            raise ConfigError(f"site {name}", "means several sites", f"name one, such as {where}")
        if where.kind not in VECTOR_KINDS:
            do = "name a site with one vector for each token"
            raise ConfigError(f"site {name}", "has no direction to compare", do)
        return where

    def _mean(self, ids: list[int], site: Site) -> Float[Tensor, " d_site"]:
        row = torch.tensor([ids], device=self._model.device)
        return tap.run(self._model, row, read={site}).values[site][0, 1:].float().mean(0).cpu()

    def _nearest(
        self, direction: Float[Tensor, " d"], writes: Sites, saes: Sequence[str], limit: int
    ) -> list[Near]:
        """Compare with the decoders that write to the same space, one Sae at a time."""
        found: list[Near] = []
        for name in saes:
            sae = self._sae(name)
            if space(sae.writes) != space(writes) or sae.w_dec.shape[1] != len(direction):
                continue
            cosines = torch.cosine_similarity(sae.w_dec, direction[None])
            best, indices = cosines.topk(min(limit, sae.width))
            pairs = zip(indices.tolist(), best.tolist(), strict=True)
            found += [Near(name, index, cosine) for index, cosine in pairs]
        return sorted(found, key=lambda near: -near.cosine)[:limit]

    def beside(
        self, prompt: str, edits: Sequence[Edit], n_tokens: int, temperature: float, seed: int
    ) -> Iterator[TokensBeside]:
        """Up to `n_tokens` tokens behind a prompt, without and with edits."""
        raw = in_raw_units(edits, lambda sae, i: float(self._catalogue.columns(sae).max[i]))
        saes = {sae: self._sae(sae) for edit in raw for sae, _ in edit.features}
        ids = self._model.encode(prompt)
        sampling = Sampling(temperature, seed) if temperature else None
        with self._lock:
            ready = splice.steering(self._model, saes, raw)
        written = splice.beside(ready, ids, n_tokens, sampling, ends=self._model.special_ids)
        return self._told(written)

    def _told(self, written: Iterator[splice.Beside]) -> Iterator[TokensBeside]:
        """Say in pieces what is written, one pair of tokens at a time."""
        while True:
            with self._lock:
                both = next(written, None)
            if both is None:
                return
            normal, steered = self._written(both.normal), self._written(both.steered)
            yield TokensBeside(normal, steered, both.kl_nats, both.shares)

    def _written(self, token: splice.Written | None) -> WrittenToken | None:
        pieces = self._catalogue.atlas.pieces
        if token is None:
            return None
        likeliest = tuple((pieces[guess.token], guess.probability) for guess in token.likeliest)
        return WrittenToken(token.token, pieces[token.token], token.probability, likeliest)

    def _encode(self, text: str) -> tuple[list[int], str]:
        if not text.strip():
            raise ConfigError("text", "is empty", "write a word or more")
        ids = self._model.encode(text)
        context = self._catalogue.contexts.longest
        if len(ids) <= context:
            return ids, ""
        return ids[:context], f"cut to the first {context - 1} of {len(ids) - 1} tokens"

    def _pieces(self, ids: list[int]) -> tuple[str, ...]:
        return tuple(self._catalogue.atlas.pieces[token] for token in ids[1:])

    def _latents(
        self, ids: list[int], names: Sequence[str]
    ) -> Iterator[tuple[str, LatentsOfTokens]]:
        """Yield each Sae's latents on all tokens but the BOS, after one forward pass."""
        sites = {site for name in names for site in self._reads_of(name)}
        row = torch.tensor([ids], device=self._model.device)
        with torch.inference_mode():
            read = tap.run(self._model, row, read=sites).values
        for name in names:
            yield name, _encoded(self._sae(name), read)

    def _reads_of(self, name: str) -> Sites:
        if name not in self._reads:
            self._reads[name] = self._sae(name).reads
        return self._reads[name]

    def _sae(self, name: str) -> Sae:
        return self._saes.get(name, lambda: self._suite.load(name))

    def _reading(
        self, name: str, latents: LatentsOfTokens, k: int, max_density: float
    ) -> SaeReading:
        columns = self._catalogue.columns(name)
        too_dense = torch.from_numpy(columns.density > max_density)
        shown = latents.masked_fill(too_dense, 0)
        values, indices = shown.topk(min(k, shown.shape[1]))
        best = [
            [index for index, value in zip(row, strengths, strict=True) if value > 0]
            for row, strengths in zip(indices.tolist(), values.tolist(), strict=True)
        ]
        listed = sorted({index for row in best for index in row})
        place = {index: number for number, index in enumerate(listed)}
        seen = tuple(self._seen(columns, index, latents[:, index]) for index in listed)
        strongest = tuple(tuple(place[index] for index in row) for row in best)
        return SaeReading(name, name.partition("/")[0], seen, strongest)

    def _seen(self, columns: Columns, index: int, values: Float[Tensor, "tokens"]) -> Seen:
        row = columns.row(index)
        positions = values.nonzero().flatten().tolist()
        return Seen(
            index=index,
            density=row.density,
            max=row.max,
            label=tuple(self._catalogue.pieces(row.peak_tokens[:N_LABEL_TOKENS]).values()),
            positions=tuple(positions),
            values=tuple(values[positions].tolist()),
        )


@torch.inference_mode()
def _encoded(sae: Sae, read: dict[Site, Float[Tensor, "1 position d_site"]]) -> LatentsOfTokens:
    """Encode what a Sae reads at every token but the first, the BOS: no Sae was trained on it."""
    return sae.encode(splice.finite({site: read[site][0, 1:].cpu() for site in sae.reads}))


def _bytes_of(sae: Sae) -> int:
    weights = (sae.skip, *(getattr(sae, name) for name in WEIGHTS))
    return sum(weight.nbytes for weight in weights if weight is not None)
