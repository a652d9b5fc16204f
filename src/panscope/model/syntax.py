"""Rewrite a function's syntax tree: find a pattern, put other code in its place.

A pattern is source text. One expression for one expression matches anywhere in the body where a
value is read; anything else is a run of whole statements. Spaces, comments, quotes and redundant
parentheses do not matter; names, constants and the order of operands do.
"""

import ast
import copy
import difflib
import hashlib
import textwrap
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from panscope.errors import ConfigError

FunctionDef = ast.FunctionDef | ast.AsyncFunctionDef


class Change(NamedTuple):
    """What is looked for and what takes its place, exactly `times` times; `after` may be empty."""

    before: str
    after: str
    times: int = 1


def parse_function(source: str, where: str) -> FunctionDef:
    """Return the tree of the function that a source, indented or not, begins with."""
    indented = source[:1].isspace()
    tree = ast.parse(f"if True:\n{source}" if indented else source)
    first = tree.body[0].body[0] if isinstance(tree.body[0], ast.If) else tree.body[0]
    if not isinstance(first, FunctionDef):
        raise ConfigError(where, "is not defined by a def statement", "patch a named function")
    first.decorator_list = []  # the function inside them is what changes
    return first


def rewritten(function: FunctionDef, change: Change, where: str) -> FunctionDef:
    """Return a copy of a function with a change made in its body.

    Raises ConfigError if the pattern is no Python or does not match exactly `times` times.
    """
    before, after = (_statements(text, where) for text in change[:2])
    if not before:
        raise ConfigError(where, "a pattern is empty", "give the code that is to be replaced")
    old, new = _expression(before), _expression(after)
    rewriter = _Values(old, new) if old and new else _Runs(before, after)
    body = rewriter.visit(ast.Module(copy.deepcopy(function.body), [])).body
    if rewriter.n_found != change.times:
        raise _mismatch(function, change, rewriter.n_found, where)
    made = copy.copy(function)
    made.body = body
    return made


def canonical(node: object) -> str:
    """Write a tree as text on which Python 3.11 to 3.13 agree: empty fields are left out."""
    if isinstance(node, list):
        return f"[{','.join(map(canonical, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
    return f"{type(node).__name__}({','.join(f'{n}={canonical(v)}' for n, v in fields)})"


@lru_cache(256)
def digest(function: FunctionDef) -> str:
    """Name a function by its code: the first 12 digits of a SHA-256, docstring left out."""
    bare = copy.deepcopy(function)
    if ast.get_docstring(bare) is not None:
        del bare.body[0]
    return hashlib.sha256(canonical(bare).encode()).hexdigest()[:12]


def difference(before: FunctionDef, after: FunctionDef, where: str) -> str:
    """Show what changed, as a unified diff."""
    old, new = (ast.unparse(tree).splitlines(keepends=True) for tree in (before, after))
    return "".join(difflib.unified_diff(old, new, where, f"{where}, patched"))


class _Values(ast.NodeTransformer):
    """Replaces every expression equal to one."""

    def __init__(self, old: ast.expr, new: ast.expr) -> None:
        self._old, self._new, self.n_found = canonical(old), new, 0

    def visit(self, node: ast.AST) -> Any:
        """Replace the node, or look inside it."""
        if isinstance(node, ast.expr) and canonical(node) == self._old:
            self.n_found += 1
            return copy.deepcopy(self._new)
        return self.generic_visit(node)


class _Runs(ast.NodeTransformer):
    """Replaces every run of statements equal to one, wherever statements stand in a list."""

    def __init__(self, old: list[ast.stmt], new: list[ast.stmt]) -> None:
        self._old, self._new, self.n_found = [canonical(s) for s in old], new, 0

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Look at the lists of statements that a node holds, the innermost first."""
        super().generic_visit(node)
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                setattr(node, name, self._replaced(value))
        return node

    def _replaced(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        """Replace the runs of one list; what would be empty gets a `pass`."""
        kept: list[ast.stmt] = []
        texts, i = [canonical(s) for s in statements], 0
        while i < len(statements):
            if texts[i : i + len(self._old)] == self._old:
                self.n_found += 1
                kept += copy.deepcopy(self._new)
                i += len(self._old)
            else:
                kept.append(statements[i])
                i += 1
        return kept or [ast.Pass()]


def _statements(text: str, where: str) -> list[ast.stmt]:
    try:
        return ast.parse(textwrap.dedent(text).strip()).body
    except SyntaxError as error:
        do = "write statements or an expression"
        raise ConfigError(where, f"{text.strip()!r} is no Python ({error.msg})", do) from error


def _expression(statements: Sequence[ast.stmt]) -> ast.expr | None:
    alone = statements[0] if len(statements) == 1 else None
    return alone.value if isinstance(alone, ast.Expr) else None


def _mismatch(function: FunctionDef, change: Change, n_found: int, where: str) -> ConfigError:
    """Say how often a pattern was found, and what in the function is like it."""
    found = f"{change.before.strip()!r} was found {n_found} times, not {change.times}"
    if n_found:
        return ConfigError(where, found, "give more of its surroundings, or the count")
    lines = [line.strip() for line in ast.unparse(function).splitlines()]
    first = ast.unparse(ast.parse(textwrap.dedent(change.before).strip())).splitlines()[0]
    close = difflib.get_close_matches(first, lines, n=3, cutoff=0.4)
    return ConfigError(
        where, found, f"its nearest lines are {close}" if close else "read its source"
    )
