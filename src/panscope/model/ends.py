"""Hooks at the ends of modules: reach what one reads or returns, and let it go on changed."""

from collections.abc import Callable
from typing import Any, Literal

from torch.nn import Module
from torch.utils.hooks import RemovableHandle

from panscope.model.families import unit

End = Literal["input", "output", "unit"]
Visit = Callable[[Any], Any]
"""Takes a value, and returns the one that the model goes on with."""


def register(module: Module, end: End, reach: Visit) -> RemovableHandle:
    """Put a hook onto a module; "unit" is a norm's input, normalised, and takes no edit."""
    if end == "unit":
        return module.register_forward_pre_hook(lambda norm, args: _read_unit(norm, args, reach))
    if end == "input":
        return module.register_forward_pre_hook(
            lambda _, args, named: into(args, named, reach), with_kwargs=True
        )
    return module.register_forward_hook(lambda _, __, output: through(output, reach))


def _read_unit(norm: Module, args: tuple[Any, ...], reach: Visit) -> None:
    """Reach what a norm scales; no edit is let in (`Family.read_only`), so nothing goes back."""
    reach(unit(norm, args[0]))


def into(args: tuple[Any, ...], named: dict[str, Any], reach: Visit) -> tuple[Any, dict[str, Any]]:
    """Reach a module's first argument, given by its place or by its name."""
    if args or not named:
        first, *others = args or [None]  # without any argument: to be refused as no tensor
        return (reach(first), *others), named
    name = next(iter(named))
    return args, {**named, name: reach(named[name])}


def through(output: Any, reach: Visit) -> Any:
    """Reach the value in a module's output: a tensor, a tuple that begins with one, or logits.

    transformers 5 layers return a tensor; older ones a tuple, whose first element is not the first
    row of a batch.
    """
    if isinstance(output, tuple):
        return (reach(output[0]), *output[1:])
    if not hasattr(output, "logits"):
        return reach(output)
    output.logits = reach(output.logits)
    return output
