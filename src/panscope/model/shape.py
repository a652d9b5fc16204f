"""The shape of a model: the sizes that decide what it costs, known without its weights."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field

from panscope import config
from panscope.errors import ConfigError, Unsupported
from panscope.model.families import Family, matrix
from panscope.sites import VECTOR_KINDS, Site, match_sites

Count = Annotated[int, Field(gt=0)]


class Shape(config.Config):
    """The sizes of a language model."""

    n_layers: Count
    d_model: Count
    d_attn: Count
    """All heads side by side, before the output projection."""
    n_vocab: Count
    n_parameters: Count
    """Of the whole model; what is shared (tied embeddings) counts once."""
    n_layer_parameters: Count
    """Of one layer."""

    def sites(self, patterns: Iterable[str]) -> tuple[Site, ...]:
        """Expand names and globs, in forward order; other libraries' names need the model."""
        return match_sites(patterns, self.n_layers)

    def d_at(self, site: Site) -> int:
        """Return the size of the vector at a site.

        Raises Unsupported for a site that has none, and for a path: no shape tells of all modules.
        """
        if site.is_path:
            do = "take a site with a name, of the same size"
            raise Unsupported(f"site {site}", "its size is not known without the model", do)
        if site.kind not in VECTOR_KINDS:
            raise no_vector(site, "name another site")
        if site.kind == "attn_z":
            return self.d_attn
        return self.n_vocab if site.kind == "logits" else self.d_model


def shape_of(lm: Any, family: Family) -> Shape:
    """Measure a model of transformers, which may be on the meta device."""
    described = lm.config.get_text_config()
    return Shape(
        n_layers=described.num_hidden_layers,
        d_model=described.hidden_size,
        d_attn=len(matrix(lm.get_submodule(family.place(Site("attn_z", 0)).path))),
        n_vocab=described.vocab_size,
        n_parameters=_n_parameters(lm),
        n_layer_parameters=_n_parameters(lm.get_submodule(f"{family.layers}.0")),
    )


def no_vector(site: Site, do: str) -> Unsupported:
    """Say that a site holds something else than a vector for each token."""
    return Unsupported(f"site {site}", "has no vector for each token", do)


def refuse_another(stated: Shape, found: Shape, name: str) -> None:
    """Raise ConfigError if a model is not of the shape that the recipe states."""
    for key, size in found.model_dump().items():
        if (said := getattr(stated, key)) != size:
            what = f"its {key} is {size:,}, the recipe says {said:,}"
            raise ConfigError(f"model {name}", what, "correct [model.shape], or name that model")


def _n_parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
