"""Directions that edits name, as numbers: a decoder's row, what tells two texts apart."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from panscope.edits import Edit
from panscope.errors import ConfigError
from panscope.model import tap
from panscope.model.generate import refuse_lengths
from panscope.model.load import Model
from panscope.sae.sae import Sae
from panscope.sites import VECTOR_KINDS, Site


def pointed(model: Model, saes: Mapping[str, Sae], edit: Edit) -> Edit:
    """Give an edit along a direction that it names the numbers of that direction.

    Raises NotFound for a site that is not there, ConfigError for texts between which it is alike.
    """
    if edit.along is not None:
        ((sae, index),) = edit.features
        numbers = saes[sae].w_dec[index]
    elif edit.toward is not None and edit.away is not None:
        numbers = difference(model, edit)
    else:
        return edit
    named = {"direction": tuple(numbers.tolist()), "along": None, "toward": None, "away": None}
    return edit.model_copy(update=named)


def difference(model: Model, edit: Edit) -> Float[Tensor, " d_site"]:
    """Return the mean value at an edit's site over the tokens of one text less that of another."""
    assert edit.site is not None
    (site,) = model.sites((edit.site,))
    if site.kind not in VECTOR_KINDS:
        do = "name a site with one vector for each token"
        raise ConfigError(f"edit {edit}", f"{site} has no direction", do)
    toward, away = (_mean(model, site, encoded(model, edit, name)) for name in ("toward", "away"))
    between = toward - away
    if not between.norm() > 0:
        found = f"toward and away do not differ at {site}"
        raise ConfigError(f"edit {edit}", found, "give two texts that do")
    return between


def encoded(model: Model, edit: Edit, name: str) -> list[int]:
    """Tokenise a text that an edit names; ConfigError for one longer than the model can place."""
    ids = model.encode(getattr(edit, name))
    try:
        refuse_lengths(model, [len(ids)], 1)
    except ConfigError as error:
        found = f"{name} is too long: {error.args[1]}"
        raise ConfigError(f"edit {edit}", found, "shorten it") from error
    return ids


def _mean(model: Model, site: Site, ids: list[int]) -> Float[Tensor, " d_site"]:
    """Average over the tokens of a text; the BOS, at which values are of another size, is none."""
    return tap.run(model, torch.tensor([ids]), read={site}).values[site][0, 1:].float().mean(0)
