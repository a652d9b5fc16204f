"""Patches: exactly what was asked for, seen by everything that exists, and gone afterwards."""

import inspect
import pickle
import threading
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.gemma2 import modeling_gemma2

from panscope.errors import ConfigError, Unsupported
from panscope.model import load, syntax, tap
from panscope.model.load import Model
from panscope.model.patch import Patch, digest_of, patch
from panscope.sites import Site

IDS = torch.randint(4, 4096, (2, 7), generator=torch.Generator().manual_seed(1))


def scaled(x: int, by: int = 2) -> int:
    """Multiply."""
    y = x * by  # a comment
    if y > 100:
        y = 100
    return y


def through(function: Callable[..., int]) -> Callable[..., int]:
    @wraps(function)
    def around(*args: int) -> int:
        return function(*args) + 1000

    return around


class Base:
    def run(self, x: int) -> int:
        return x + 1


class Loop(Base):
    """A model in plain Python."""

    def __init__(self) -> None:
        self.__weights = [1, 2, 3]

    @through
    def run(self, x: int) -> int:
        for weight in self.__weights:
            x = x * weight
        return super().run(x)

    @staticmethod
    def plain(x: int) -> int:
        return x - 1

    @classmethod
    def made(cls, x: int) -> str:
        return cls.__name__ * x


def counter() -> Callable[[], int]:
    start, step = 10, 3

    def count() -> int:
        return start + step

    return count


def test_an_expression_is_replaced_for_the_length_of_the_block():
    before = scaled.__code__
    with patch(scaled, [("x*by", "x * by + 1")]) as made:
        assert scaled(4) == 9 and scaled(4, 3) == 13 and scaled.__doc__ == "Multiply."
        assert "y = x * by + 1" in made.source
    assert scaled(4) == 8 and scaled.__code__ is before


def test_statements_are_replaced_added_and_removed():
    with patch(scaled, [("y = x * by", "y = x * by\ny += 1"), ("if y > 100:\n    y = 100", "")]):
        assert scaled(60) == 121
    with patch(scaled, [("y = 100", "")]):
        assert scaled(60) == 120  # an empty block gets a pass


def test_changes_see_those_before_them():
    with patch(scaled, [("x * by", "x - by"), ("x - by", "x // by")]):
        assert scaled(9) == 4


def test_objects_are_given_by_name_and_leave_nothing_in_the_module():
    seen: list[int] = []
    known = set(globals())

    def tap(value: int) -> int:
        seen.append(value)
        return -value

    with patch(scaled, [("return y", "return tap(y)")], {"tap": tap}):
        assert scaled(5) == -10
    assert seen == [10] and set(globals()) == known


def test_names_reach_functions_inside_the_function():
    change = ("return y", "return max([y], key=lambda v: probe(v) + (lambda: probe(v))())")
    with patch(scaled, [change], {"probe": abs}):
        assert scaled(5) == 10


def test_a_method_keeps_its_decorator_its_super_and_its_private_names():
    loop = Loop()
    assert loop.run(2) == 1013
    with patch(Loop.run, [("x * weight", "x * weight + 1")]):
        assert loop.run(2) == 1023 and Loop().run(2) == 1023 and isinstance(loop, Loop)
        assert type(pickle.loads(pickle.dumps(loop))) is Loop
    assert loop.run(2) == 1013
    with patch(Loop.plain, [("x - 1", "x - 2")]), patch(Loop.made, [("cls.__name__", "'a'")]):
        assert Loop.plain(5) == 3 and Loop.made(3) == "aaa"
    with patch(loop.run, [("super().run(x)", "super().run(-x)")]):
        assert Loop().run(2) == 989


def test_free_variables_stay_and_others_are_refused():
    count = counter()
    with patch(count, [("start + step", "start * step")]):
        assert count() == 30
    with pytest.raises(ConfigError, match="use the same variables of the enclosing function"):
        patch(count, [("start + step", "start")]).__enter__()
    assert count() == 13


def test_patches_stack_and_end_in_any_order():
    first = patch(scaled, [("x * by", "x * by + 1")])
    second = patch(scaled, [("return y", "return -y")])
    one = first.__enter__()
    two = second.__enter__()
    assert scaled(4) == -9 and two.before is one.after
    first.__exit__(None, None, None)
    assert scaled(4) == -8 and "+ 1" not in two.source
    second.__exit__(None, None, None)
    assert scaled(4) == 8


def test_a_patch_that_needs_an_ended_one_ends_with_it():
    first = patch(scaled, [("x * by", "x * by + 1")])
    second = patch(scaled, [("x * by + 1", "x * by + 2")])
    behind = patch(scaled, [("return y", "return -y")])
    for one in (first, second, behind):
        one.__enter__()
    assert scaled(4) == -10
    with pytest.raises(ConfigError, match=r"'x \* by \+ 1' was found 0 times.*end the later one"):
        first.__exit__(None, None, None)
    assert scaled(4) == 8
    with patch(scaled, [("return y", "return 2 * y")]):
        second.__exit__(None, None, None)
        behind.__exit__(None, None, None)
        assert scaled(4) == 16
    assert scaled(4) == 8


def test_two_patches_may_share_a_name_for_one_object_only():
    first = patch(scaled, [("x * by", "tap(x * by)")], {"tap": abs})
    with first, patch(scaled, [("return y", "return tap(-y)")], {"tap": abs}):
        assert scaled(-4) == 8
    other = patch(scaled, [("return y", "return tap(-y)")], {"tap": float})
    first = patch(scaled, [("x * by", "tap(x * by)")], {"tap": abs})
    with first, pytest.raises(ConfigError, match="'tap' means something else"), other:
        pass
    with pytest.raises(ConfigError, match="'y' means something else"):
        patch(scaled, [("x * by", "y(x)")], {"y": abs}).__enter__()
    assert scaled(4) == 8


