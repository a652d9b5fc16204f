"""The C++ body (`native/`), for float32 on the CPU, called through ctypes."""

from ctypes import Structure, byref, c_double, c_int64, c_void_p

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panscope.axes import Activations
from panscope.errors import Unsupported
from panscope.kernels.library import library
from panscope.kernels.pairs import (
    Decoder,
    Encoder,
    Hits,
    Pairs,
    PerLatent,
    PerPair,
    Residual,
    Rows,
)

SCREENS = {"automatic": 0, "vnni": 1, "pairs": 2, "bf16": 3, "fp32": 4}


class Counts(Structure):
    """How many pairs passed their floor, and how many the screen had to pass on."""

    pairs: int
    candidates: int
    _fields_ = (("pairs", c_int64), ("candidates", c_int64))


class _Hits(Structure):
    _fields_ = (
        ("token", c_void_p),
        ("latent", c_void_p),
        ("error_row", c_void_p),
        ("f", c_void_p),
        ("slope", c_void_p),
        ("n", c_int64),
    )


class _Sources(Structure):
    _fields_ = (
        ("x", c_void_p),
        ("error", c_void_p),
        ("everywhere", c_void_p),
        ("n_tokens", c_int64),
        ("d_in", c_int64),
        ("d_out", c_int64),
        ("n_latents", c_int64),
    )


class _Rows(Structure):
    _fields_ = (
        ("w_enc", c_void_p),
        ("w_dec", c_void_p),
        ("v_enc", c_void_p),
        ("v_dec", c_void_p),
        ("m_enc", c_void_p),
        ("m_dec", c_void_p),
        ("seen", c_void_p),
        ("momentum", c_double),
    )


def screens() -> list[str]:
    """Name the screens that `encode` can choose from."""
    have = library().panscope_screens()
    return [name for name, number in SCREENS.items() if have >> number & 1]


def encode(
    x: Activations,
    w_enc: Encoder,
    b_enc: PerLatent,
    floor: PerLatent,
    screen: str = "automatic",
) -> Pairs:
    """Screen all pairs in low precision and decide the candidates by one float32 product each.

    The screen is an upper bound, so it decides the speed alone: the pairs kept and their values are
    the same to the bit for every screen, number of threads and block of tokens.
    """
    kept, counts = _encoded(x, w_enc, b_enc, floor, screen)
    token = torch.empty(counts.pairs, dtype=torch.int32)
    latent, z = torch.empty_like(token), torch.empty(counts.pairs)
    offsets = torch.empty(len(x) + 1, dtype=torch.int64)
    library().panscope_take(kept, *(t.data_ptr() for t in (token, latent, z, offsets)))
    return Pairs(token, latent, z, offsets, len(w_enc))


def counts(
    x: Activations, w_enc: Encoder, b_enc: PerLatent, floor: PerLatent, screen: str = "automatic"
) -> Counts:
    """Count what `encode` would keep, and how many candidates its screen would find."""
    kept, found = _encoded(x, w_enc, b_enc, floor, screen)
    library().panscope_drop(kept)
    return found


def _encoded(
    x: Activations, w_enc: Encoder, b_enc: PerLatent, floor: PerLatent, screen: str
) -> tuple[int, Counts]:
    """Return a handle on what was kept, to be taken or dropped."""
    if not x.shape[1]:  # the plan of the work divides by it
        do = "see that the Sae, and what it reads, are whole"
        raise Unsupported("encode", "activations have no dimensions", do)
    plain = [_plain(t) for t in (x, w_enc, b_enc, floor)]
    at_x, at_w, at_b, at_floor = (t.data_ptr() for t in plain)
    sizes, found = (*x.shape, len(w_enc)), Counts()
    kept = library().panscope_encode(
        at_x, sizes[0], sizes[1], at_w, sizes[2], at_b, at_floor, SCREENS[screen], byref(found)
    )
    return kept, found


def residual(
    pairs: Pairs,
    f: PerPair,
    w_dec: Decoder,
    target: Float[Tensor, "tokens d_out"],
    bounds: tuple[int, ...],
) -> Residual:
    """Decode, compare and pull, token by token, from the pairs' decoder rows alone."""
    f, w_dec, target = (_plain(t) for t in (f, w_dec, target))
    n_tokens, d_out = target.shape
    error = torch.empty(len(bounds), n_tokens, d_out)
    pull = torch.empty(len(f))
    squared = torch.empty(len(bounds), dtype=torch.float64)
    library().panscope_residual(
        pairs.latent.data_ptr(),
        f.data_ptr(),
        pairs.offsets.data_ptr(),
        n_tokens,
        w_dec.data_ptr(),
        d_out,
        target.data_ptr(),
        (c_int64 * len(bounds))(*bounds),
        len(bounds),
        error.data_ptr(),
        pull.data_ptr(),
        squared.data_ptr(),
    )
    return Residual(error, pull, squared)


