"""The recipe of a run whose suite was opened: what evaluate, describe and train need besides it.

TOML, for its reader to change. [train] begins at the Saes that were read and asks for their L0;
parts of what crosses layers, which no training here makes, are left out of it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from panscope import files
from panscope.sae.suite import Suite
from panscope.stages.exchange.foreign import Facts

OWNERS = {
    "gemma-": "google",
    "gpt2": "openai-community",
    "pythia-": "EleutherAI",
    "Llama-": "meta-llama",
    "Qwen": "Qwen",
}
L0_UNKNOWN = 50.0
"""Asked for where no file says an L0: between Gemma Scope 2's medium and large."""


def write_recipe(run: Path, suite: Suite, model: str | None, text: str) -> Path | None:
    """Write the recipe into a run folder, unless it has one; None where the model is not known.

    `model` is that of the files if None.
    """
    path, name = run / "recipe.toml", model or model_of_all(suite)
    if path.is_file():
        return path
    if name is None:
        return None
    files.write_bytes(path, recipe(suite, name, text).encode())
    return path


def model_of_all(suite: Suite) -> str | None:
    """Return the model that all Saes' files name; None if they name none, or several."""
    names = {fact.get("model") for fact in suite.facts.values()}
    name = names.pop() if len(names) == 1 else None
    return None if name is None else on_the_hub(name)


def on_the_hub(name: str) -> str:
    """Spell out a model's short name, as TransformerLens and SAELens write it.

    >>> on_the_hub("gpt2-small"), on_the_hub("gemma-2-2b"), on_the_hub("me/my-model")
    ('openai-community/gpt2', 'google/gemma-2-2b', 'me/my-model')
    """
    name = "gpt2" if name == "gpt2-small" else name
    owners = (owner for prefix, owner in OWNERS.items() if name.startswith(prefix))
    return f"{next(owners)}/{name}" if "/" not in name and name.startswith(tuple(OWNERS)) else name


def recipe(suite: Suite, model: str, text: str) -> str:
    """Write the recipe of a suite of a model, to be measured and described on a text."""
    products = [_product(fact) for fact in suite.facts.values() if _can_be_trained(fact)]
    begin = {"begin_from": str(suite.folder.resolve())} if products else {}
    first, *more = products or [_at_the_same_sites(suite)]
    sections = [
        ("[model]", {"name": model}),
        ("[text]", {"path": text}),
        ("[train]", {**begin, **first}),
        *(("[[train.more]]", product) for product in more),
    ]
    head = f"# Of the Saes of {suite.manifest.config['source']}.\n"
    return "\n".join([head, *(f"{name}\n{_lines(values)}" for name, values in sections)])


def _can_be_trained(fact: Facts) -> bool:
    ends = fact["reads"], fact["writes"]
    return "part_of" not in fact and (ends[0] == ends[1] or len(ends[0]) == len(ends[1]) == 1)


def _product(fact: Facts) -> dict[str, Any]:
    """Ask for a Sae like one that was read; its thresholds, if it has any, need jumprelu."""
    l0 = fact.get("l0") or fact.get("target_l0") or L0_UNKNOWN
    return {
        "kind": fact["kind"],
        "architecture": "topk" if fact["architecture"] == "topk" else "jumprelu",
        "sites": fact["reads"],
        **({"writes": fact["writes"]} if "transcoder" in fact["kind"] else {}),
        "widths": [fact["width"]],
        "target_l0": [min(float(l0), fact["width"] - 1.0)],
    }


def _at_the_same_sites(suite: Suite) -> dict[str, Any]:
    """Ask for autoencoders of what is read, where nothing that was read can be trained on."""
    sites = dict.fromkeys(site for fact in suite.facts.values() for site in fact["reads"])
    return {"sites": list(sites), "target_l0": [L0_UNKNOWN]}


def _lines(values: Mapping[str, Any]) -> str:
    return "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()
    )