def test_tracebacks_and_inspect_show_the_patched_source():
    with patch(scaled, [("return y", "return fail(y)")], {"fail": lambda y: 1 // (y * 0)}):
        try:
            scaled(3)
        except ZeroDivisionError:
            assert "return fail(y)" in traceback.format_exc()
        assert "return fail(y)" in inspect.getsource(scaled)


def test_the_difference_is_shown():
    with patch(scaled, [("x * by", "x ** by")]) as made:
        assert "-    y = x * by\n+    y = x ** by\n" in made.diff()
        assert made.diff().startswith(f"--- patch of {__name__}.scaled\n")


def test_threads_see_whole_functions():
    wrong: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if (found := scaled(4)) not in (8, 9):
                wrong.append(found)

    watcher = threading.Thread(target=watch)
    watcher.start()

    for _ in range(100):
        with patch(scaled, [("y = x * by", "y = x * by\ny = plus(y, 1)")], {"plus": int.__add__}):
            pass
    done.set()
    watcher.join()
    assert not wrong and scaled(4) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            [("x * bye", "x")],
            r"'x \* bye' was found 0 times, not 1; its nearest lines are \['y",
        ),
        ([("y", "z")], r"'y' was found 2 times, not 1; give more of its surroundings"),
        ([("y", "x", 3)], r"found 2 times, not 3"),
        ([("", "x")], "a pattern is empty"),
        ([("x *", "x")], "is no Python"),
        ([("x * by", "return")], r"'x \* by' was found 0 times"),  # an expression is no statement
        ([("y = 100", "y ==== 1")], "is no Python"),
    ],
)
def test_a_change_that_cannot_be_made_is_named_and_nothing_happens(
    changes: list[Any], message: str
):
    before = scaled.__code__
    with pytest.raises(ConfigError, match=message):
        patch(scaled, changes).__enter__()
    assert scaled.__code__ is before


def test_more_matches_may_be_asked_for():
    with patch(scaled, [("y", "(y + 1)", 2)]):
        assert scaled(1) == 3


def test_what_has_no_source_is_refused():
    namespace: dict[str, Any] = {}
    exec("def made(x):\n    return x", namespace)
    for function in (len, namespace["made"], 3):
        with pytest.raises(Unsupported):
            patch(function, [("x", "y")]).__enter__()
    with pytest.raises(ConfigError, match="is not defined by a def"):
        patch(lambda x: x, [("x", "y")]).__enter__()


def test_a_function_of_another_version_is_refused():
    known = digest_of(scaled)
    with patch(scaled, [("x * by", "x")], known=[known]):
        assert digest_of(scaled) == known  # of the unpatched
    with pytest.raises(Unsupported, match=f"the function .{known}. is not one it was written for"):
        patch(scaled, [("x * by", "x")], known=["0123456789ab"]).__enter__()


def test_the_digest_is_of_the_code():
    def of(source: str) -> str:
        return syntax.digest(syntax.parse_function(source, "f"))

    assert of("def f(x):\n    return (x+1)  # why") == of('def f(x):\n    "Doc."\n    return x + 1')
    assert of("def f(x):\n    return x + 1") != of("def f(x):\n    return x + 2")
    assert of("def f(x): return x + 1") == of("    def f(x):\n        return x + 1")


# ---- a language model


def reading_scores(kept: list[Tensor]) -> AbstractContextManager[Patch]:
    """Keep what stands before the mask is added: scores behind the soft-cap."""

    def tap(scores: Tensor) -> Tensor:
        kept.append(scores)
        return scores

    change = ("attn_weights + attention_mask", "tap(attn_weights) + attention_mask")
    return patch(modeling_gemma2.eager_attention_forward, [change], {"tap": tap})


@torch.no_grad()
def test_scores_of_a_model_that_exists_are_read_and_its_logits_stay(tiny_model_folder: Path):
    model = load.load(load.Config(name=str(tiny_model_folder), device="cpu"))  # keeps hooks
    plain = model.lm(IDS, output_attentions=True)
    kept: list[Tensor] = []
    with reading_scores(kept):
        patched = model.lm(IDS, output_attentions=True)
    assert torch.equal(plain.logits, patched.logits) and len(kept) == model.n_layers
    assert len(patched.attentions) == model.n_layers  # transformers' own recording goes on
    causal = torch.full((IDS.shape[1], IDS.shape[1]), -torch.inf).triu(1)
    for scores, pattern in zip(kept, patched.attentions, strict=True):
        torch.testing.assert_close((scores + causal).softmax(-1), pattern)
    model.lm(IDS)
    assert len(kept) == model.n_layers  # gone


@torch.no_grad()
def test_the_stream_between_attention_and_mlp_can_be_written(tiny_model: Model):
    """A hook on the norm would reach the MLP alone; adding to attn_out must give the same."""
    shift = torch.randn(32, generator=torch.Generator().manual_seed(2))
    add = "hidden_states = residual + hidden_states\n"
    change = (
        f"{add}residual = hidden_states",
        f"{add}residual = hidden_states = hidden_states + shift",
    )
    with patch(modeling_gemma2.Gemma2DecoderLayer.forward, [change], {"shift": shift}):
        written = tiny_model.lm(IDS).logits
    edits = {Site("attn_out", layer): lambda x: x + shift for layer in range(tiny_model.n_layers)}
    added = tap.run(tiny_model, IDS, edits=edits, with_logits=True).logits
    assert added is not None
    torch.testing.assert_close(written, added, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(written, tiny_model.lm(IDS).logits, atol=1e-2)
