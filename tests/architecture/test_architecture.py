"""The house keeps its shape: doors, floors that import-linter cannot see, docs for every name."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import panscope
from panscope.cli import main

ROOT = Path(panscope.__file__).parent
DOCS = ROOT.parent.parent / "docs"
DOORS = {
    "transformers": ("model/",),
    "tokenizers": ("model/",),
    "datasets": ("model/",),
    "pyarrow": ("atlas/",),
    "sqlite3": ("atlas/",),
    "fastapi": ("web/",),
    "uvicorn": ("web/",),
    "click": ("cli/",),
    "triton": ("kernels/gpu",),
    "ray": ("cluster.py",),
    "fsspec": ("place.py",),
    "huggingface_hub": ("model/quiet.py", "stages/exchange/hub.py"),
    "httpx2": ("stages/explain/client.py",),
}
NOT_MODULES = {"utils", "common", "helpers", "core", "base", "types", "constants", "registry"} | {
    "factory",
    "plugins",
    "runners",
    "services",
    "schemas",
    "callbacks",
    "legacy",
}


def imports(path: Path) -> Iterator[str]:
    """Yield the top-level packages a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_one_door(library: str):
    inside = [str(p.relative_to(ROOT)) for p in modules() if library in imports(p)]
    assert [name for name in inside if not name.startswith(DOORS[library])] == []
    assert inside, "a door that nobody uses"


@pytest.mark.parametrize("module", ["panscope.web.app", "panscope.atlas.queries", "panscope.cli"])
def test_browsing_needs_no_torch(module: str):
    check = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_the_root_holds_the_version_alone():
    assert list(imports(ROOT / "__init__.py")) == []


def test_no_module_is_named_for_nothing():
    names = {path.stem for path in modules()} | {path.parent.name for path in modules()}
    assert names.isdisjoint(NOT_MODULES)


def test_the_changelog_begins_with_this_version():
    text = (DOCS / "changelog.md").read_text(encoding="utf-8")
    heading = next(line for line in text.splitlines() if line.startswith("## "))
    assert panscope.__version__ in heading


def test_every_command_has_its_help_and_its_place_in_the_readme():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert isinstance(main, click.Group)
    for name, command in main.commands.items():
        assert command.help, name
        assert f"panscope {name}" in readme or f"[{name}]" in readme, name


NOUNS = ["model", "store", "suite", "atlas"]
VERBS = ["harvest", "train", "evaluate", "describe", "explain", "contrast", "exchange"]


@pytest.mark.parametrize("name", NOUNS + VERBS)
def test_every_noun_and_verb_has_its_page(name: str):
    assert (DOCS / f"{name}.md").is_file()
