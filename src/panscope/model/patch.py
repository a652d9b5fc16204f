"""Patch the source of one function while a with block lasts, for values that no module returns.

1. The function inside all decorators is found, and its tree read from its source.
2. Changes are made to the tree (`syntax`), each exactly as often as it says.
3. The new tree is compiled, and the function's code is swapped for it: not the function, nor its
   class. Models that exist, subclasses, decorators and pickles go on working, and see the change.
4. At the end the code that was there comes back.

Several patches of one function apply in the order in which they were made and end in any. All of it
is for the whole process: a value that is to be seen for one model alone must be told by the code
that is put in. Nothing here knows of torch: JAX and plain Python are patched alike.
"""

import ast
import inspect
import itertools
import linecache
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType, FunctionType, MappingProxyType, MethodType
from typing import Any

from panscope.errors import ConfigError, Unsupported
from panscope.model.syntax import (
    Change,
    FunctionDef,
    difference,
    digest,
    parse_function,
    rewritten,
)

NO_NAMES: Mapping[str, object] = MappingProxyType({})
REMEMBERED = 256
"""How many trees and codes are kept: making one takes 10 ms, a pass of a small model no longer."""


@dataclass(eq=False, slots=True)
class Patch:
    """A patch that is in force; `source` is the whole function's, as this patch left it."""

    where: str
    changes: tuple[Change, ...]
    names: Mapping[str, object]
    before: FunctionDef
    after: FunctionDef

    @property
    def source(self) -> str:
        """The function as it runs."""
        return ast.unparse(self.after)

    def diff(self) -> str:
        """Show what this patch changed."""
        return difference(self.before, self.after, self.where)


@dataclass(slots=True)
class _Patched:
    """A function that has patches: what it was, and what is in force."""

    code: CodeType
    tree: FunctionDef
    patches: list[Patch] = field(default_factory=list)


_LOCK = threading.RLock()
_PATCHED: dict[FunctionType, _Patched] = {}
_NUMBERS = itertools.count(1)


@contextmanager
def patch(
    function: Any,
    changes: Sequence[tuple[str, str] | tuple[str, str, int]],
    names: Mapping[str, object] = NO_NAMES,
    known: Collection[str] = (),
) -> Iterator[Patch]:
    """Change a function's source for the length of a with block.

    Each change is (before, after) or (before, after, times). `names` are objects that the code put
    in may use beside what the function sees. `known` lists the digests (`digest_of`) of the
    functions that the changes were written for; empty takes any.

    Raises ConfigError for a change that is no Python, does not match `times` times, or uses other
    variables of an enclosing function; Unsupported for a function of another digest, or without
    source.

    >>> def area(width, height):
    ...     return width * height
    >>> with patch(area, [("width * height", "seen(width * height)")], {"seen": lambda x: -x}):
    ...     area(2, 3)
    -6
    >>> area(2, 3)
    6
    """
    inner = _inner(function)
    with _LOCK:
        tree = _state(inner).tree
        made = Patch(_name(inner), tuple(Change(*c) for c in changes), names, tree, tree)
        _install(inner, made, known)
    try:
        yield made
    finally:
        with _LOCK:
            _undo(inner, made)


def digest_of(function: Any) -> str:
    """Return the digest that names a function's unpatched code, the same on every Python.

    >>> def double(x):
    ...     return 2 * x
    >>> digest_of(double)
    '9fe00b05e300'
    """
    inner = _inner(function)
    with _LOCK:
        return digest(_state(inner).tree)


def _inner(function: Any) -> FunctionType:
    """Return the function inside decorators and methods."""
    inner = inspect.unwrap(function.__func__ if isinstance(function, MethodType) else function)
    if not isinstance(inner, FunctionType):
        found = f"a {type(inner).__name__} has no Python code"
        raise Unsupported(f"patch of {function!r}", found, "patch a function or method")
    return inner


def _name(function: FunctionType) -> str:
    return f"patch of {function.__module__}.{function.__qualname__}"


def _state(function: FunctionType) -> _Patched:
    """Return what is known of a function; reads its source if it has no patch."""
    if function in _PATCHED:
        return _PATCHED[function]
    return _Patched(function.__code__, _read(function, function.__code__))


@lru_cache(REMEMBERED)
def _read(function: FunctionType, code: CodeType) -> FunctionDef:
    try:
        source = inspect.getsource(code)
    except (OSError, TypeError) as error:
        do = "patch a function that a file defines"
        raise Unsupported(_name(function), "its source cannot be read", do) from error
    return parse_function(source, _name(function))


def _install(function: FunctionType, made: Patch, known: Collection[str] = ()) -> None:
    """Put a patch on what the function is now."""
    state = _state(function)
    _refuse_another(state.tree, known, made.where)
    made.before = made.after = state.patches[-1].after if state.patches else state.tree
    made.after = _changed(made.before, made.changes, made.where)
    names = _bound(state, made)
    code, marks = _compiled(function, state.code, made.after, tuple(names))
    function.__code__ = _with_constants(code, {marks[name]: names[name] for name in names})
    state.patches.append(made)
    _PATCHED[function] = state


