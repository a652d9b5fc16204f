"""The examples in docstrings and on the pages give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = sorted((ROOT / "docs").glob("*.md"))


def with_examples(paths: list[Path]) -> list[Path]:
    return [path for path in paths if "\n>>> " in path.read_text() or " >>> " in path.read_text()]


@pytest.mark.parametrize("path", with_examples(SOURCES), ids=lambda path: path.stem)
def test_docstrings(path: Path):
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    found = doctest.testmod(importlib.import_module(".".join(parts)))
    assert found.attempted and not found.failed


@pytest.mark.parametrize("path", with_examples(PAGES), ids=lambda path: path.stem)
def test_pages(path: Path):
    found = doctest.testfile(str(path), module_relative=False)
    assert found.attempted and not found.failed
