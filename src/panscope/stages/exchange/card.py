"""The card of an artefact on the Hub: README.md, written from its manifest alone."""

import json
from typing import Any

from panscope import __version__
from panscope.files import Manifest

COLUMNS = {"l0": "L0", "fvu": "FVU", "delta_loss": "delta loss (nats)", "dead_share": "dead"}
READ = """```python
from pathlib import Path
from panscope.sae.suite import Suite

suite = Suite.open(Path("suite"))
sae = suite.load(suite.names[0])
```"""


def card(manifest: Manifest, model: str | None, licence: str) -> str:
    """Write what an artefact is, how well its Saes do, what made it, and how to read it."""
    saes = manifest.facts.get("saes", [])
    about = f"A {manifest.kind} of {len(saes)} sparse autoencoders" + (
        f" of {model}" if model else ""
    )
    address = "hf://owner/name" if manifest.kind == "suite" else "hf://datasets/owner/name"
    parts = [
        _head(licence, model),
        f"# {manifest.kind.capitalize()} {manifest.digest[:12]}",
        f"{about}, written by panscope {__version__}.",
        f"    panscope pull {address} {manifest.kind}",
        READ if manifest.kind == "suite" else "",
        "## Saes",
        _table(saes),
        "## Made from",
        "\n".join(f"- {name}: `{digest}`" for name, digest in manifest.inputs.items()),
        "## Recipe",
        f"```json\n{json.dumps(manifest.config, indent=1)}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(licence: str, model: str | None) -> str:
    lines = [f"license: {licence}", "library_name: panscope", "tags: [sparse-autoencoder]"]
    if model and "/" in model:
        lines.append(f"base_model: {json.dumps(model)}")
    return "\n".join(["---", *lines, "---"])


def _table(saes: list[dict[str, Any]]) -> str:
    """Lay the Saes out, with those of the columns that some of them has."""
    measured = [name for name in COLUMNS if any(name in sae.get("metrics", {}) for sae in saes)]
    head = ["Sae", "width", *(COLUMNS[name] for name in measured)]
    rows = [
        [f"`{sae['sae']}`", str(sae["width"]), *(_shown(sae, name) for name in measured)]
        for sae in saes
    ]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(sae: dict[str, Any], name: str) -> str:
    value = sae.get("metrics", {}).get(name)
    return "" if value is None else f"{value:.3g}"
