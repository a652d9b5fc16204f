"""The native library: which one this processor can run, and the functions that it has.

The package's build compiles the same sources (`native/`) once per instruction set; the best library
that this processor can run is loaded on first use. `PANSCOPE_CPU=portable|avx2|avx512` forbids the
better ones. Where no library was built, or none can be loaded, `why_not` says so in a sentence.

The libraries bring no OpenMP runtime: they use the one torch has loaded, so `torch.set_num_threads`
rules both, and torch is imported first. A second runtime would be a second pool of threads, each
spinning while the other works.
"""

import ctypes
import functools
import importlib.util
import os
from ctypes import c_char_p, c_double, c_int32, c_int64, c_void_p

import torch  # noqa: F401 - its OpenMP runtime

from panscope.errors import ConfigError, Unsupported, nearest

INSTRUCTION_SETS = ("avx512", "avx2", "portable")  # best first

_P, _N = c_void_p, c_int64
_SIGNATURES: dict[str, tuple[list[type], type | None]] = {
    "encode": ([_P, _N, _N, _P, _N, _P, _P, c_int32, _P], _P),
    "take": ([_P, _P, _P, _P, _P], None),
    "drop": ([_P], None),
    "residual": ([_P, _P, _P, _N, _P, _N, _P, _P, _N, _P, _P, _P], None),
    "decode": ([_P, _P, _P, _N, _P, _N, _P, _N, _P], None),
    "pull": ([_P, _P, _P, _N, _P, _N, _P, _N, _P, _P], None),
    "gradients": ([_P, _P, _P, _P], None),
    "update": ([_P, _P, _P, _N, c_double], None),
    "by_latent": ([_P, _N, _P, _P, _P], None),
    "find": ([_P, _P, _P, _N, _P], None),
    "bins": ([_P, _N, _P, _N, _P], None),
    "count": ([_P, _P, _N, _P], None),
    "count_tokens": ([_P, _P, _N, _P], None),
    "sums": ([_P, _P, _P], None),
    "best": ([_P, _P, _P, _N, _P, _P, _P], None),
    "lots": ([_P, _P, _N, _P], None),
    "companions": ([_P, _N, _P, _N, _N, _N, _N, _P, _P], None),
    "products": ([_P, _N, _P, _N, _P], None),
    "supports": ([c_char_p], c_int32),
    "screens": ([], c_int32),
}


def available() -> bool:
    """Say whether a native library can be used."""
    return why_not() is None


@functools.cache
def why_not() -> str | None:
    """Return why no native library can be used, as a sentence, or None if one can."""
    try:
        library()
    except Unsupported as error:
        return str(error)
    return None


def instruction_set() -> str:
    """Name the instruction set in use: "avx512", "avx2" or "portable"."""
    return _chosen()[0]


def library() -> ctypes.CDLL:
    """Return the library in use."""
    return _chosen()[1]


@functools.cache
def _chosen() -> tuple[str, ctypes.CDLL]:
    wanted = os.environ.get("PANSCOPE_CPU", INSTRUCTION_SETS[0])
    if wanted not in INSTRUCTION_SETS:
        do = nearest(wanted, INSTRUCTION_SETS)
        raise ConfigError("environment variable PANSCOPE_CPU", repr(wanted), do)
    allowed = INSTRUCTION_SETS[INSTRUCTION_SETS.index(wanted) :]
    portable = _load("portable")
    best = next(isa for isa in allowed if portable.panscope_supports(isa.encode()))
    return best, portable if best == "portable" else _load(best)


def _load(isa: str) -> ctypes.CDLL:
    # The import system knows where a library lies, also in editable installs.
    spec = importlib.util.find_spec(f"panscope.kernels._native_{isa}")
    if spec is None or spec.origin is None:
        found = f"there is no native library for {isa}"
        do = "install panscope where a C++ compiler is, or train with PyTorch alone"
        raise Unsupported("panscope.kernels.cpu", found, do)
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError as error:
        do = "reinstall panscope beside this torch, or train with PyTorch alone"
        raise Unsupported(spec.origin, f"cannot be loaded ({error})", do) from error
    for name, (arguments, result) in _SIGNATURES.items():
        function = getattr(library, f"panscope_{name}")
        function.argtypes, function.restype = arguments, result
    return library
