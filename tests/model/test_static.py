"""Taps in compiled code: the eager values, one graph, and edits that change without compiling."""

import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from panscope.errors import ConfigError, NotFound, Unsupported
from panscope.model import load, static, tap
from panscope.model.load import Model
from panscope.model.positions import At
from panscope.sites import Site

IDS = torch.randint(4, 4096, (2, 9), generator=torch.Generator().manual_seed(5))
READ = [Site("attn_z", 1), Site("mlp_in_unit", 1), Site("resid_post", 1), Site("resid_post", 2)]
STREAM, ADDED = Site("resid_pre", 1), Site("mlp_out", 1)
DIRECTION = torch.randn(32, generator=torch.Generator().manual_seed(2))


class Counted:
    """A backend that counts the graphs it is given."""

    def __init__(self, name: str) -> None:
        self._backend = torch._dynamo.lookup_backend(name)
        self.n_graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        self.n_graphs += 1
        return self._backend(graph, inputs)


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    _reset()
    yield
    _reset()


def _reset() -> None:
    with warnings.catch_warnings():  # where there is a GPU, torch 2.11 calls what it deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.compiler.reset()


def hooks_of(model: Model) -> list[object]:
    modules = model.lm.modules()
    return [h for m in modules for h in (*m._forward_hooks, *m._forward_pre_hooks)]


def check_against_eager(model: Model, backend: str, close: float) -> Callable[..., Any]:
    """Change edits under compiled code; each pass is that of `tap.run` with the same edits.

    Returns the compiled model.
    """
    counted, before, plain = Counted(backend), hooks_of(model), plain_of(model)
    with static.declared(model, READ, [STREAM, ADDED], (2, 9)) as taps, torch.no_grad():
        compiled = torch.compile(model.lm, backend=counted, fullgraph=True)

        def check(edits: dict[Site, tap.Edit]) -> None:
            logits = compiled(IDS, use_cache=False).logits
            values = {site: value.clone() for site, value in taps.values.items()}
            expected = tap.run(plain, IDS, READ, edits, with_logits=True)
            torch.testing.assert_close(logits, expected.logits, rtol=close, atol=close)
            for site in READ:
                torch.testing.assert_close(
                    values[site], expected.values[site], rtol=close, atol=close
                )

        check({})
        taps.edit(STREAM, bias=DIRECTION)
        check({STREAM: lambda x: x + DIRECTION})
        taps.edit(STREAM, 0.5, 2 * DIRECTION, positions=[2, 5])
        taps.edit(ADDED, scale=0.0)
        edits = {STREAM: At([2, 5], lambda x, _: 0.5 * x + 2 * DIRECTION), ADDED: torch.zeros_like}
        check(edits)
        taps.clear(ADDED)
        check({STREAM: edits[STREAM]})
        assert counted.n_graphs == 1
    assert hooks_of(model) == before
    return compiled


def plain_of(model: Model) -> Model:
    """The same model without static taps."""
    return load.load(load.Config(name=model.name, device="cpu"))


def plain_logits(model: Model) -> Tensor:
    logits = tap.run(model, IDS, with_logits=True).logits
    assert logits is not None
    return logits


def test_compiled_is_eager_in_every_family(precise: Model):
    compiled = check_against_eager(precise, "eager", 0.0)
    with torch.no_grad():
        logits = compiled(IDS, use_cache=False).logits  # behind the block: the model as it is
    assert torch.equal(logits, plain_logits(precise))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of inductor itself
@pytest.mark.filterwarnings("ignore:VecISA dlopen probe")  # of 60 s, on a machine with other work
def test_compiled_to_machine_code_is_eager(tiny_model: Model):
    check_against_eager(tiny_model, "inductor", 1e-5)


def test_without_compiling_they_work_too(tiny_model: Model):
    plain = tap.run(tiny_model, IDS, READ, {ADDED: lambda x: 2 * x}, with_logits=True)
    with static.declared(tiny_model, READ, [ADDED], (4, 16)) as taps, torch.no_grad():
        assert all(value.isnan().all() for value in taps.values.values())
        taps.edit(ADDED, scale=2)
        logits = tiny_model.lm(IDS, use_cache=False).logits
        for site, value in taps.values.items():
            assert torch.equal(value[:2, :9], plain.values[site])
            assert value[2:].isnan().all() and value[:, 9:].isnan().all()
    assert plain.logits is not None and torch.equal(logits, plain.logits)


