"""Neuronpedia's names for Saes and models, both ways.

Its sources are `{layer}-{set}`, its layers and indices strings. Ours become
`resid_post.12/w16384_l0_50_s0` ↔ `12-resid_post-w16384_l0_50_s0`; a site that exists once counts as
layer 0. A set is one kind of site and one name, at all layers.
"""

import re
from collections.abc import Iterable

from panscope.errors import NotFound, nearest

_LAYER = re.compile(r"\.(\d+)(?=\.|$)")


def source_of(sae: str) -> str:
    """Name a Sae as a source.

    >>> source_of("resid_post.12/w64_s0"), source_of("model.layers.3.mlp.output/w64_s0")
    ('12-resid_post-w64_s0', '3-model.layers.mlp.output-w64_s0')
    """
    return f"{layer_of(sae)}-{set_of(sae)}"


def layer_of(sae: str) -> int:
    """Return the layer of a Sae, 0 for one at a site that exists once."""
    found = _LAYER.search(sae.partition("/")[0])
    return int(found[1]) if found else 0


def set_of(sae: str) -> str:
    """Name the set of a Sae: its kind of site and its own name.

    >>> set_of("embed/w64_s0")
    'embed-w64_s0'
    """
    site, _, name = sae.partition("/")
    return f"{_LAYER.sub('', site, count=1)}-{name}"


def sae_of(source: str, saes: Iterable[str]) -> str:
    """Find the Sae of a source, ours or already a Sae's id; NotFound names the nearest sources."""
    named = {source_of(sae): sae for sae in saes}
    if source in named.values():
        return source
    if source not in named:
        raise NotFound("source", f"no source {source!r}", nearest(source, named))
    return named[source]


def chosen(source_set: str, layers: Iterable[str], saes: Iterable[str]) -> list[str]:
    """Find the Saes of a set at some layers, or at all if none is said.

    Layers are numbers or whole sources, as clients write both.
    """
    named = {source_of(sae): sae for sae in saes}
    sets = dict.fromkeys(map(set_of, named.values()))
    if source_set not in sets:
        raise NotFound("sourceSet", f"no set {source_set!r}", nearest(source_set, sets))
    inside = {source: sae for source, sae in named.items() if set_of(sae) == source_set}
    wanted = [layer if "-" in layer else f"{layer}-{source_set}" for layer in layers]
    for source in wanted:
        if source not in inside:
            raise NotFound("selectedLayers", f"no source {source!r}", nearest(source, inside))
    return [inside[source] for source in wanted or inside]


def model_of(name: str) -> str:
    """Name a model as its clients do: without the owner.

    >>> model_of("google/gemma-2-2b")
    'gemma-2-2b'
    """
    return name.rstrip("/").rpartition("/")[2]


def check_model(asked: str, name: str) -> None:
    """Raise NotFound if another model is asked for than the one that is here."""
    if asked not in (name, model_of(name)):
        raise NotFound("modelId", f"no model {asked!r}", f"this server shows {model_of(name)}")