@lru_cache(REMEMBERED)
def _changed(tree: FunctionDef, changes: tuple[Change, ...], where: str) -> FunctionDef:
    for change in changes:
        tree = rewritten(tree, change, where)
    return tree


def _refuse_another(tree: FunctionDef, known: Collection[str], where: str) -> None:
    if known and digest(tree) not in known:
        found = f"the function ({digest(tree)}) is not one it was written for ({', '.join(known)})"
        do = "compare the sources, then add its digest to `known`, or install the version before"
        raise Unsupported(where, found, do)


def _undo(function: FunctionType, ended: Patch) -> None:
    """Bring back the code without one patch: later ones are made again on what is left.

    Raises ConfigError if one of them was written on the ended patch: it, and those behind it, have
    then ended too.
    """
    state = _PATCHED.pop(function, None)
    if state is None:
        return
    function.__code__ = state.code
    for one in state.patches:
        if one is not ended:
            try:
                _install(function, one)
            except ConfigError as error:
                found = f"ended before one that needs it, which has ended with it ({error.args[1]})"
                raise ConfigError(ended.where, found, "end the later one first") from error


def _bound(state: _Patched, made: Patch) -> dict[str, object]:
    """Join the names of all patches; refuse one that means something else already."""
    names = {name: value for one in state.patches for name, value in one.names.items()}
    own = {node.id for node in ast.walk(state.tree) if isinstance(node, ast.Name)}
    own |= {node.arg for node in ast.walk(state.tree) if isinstance(node, ast.arg)}
    for name, value in made.names.items():
        if name in own or names.get(name, value) is not value:
            found = f"{name!r} means something else in the function already"
            raise ConfigError(made.where, found, "give it another name")
    return {**names, **made.names}


@lru_cache(REMEMBERED)
def _compiled(
    function: FunctionType, original: CodeType, after: FunctionDef, names: tuple[str, ...]
) -> tuple[CodeType, Mapping[str, str]]:
    """Compile a patched tree to code that can stand in the function's place, but for its names.

    Around it stand a function with the same free variables, and the class for its private names.
    Names that came with patches are to become constants, so that no global of anybody's is touched:
    returned beside the code are the strings that stand for them.
    """
    where, source = _name(function), ast.unparse(after)
    file = f"<{where}, {next(_NUMBERS)}>"
    marks = {name: f"panscope-{i}-{name}" for i, name in enumerate(names)}
    scope = _around(function, original, _Marked(marks).visit(ast.parse(source)).body)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # a marked call looks like a string's
        module = compile(scope, file, "exec")
    code = _of_function(module, function.__code__.co_name)
    if code.co_freevars != original.co_freevars:
        found = f"it uses {code.co_freevars} of what encloses it, and was compiled with "
        do = "use the same variables of the enclosing function, all of them"
        raise ConfigError(where, found + str(original.co_freevars), do)
    lines = source.splitlines(keepends=True)
    linecache.cache[file] = (len(source), None, lines, file)  # for tracebacks and debuggers
    return code, marks


class _Marked(ast.NodeTransformer):
    """Puts a string of its own for each name that is to become a constant."""

    def __init__(self, marks: Mapping[str, str]) -> None:
        self._marks = marks

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Mark the name if it is one of those."""
        if node.id not in self._marks:
            return node
        return ast.copy_location(ast.Constant(self._marks[node.id]), node)


def _around(function: FunctionType, original: CodeType, body: list[ast.stmt]) -> ast.Module:
    """Put what enclosed the function around its tree."""
    owner = function.__qualname__.split(".")[-2:-1]
    is_method = bool(owner) and owner[0] != "<locals>"
    outer = [name for name in original.co_freevars if not (is_method and name == "__class__")]
    inside = f" class {owner[0]}:\n  pass" if is_method else " pass"
    scope = ast.parse(f"def enclosing({', '.join(outer)}):\n{inside}")
    place: Any = scope.body[0]
    (place.body[0] if is_method else place).body = body
    return scope


def _of_function(code: CodeType, name: str) -> CodeType:
    """Find the code of the first function of a name, outermost first."""
    level = [code]
    while level:
        if found := next((one for one in level if one.co_name == name), None):
            return found
        level = [c for one in level for c in one.co_consts if isinstance(c, CodeType)]
    raise AssertionError(name)


def _with_constants(code: CodeType, values: Mapping[str, object]) -> CodeType:
    """Put objects where their marks are, in functions inside too."""

    def real(constant: object) -> Any:
        if isinstance(constant, CodeType):
            return _with_constants(constant, values)
        return values.get(constant, constant) if isinstance(constant, str) else constant

    return code.replace(co_consts=tuple(map(real, code.co_consts)))