def decode(
    pairs: Pairs, f: PerPair, w_dec: Decoder, bounds: tuple[int, ...]
) -> Float[Tensor, "prefixes tokens d_out"]:
    """Sum the pairs' decoder rows, token by token."""
    f, w_dec = _plain(f), _plain(w_dec)
    rebuilt = torch.empty(len(bounds), pairs.n_tokens, w_dec.shape[1])
    library().panscope_decode(*_of_tokens(pairs, f, w_dec, bounds), rebuilt.data_ptr())
    return rebuilt


def pull(
    pairs: Pairs,
    error: Float[Tensor, "prefixes tokens d_out"],
    w_dec: Decoder,
    bounds: tuple[int, ...],
) -> PerPair:
    """Dot the pairs' decoder rows with their token's error."""
    z, w_dec, error = _plain(pairs.z), _plain(w_dec), _plain(error)
    pulled = torch.empty(len(z))
    where = error.data_ptr(), pulled.data_ptr()
    library().panscope_pull(*_of_tokens(pairs, z, w_dec, bounds), *where)
    return pulled


def _of_tokens(
    pairs: Pairs, f: PerPair, w_dec: Decoder, bounds: tuple[int, ...]
) -> tuple[object, ...]:
    """Point at what decoding reads; the tensors must be kept until it is done."""
    at = pairs.latent.data_ptr(), f.data_ptr(), pairs.offsets.data_ptr(), pairs.n_tokens
    ends = (c_int64 * len(bounds))(*bounds), len(bounds)
    return (*at, w_dec.data_ptr(), w_dec.shape[1], *ends)


def gradients(
    hits: Hits,
    x: Activations,
    error: Float[Tensor, "rows d_out"],
    everywhere: PerLatent | None,
    n_latents: int,
) -> tuple[Encoder, Decoder]:
    """Gather each latent's rows of x and of error."""
    sources, alive = _sources(hits, x, error, everywhere, n_latents)
    d_enc = torch.zeros(n_latents, x.shape[1])
    d_dec = torch.zeros(n_latents, error.shape[1])
    library().panscope_gradients(*sources, d_enc.data_ptr(), d_dec.data_ptr())
    del alive
    return d_enc, d_dec


def update_(
    hits: Hits,
    x: Activations,
    error: Float[Tensor, "rows d_out"],
    everywhere: PerLatent | None,
    rows: Rows,
    step: int,
    rate: float,
) -> None:
    """Gather, project, step and renormalise, one visit to each touched latent's rows."""
    sources, alive = _sources(hits, x, error, everywhere, len(rows.w_enc))
    weights = (rows.w_enc, rows.w_dec, rows.v_enc, rows.v_dec, rows.m_enc, rows.m_dec)
    assert all(_plain(w) is w for w in weights), "rows are changed in place: float32, contiguous"
    found = (w.data_ptr() if len(w) else None for w in weights)  # none: without momentum
    pointers = _Rows(*found, rows.seen.data_ptr(), rows.momentum)
    library().panscope_update(*sources, byref(pointers), step, rate)
    del alive


def _sources(
    hits: Hits,
    x: Activations,
    error: Float[Tensor, "rows d_out"],
    everywhere: PerLatent | None,
    n_latents: int,
) -> tuple[tuple[object, object], list[Tensor]]:
    """Point at the arrays of a column pass; the tensors must be kept until it is done."""
    indices = [_index(t) for t in (hits.token, hits.latent, hits.error_row)]
    values = [_plain(t) for t in (hits.f, hits.slope, x, error)]
    f, slope, x, error = values
    everywhere = None if everywhere is None else _plain(everywhere)
    pairs = _Hits(*(t.data_ptr() for t in (*indices, f, slope)), len(f))
    sources = _Sources(
        x.data_ptr(),
        error.data_ptr(),
        None if everywhere is None else everywhere.data_ptr(),
        len(x),
        x.shape[1],
        error.shape[1],
        n_latents,
    )
    alive = [*indices, *values, *([] if everywhere is None else [everywhere])]
    return (byref(pairs), byref(sources)), alive


def _plain(tensor: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return the tensor as C++ reads it: float32 on the CPU, without gaps."""
    assert tensor.dtype == torch.float32 and tensor.device.type == "cpu", "float32 on the CPU"
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _index(tensor: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    return tensor.to(torch.int32).contiguous()