def test_declared_and_not_edited_no_bit_changes(tiny_model_folder: Path):
    model = load.load(load.Config(name=str(tiny_model_folder), dtype="bfloat16", device="cpu"))
    logits = plain_logits(model)
    with static.declared(model, READ, [STREAM, ADDED], (2, 9)) as taps:
        assert torch.equal(plain_logits(model), logits)
        taps.edit(STREAM, 3.0, 1.0)
        assert not torch.equal(plain_logits(model), logits)
        taps.clear(STREAM)
        assert torch.equal(plain_logits(model), logits)


def test_nothing_is_left_after_an_error(tiny_model: Model):
    before, logits = hooks_of(tiny_model), plain_logits(tiny_model)
    names = [name for name, _ in tiny_model.lm.named_buffers()]
    with (
        pytest.raises(ZeroDivisionError),
        static.declared(tiny_model, READ, [STREAM], (2, 9)) as taps,
    ):
        taps.edit(STREAM, bias=1.0)
        raise ZeroDivisionError
    assert hooks_of(tiny_model) == before
    assert [name for name, _ in tiny_model.lm.named_buffers()] == names
    assert not taps.edits[STREAM].where.any()
    assert torch.equal(plain_logits(tiny_model), logits)


def test_readings_carry_no_gradient(tiny_model: Model):
    with static.declared(tiny_model, READ, [STREAM], (2, 9)) as taps:
        taps.edit(STREAM, bias=torch.ones(32, requires_grad=True))
        tiny_model.lm(IDS, use_cache=False)
        assert not any(value.requires_grad for value in taps.values.values())


# ---- what cannot be


def test_what_does_not_fit_changes_nothing(tiny_model: Model):
    with static.declared(tiny_model, [], [ADDED], (2, 9)) as taps:
        taps.edit(ADDED, 2.0, DIRECTION, [4])
        held = [buffer.clone() for buffer in taps.edits[ADDED].buffers()]
        with pytest.raises(ConfigError, match=r"site mlp_out\.1: has 32 dimensions, the edit is"):
            taps.edit(ADDED, bias=torch.ones(31))
        with pytest.raises(ConfigError, match=r"site mlp_out\.1: position 9 is outside the 9 decl"):
            taps.edit(ADDED, positions=[3, 9])
        with pytest.raises(NotFound, match=r"site mlp_out\.2: is not declared for edits; did you"):
            taps.edit(Site("mlp_out", 2))
        now = list(taps.edits[ADDED].buffers())
        assert all(torch.equal(a, b) for a, b in zip(held, now, strict=True))
        for ids in (IDS[:, [0] * 10], IDS[[0] * 3]):
            with pytest.raises(ConfigError, match=r"static taps: a pass of \(\d+, \d+\), taps are"):
                tiny_model.lm(ids, use_cache=False)


def test_sites_and_models_are_checked(tiny_model: Model):
    with (
        pytest.raises(Unsupported, match=r"site mlp_in_unit\.1: can be read but not edited"),
        static.declared(tiny_model, [], [Site("mlp_in_unit", 1)], (2, 9)),
    ):
        pass
    with (
        pytest.raises(Unsupported, match=r"site resid_mid\.1: is reached by a patch.*attn_out\.1"),
        static.declared(tiny_model, [Site("resid_mid", 1)], [], (2, 9)),
    ):
        pass
    with (
        pytest.raises(Unsupported, match=r"site q\.1: has no vector for each token"),
        static.declared(tiny_model, [Site("q", 1)], [], (2, 9)),
    ):
        pass
    with (
        pytest.raises(NotFound, match=r"site mlp_out\.3"),
        static.declared(tiny_model, [Site("mlp_out", 3)], [], (2, 9)),
    ):
        pass
    compiled = replace(tiny_model, lm=torch.compile(tiny_model.lm, backend="eager"))
    with (
        pytest.raises(Unsupported, match="is compiled"),
        static.declared(compiled, READ, [], (2, 9)),
    ):
        pass
