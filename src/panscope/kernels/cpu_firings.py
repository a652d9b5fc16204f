"""The C++ body of `firings` (`native/firings.cpp`), called through ctypes."""

from collections.abc import Sequence
from ctypes import Structure, byref, c_int64, c_void_p

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panscope.kernels.firings import (
    Classes,
    ClassPerToken,
    Codes,
    Counts,
    Firings,
    Index,
    PerFiring,
    PerToken,
    Together,
    Tokens,
)
from panscope.kernels.library import library
from panscope.stats import TopK


class _Codes(Structure):
    _fields_ = (("offsets", c_void_p), ("latents", c_void_p), ("values", c_void_p), ("n", c_int64))


class _Firings(Structure):
    _fields_ = (("starts", c_void_p), ("tokens", c_void_p), ("values", c_void_p), ("n", c_int64))


class _Best(Structure):
    _fields_ = (("score", c_void_p), ("origin", c_void_p), ("group", c_void_p), ("k", c_int64))


def by_latent(codes: Codes) -> Firings:
    """Count each latent's firings, then put them in their places; threads share the tokens."""
    n = len(codes.latents)
    starts = torch.empty(codes.width + 1, dtype=torch.int64)
    tokens, values = torch.empty(n, dtype=torch.int32), torch.empty(n)
    into = (t.data_ptr() for t in (starts, tokens, values))
    library().panscope_by_latent(byref(_codes(codes)), codes.width, *into)
    return Firings(starts, tokens, values)


def find(firings: Firings, latents: Index, tokens: Tokens) -> Index:
    """Halve the firings of each latent."""
    found = torch.empty_like(latents)
    at = latents.data_ptr(), tokens.data_ptr(), len(latents), found.data_ptr()
    library().panscope_find(byref(_firings(firings)), *at)
    return found


def bins_of(values: PerFiring, inner_edges: Float[Tensor, " edges"]) -> Classes:
    """Begin at the place that the bits of the float tell, and step to the bin."""
    bins = torch.empty(len(values), dtype=torch.uint8)
    edges = inner_edges.data_ptr(), len(inner_edges)
    library().panscope_bins(values.data_ptr(), len(values), *edges, bins.data_ptr())
    return bins


def count_(counts: Int[Tensor, "latents classes"], firings: Firings, classes: Classes) -> None:
    """Count, latent by latent."""
    at = classes.data_ptr(), counts.shape[1], counts.data_ptr()
    library().panscope_count(byref(_firings(firings)), *at)


def count_tokens_(
    counts: Int[Tensor, "latents classes"], firings: Firings, classes: ClassPerToken
) -> None:
    """Count, latent by latent."""
    at = classes.data_ptr(), counts.shape[1], counts.data_ptr()
    library().panscope_count_tokens(byref(_firings(firings)), *at)


def sum_(
    total: Float[Tensor, " latents"], square: Float[Tensor, " latents"], firings: Firings
) -> None:
    """Add up, latent by latent."""
    library().panscope_sums(byref(_firings(firings)), total.data_ptr(), square.data_ptr())


def offer_(
    best: TopK,
    firings: Firings,
    scores: PerFiring,
    origins: PerToken,
    groups: PerToken,
    classes: Classes,
) -> None:
    """Compare with the last of the best, and only if it is beaten find the place."""
    kept = (best.scores, best.origins, best.groups)
    into = _Best(*(t.data_ptr() for t in kept), best.scores.shape[1])
    n_classes = len(best.scores) // firings.n_latents
    given = scores.data_ptr(), classes.data_ptr(), n_classes, origins.data_ptr(), groups.data_ptr()
    library().panscope_best(byref(_firings(firings)), *given, byref(into))


def lots_of(firings: Firings, origins: PerToken, salt: int) -> PerFiring:
    """Mix, latent by latent."""
    lots = torch.empty(len(firings.values))
    at = origins.data_ptr(), salt, lots.data_ptr()
    library().panscope_lots(byref(_firings(firings)), *at)
    return lots


def accompany_(
    found: Together, codes: Sequence[Codes], n_firings: Counts, first: int, end: int
) -> None:
    """Count what fires together with a block of latents, a block a thread, and offer it."""
    texts = (_Codes * len(codes))(*map(_codes, codes))
    given = texts, len(codes), n_firings.data_ptr(), len(n_firings), first, end
    into = found.ids.shape[1], found.ids.data_ptr(), found.jaccards.data_ptr()
    library().panscope_companions(*given, *into)


def multiply_(
    products: Float[Tensor, "latents k"],
    firings: Firings,
    n_tokens: int,
    ids: Int[Tensor, "latents k"],
) -> None:
    """Lay a latent's values out by token, and go through those of each other."""
    given = byref(_firings(firings)), n_tokens, ids.data_ptr(), ids.shape[1]
    library().panscope_products(*given, products.data_ptr())


def _codes(codes: Codes) -> _Codes:
    """Point at codes, which must be kept until the call is done."""
    at = (codes.offsets.data_ptr(), codes.latents.data_ptr(), codes.values.data_ptr())
    return _Codes(*at, codes.n_tokens)


def _firings(firings: Firings) -> _Firings:
    """Point at firings, which must be kept until the call is done."""
    at = (firings.starts.data_ptr(), firings.tokens.data_ptr(), firings.values.data_ptr())
    return _Firings(*at, firings.n_latents)
