"""Values inside the functions of transformers: where each is, and the patch that hands it over.

1. `Inside` rows say what is put into a function, and the digests of the functions that the row was
   written for: the table of all that depends on a version of transformers.
2. While a site is tapped its function is patched, once however many sites and passes want it.
3. The code put in looks for the running pass on the module that it runs in. Modules of other
   models, in this thread and in others, hold none: there it returns the value that it was given.
"""

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from torch import Tensor
from torch.nn import Module

from panscope.errors import Unsupported
from panscope.model.ends import Visit
from panscope.model.load import Model
from panscope.model.patch import digest_of, patch
from panscope.sites import HEAD_KINDS, SCORE_KINDS, Site

PASS = "_panscope_pass"
"""The attribute of a module that holds, by kind, what the pass does with its values."""


@dataclass(frozen=True, slots=True)
class Inside:
    """What is put into a function, and the digests of those that it was written for."""

    changes: tuple[tuple[str, str], ...]
    known: tuple[str, ...]


def _tap(module: str, kind: str, name: str) -> str:
    return f"{name} = reached({module}, {kind!r}, {name})\n"


def _taps_of_heads(*kinds: str) -> str:
    """Queries, keys, values have one name each, rotated or not."""
    names = {"q": "query_states", "k": "key_states", "v": "value_states"}
    return "".join(_tap("self", kind, names[kind[0]]) for kind in kinds)


