"""Whether torch.compile made code of a model, or of a part of it.

That code was traced with the hooks that were there at the time. It does not come by later ones, and
those that were there at its first call may stay in it.
"""

from torch.nn import Module

from panscope.errors import Unsupported


def refuse_compiled(lm: Module, name: str) -> None:
    """Raise Unsupported for a model in which anything is compiled."""
    waiting = [lm]
    while waiting:  # before every pass, so not by `modules()`, which takes four times as long
        module = waiting.pop()
        if _is_compiled(module):
            found = "is compiled, and compiled code does not see hooks that come after it"
            do = "tap the model that was compiled, or declare the sites before (model/static.py)"
            raise Unsupported(f"model {name}", found, do)
        waiting.extend(part for part in module._modules.values() if part is not None)


def _is_compiled(module: Module) -> bool:
    """Whether a module is what torch.compile returned, was compiled in place, or its `forward`."""
    own = vars(module)
    return (
        "_orig_mod" in module._modules
        or own.get("_compiled_call_impl") is not None
        or hasattr(own.get("forward"), "_torchdynamo_orig_callable")
    )
