"""Floating point operations, counted from shapes: two a weight and token in every product.

A forward pass counts the layers up to the last site whole, and attention's two products over the
whole context, as an eager body makes them. A Sae counts one dense encoder product, all that the
trainer makes densely; the pairs behind it are few. A dense trainer makes the encoder's product and
the decoder's, and two of each backward.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from panscope.model.outline import Outline
from panscope.model.shape import Shape
from panscope.recipe import Recipe
from panscope.sites import Site
from panscope.stages.train import sweep
from panscope.stages.train.objective import Config
from panscope.stages.train.sweep import Spec


class Work(NamedTuple):
    """Operations in the model and in products of Saes."""

    model: float
    saes: float


@dataclass(frozen=True)
class Wanted:
    """What a recipe asks for, of a model whose shape or outline is known."""

    recipe: Recipe
    model: Shape | Outline
    """What finds sites and knows their sizes: an outline also by other libraries' names."""

    @property
    def shape(self) -> Shape:
        """The model's sizes."""
        return self.model if isinstance(self.model, Shape) else self.model.shape

    @cached_property
    def train(self) -> Config:
        """What is trained, at sites by their own names."""
        return sweep.named(self.recipe.train, self.model.sites)

    @cached_property
    def specs(self) -> tuple[Spec, ...]:
        """The Saes, in the order of a forward pass."""
        return sweep.specs(self.train, self.shape.n_layers)

    @cached_property
    def d_at(self) -> Mapping[Site, int]:
        """The size of the vector at each site that is trained."""
        return {site: self.model.d_at(site) for site in sweep.sites_of(self.specs)}

    def tokens_of(self, spec: Spec) -> int:
        """Return how many tokens a Sae is trained on."""
        return spec.n_steps * self.recipe.train.batch_tokens

    def size(self, sites: Iterable[Site]) -> int:
        """Return the size of the vectors at some sites side by side."""
        return sum(self.d_at[site] for site in sites)

    def forward(self, sites: Iterable[Site]) -> float:
        """Return a token's pass up to the last of some sites, without the LM head."""
        return max(_layers_below(site, self.shape) for site in sites) * self._layer

    def encoder(self, spec: Spec) -> float:
        """Return a token's encoder product."""
        return 2.0 * self.size(spec.reads) * spec.width

    def dense(self, spec: Spec) -> float:
        """Return a token's step of a dense trainer: forward, and twice that backward."""
        return 6.0 * self.size((*spec.reads, *spec.writes)) * spec.width

    def weights(self, spec: Spec) -> int:
        """Return how many weights a Sae has, those of encoder and decoder."""
        return self.size((*spec.reads, *spec.writes)) * spec.width

    def training(self) -> float:
        """Return the trainer's products of the whole suite."""
        return sum(self.tokens_of(spec) * self.encoder(spec) for spec in self.specs)

    def dense_training(self) -> float:
        """Return what a dense trainer would make of the whole suite."""
        return sum(self.tokens_of(spec) * self.dense(spec) for spec in self.specs)

    def evaluation(self) -> Work:
        """Count both passes, and for each Sae, and twice for each target, what lies above it."""
        stage, targets = self.recipe.evaluate, {spec.writes for spec in self.specs}
        batch = stage.batch_rows * self.recipe.text.context
        n_tokens = -(-stage.tokens // batch) * batch
        spliced = sum(self._above(spec.writes) for spec in self.specs)
        ablated = 2 * sum(map(self._above, targets))
        clean = self.forward(site for sites in targets for site in sites) + self._whole
        encoded = sum(map(self.encoder, self.specs))
        return Work(n_tokens * (clean + spliced + ablated), n_tokens * encoded)

    def description(self) -> Work:
        """Count the pass, and each latent's products with the vocabulary and the other latents."""
        n_tokens = self.recipe.describe.tokens
        read = self.forward(site for spec in self.specs for site in spec.reads)
        return Work(n_tokens * read, sum(self._described(spec, n_tokens) for spec in self.specs))

    def _described(self, spec: Spec, n_tokens: int) -> float:
        to_logits = 2.0 * self.d_at[spec.writes[0]] * self.shape.n_vocab
        neighbours = 2.0 * self.size(spec.writes) * spec.width
        return n_tokens * self.encoder(spec) + spec.width * (to_logits + neighbours)

    @property
    def _layer(self) -> float:
        attention = 4.0 * self.shape.d_attn * self.recipe.text.context
        return 2.0 * self.shape.n_layer_parameters + attention

    @property
    def _whole(self) -> float:
        head = 2.0 * self.shape.d_model * self.shape.n_vocab
        return self.shape.n_layers * self._layer + head

    def _above(self, written: Sequence[Site]) -> float:
        """Return the rest of a pass, with logits, in which values at some sites were replaced."""
        first = min(written, key=lambda site: site.order)
        spares_its_layer = len(written) == 1 and first.kind in ("mlp_out", "resid_post")
        n_spared = (_layer_of(first) or 0) + spares_its_layer
        return self._whole - n_spared * self._layer


def _layers_below(site: Site, shape: Shape) -> int:
    """Count the layers that run, whole, for a pass to reach a site."""
    layer = _layer_of(site)
    if layer is None:
        return 0 if site.kind == "embed" else shape.n_layers
    return layer + (site.kind != "resid_pre")


def _layer_of(site: Site) -> int | None:
    """Return the layer of a site, also of a path; None for what is in none."""
    return site.order[0] if site.is_path and site.order[0] >= 0 else site.layer