def _scores(keys: str, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Tap an eager attention body that multiplies queries with `keys`."""
    scores = f"attn_weights = torch.matmul(query, {keys}) * scaling\n"
    drop = "attn_weights = nn.functional.dropout(attn_weights, p=dropout, training=module.training)"
    return (
        (scores, scores + _tap("module", "attn_scores", "attn_weights")),
        (drop, _tap("module", "attn_pattern", "attn_weights") + drop),
        *more,
    )


CAP = "attn_weights = attn_weights * softcap\n"
ROTATE = "query_states, key_states = apply_rotary_pos_emb(query_states, key_states, cos, sin)\n"
SPLIT = "query_states = query_states.view(shape_q).transpose(1, 2)\n"  # GPT-2, the last of three
ADD = "hidden_states = residual + hidden_states\n"
KEEP = "residual = hidden_states\n"
ADD_GPT2 = "hidden_states = attn_output + residual\n"
ADD_NEOX = "attn_output = attn_output + hidden_states\n"

# Digests: transformers 5.24 first, then older ones back to 5.4 where the function was another.
HEADS = (
    Inside(
        ((ROTATE, _taps_of_heads("q", "k", "v") + ROTATE + _taps_of_heads("q_rot", "k_rot")),),
        known=(
            *("abbd3a75bd8d", "4a2ca571bcad"),  # Gemma 2
            *("a090485963f5", "bf5cd66641cc"),  # Gemma 3
            *("a3923c9bba54", "7a869cf655c5"),  # Llama
            *("94b2c82bb597", "47896043700f"),  # Qwen 2
            *("423d6f25deb7", "d81bbd8cde01"),  # Qwen 3
            *("e0c3d9b75d90", "51cbbf5b2b50"),  # GPT-NeoX
        ),
    ),
    Inside(
        ((SPLIT, SPLIT + _taps_of_heads("q", "k", "v")),),
        known=("4fe573cc966a", "558066be5f6f", "b61bda790f7f"),  # GPT-2
    ),
)
SCORES = (
    Inside(
        _scores(
            "key_states.transpose(2, 3)",
            (CAP, CAP + _tap("module", "attn_scores_capped", "attn_weights")),
        ),
        known=("1f37ba4d4991",),  # Gemma
    ),
    Inside(_scores("key_states.transpose(2, 3)"), known=("06fdc39a89c2",)),  # Llama, Qwen
    Inside(_scores("key.transpose(-1, -2)"), known=("6d466edea5e9",)),  # GPT-2
    Inside(_scores("key.transpose(2, 3)"), known=("ef05418a5713",)),  # GPT-NeoX
)
# The stream is kept aside before the MLP's norm reads it: in between it can be written whole.
STREAM = (
    Inside(
        ((ADD + KEEP, ADD + _tap("self", "resid_mid", "hidden_states") + KEEP),),
        known=(
            *("60cc7a6c2a06", "fa54a0c3cdc9", "f512fc5243d6"),  # Gemma 2
            *("eec33bf60b89", "018f34528f9c", "1aac8806b6a5"),  # Gemma 3
            *("0cd4087d6eb8", "21ed0101d4b8"),  # Llama, Qwen
        ),
    ),
    Inside(
        ((ADD_GPT2, ADD_GPT2 + _tap("self", "resid_mid", "hidden_states")),),
        known=("3711471a697a", "38b3a7ced291", "e1638223549b"),  # GPT-2
    ),
    Inside(
        ((ADD_NEOX, ADD_NEOX + _tap("self", "resid_mid", "attn_output")),),
        known=("c5d5f11aa529", "789228054de7"),  # GPT-NeoX
    ),
)
ROWS = {**dict.fromkeys(HEAD_KINDS, HEADS), **dict.fromkeys(SCORE_KINDS, SCORES)}
ROWS["resid_mid"] = STREAM
DO = "install transformers 5.4 to 5.24, or read the function and add it to model/inside.py"


def reached(module: Module, kind: str, value: Tensor) -> Tensor:
    """Hand a value to the pass that runs in a module, if one does: the code put in calls this."""
    for reach in vars(module).get(PASS, {}).get(kind, ()):
        value = reach(value)
    return value


def is_known(model: Model, site: Site) -> bool:
    """Tell whether the function that holds a value is one that this table was written for."""
    return _row(_function(model, site), site) is not None


def refuse_unknown(model: Model, site: Site) -> None:
    """Raise Unsupported if the function that holds a value is of a version that nobody has read."""
    if not is_known(model, site):
        function = _function(model, site)
        name = f"{function.__module__}.{function.__qualname__}"
        found = f"transformers {version('transformers')} has another {name} ({digest_of(function)})"
        raise Unsupported(f"site {site}", found, DO)


@contextmanager
def reaching(model: Model, site: Site, reach: Visit) -> Iterator[None]:
    """Call `reach` with the value at a site while a with block lasts; the model goes on with it.

    Raises Unsupported for scores in a model whose attention does not keep them, and for a function
    that the table does not have.
    """
    if site.kind in SCORE_KINDS:
        _refuse_fused(model, site)
    refuse_unknown(model, site)
    function = _function(model, site)
    row = _row(function, site)
    assert row
    with _in_force(function, row), _seen_by(_module(model, site), site.kind, reach):
        yield


def _row(function: Any, site: Site) -> Inside | None:
    digest = digest_of(function)
    return next((row for row in ROWS[site.kind] if digest in row.known), None)


def _module(model: Model, site: Site) -> Module:
    """Return the module in whose function a value is: the layer's, or its attention's."""
    return model.module_at(Site("resid_post", site.layer) if site.kind == "resid_mid" else site)


def _function(model: Model, site: Site) -> Any:
    kind = type(_module(model, site))
    if site.kind not in SCORE_KINDS:
        return inspect.unwrap(kind.forward)
    body = getattr(sys.modules[kind.__module__], "eager_attention_forward", None)
    if body is None:
        found = f"transformers {version('transformers')} has no eager body in {kind.__module__}"
        raise Unsupported(f"site {site}", found, DO)
    return body


def _refuse_fused(model: Model, site: Site) -> None:
    config = model.lm.config.get_text_config()
    if config._attn_implementation != "eager":
        found = f"{model.name} was loaded with {config._attn_implementation}, which keeps no scores"
        do = 'load it with attention = "eager" in [model]'
        raise Unsupported(f"site {site}", found, do)
    if getattr(config, "reorder_and_upcast_attn", False):
        found = f"{model.name} computes attention in an order of its own"
        raise Unsupported(f"site {site}", found, "set reorder_and_upcast_attn to false")


_LOCK = threading.Lock()
_IN_FORCE: dict[Callable[..., Any], tuple[int, ExitStack]] = {}


@contextmanager
def _in_force(function: Any, row: Inside) -> Iterator[None]:
    """Keep a function patched as long as any pass wants it."""
    with _LOCK:
        n_users, stack = _IN_FORCE.get(function, (0, ExitStack()))
        if not n_users:
            stack.enter_context(patch(function, row.changes, {"reached": reached}, row.known))
        _IN_FORCE[function] = n_users + 1, stack
    try:
        yield
    finally:
        with _LOCK:
            n_users, stack = _IN_FORCE.pop(function)
            if n_users > 1:
                _IN_FORCE[function] = n_users - 1, stack
            else:
                stack.close()


@contextmanager
def _seen_by(module: Module, kind: str, reach: Visit) -> Iterator[None]:
    """Note on a module what the pass does with a kind of value; take it away at the end."""
    reaches = vars(module).setdefault(PASS, {}).setdefault(kind, [])
    reaches.append(reach)
    try:
        yield
    finally:
        reaches.remove(reach)
        if not any(vars(module)[PASS].values()):
            del vars(module)[PASS]
