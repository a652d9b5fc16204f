"""Types: what is written is read, what they lose is measured, what they cannot hold is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from panscope.errors import ConfigError
from panscope.sites import Site
from panscope.store.precision import DType, Error, decoded, encoded, held_as, lost, refuse_overflow
from panscope.store.tensors import parts_of, tensors_in

SITE = Site("resid_post", 3)
BOUNDS = {"float32": 0.0, "float16": 3e-4, "bfloat16": 3e-3, "int8": 9e-3}


def vectors() -> torch.Tensor:
    """Activations with what real ones have: massive dimensions, and massive tokens."""
    values = torch.randn(512, 96) * torch.linspace(0.1, 3, 96)
    values[:, 5] += 300
    values[7] *= 40
    return values


def kept_as(dtype: DType, exact: torch.Tensor) -> torch.Tensor:
    data = b"".join(parts_of(encoded(SITE, exact.to(held_as(dtype)), dtype)))
    return decoded(tensors_in(bytearray(data)))


@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_error_that_is_reported_is_that_of_what_is_read(dtype: DType):
    exact = vectors()
    read = kept_as(dtype, exact).float()
    error = lost(encoded(SITE, exact.to(held_as(dtype)), dtype), exact[:200])
    expected = (read[:200] - exact[:200]).norm() / exact[:200].norm()
    assert error.relative == pytest.approx(float(expected), rel=1e-4)
    assert error.relative <= BOUNDS[dtype]


def test_errors_of_shards_add_up():
    exact = vectors()
    kept = exact.bfloat16()
    parts = [Error.of(exact[a:b], kept[a:b]) for a, b in ((0, 100), (100, 512))]
    whole = Error.of(exact, kept)
    assert parts[0].merge(parts[1]).relative == pytest.approx(whole.relative, rel=1e-12)
    assert Error().relative == 0.0


def test_int8_keeps_ordinary_tokens_and_dimensions_beside_massive_ones():
    exact = vectors()
    read = kept_as("int8", exact)
    ordinary = [k for k in range(512) if k != 7]
    small = [k for k in range(96) if k != 5]
    part, kept = exact[ordinary][:, small], read[ordinary][:, small]
    assert float((part - kept).norm() / part.norm()) < 0.015

    def one_scale(axis: int) -> float:
        scale = exact.abs().amax(axis, keepdim=True) / 127
        kept = ((exact / scale).round() * scale)[ordinary][:, small]
        return float((part - kept).norm() / part.norm())

    assert min(one_scale(0), one_scale(1)) > 0.03


def test_int8_keeps_zeros_and_the_sign_of_the_largest():
    exact = torch.zeros(4, 3)
    exact[1, 2] = -5.0
    assert torch.equal(kept_as("int8", exact), exact)


def test_what_a_type_cannot_hold_is_named():
    exact = vectors()
    exact[3, 4] = 70_000.0
    refuse_overflow(SITE, exact.bfloat16())
    with pytest.raises(ConfigError, match=r"resid_post\.3: 1 values are not finite as float16"):
        refuse_overflow(SITE, exact.half())
    exact[3, 4] = float("nan")
    with pytest.raises(ConfigError, match=r"resid_post\.3: values are not finite"):
        encoded(SITE, exact, "int8")


def test_files_are_safetensors():
    tensors = encoded(SITE, vectors(), "int8") | {"ids": torch.arange(5, dtype=torch.int32)}
    ours = b"".join(parts_of(tensors))
    for read in (load(ours), tensors_in(bytearray(save(tensors)))):
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_a_tensor_that_was_read_is_a_view(tmp_path: Path):
    data = bytearray(b"".join(parts_of({"x": torch.zeros(3)})))
    tensors_in(data)["x"][1] = 1.0
    assert tensors_in(data)["x"].tolist() == [0.0, 1.0, 0.0]
