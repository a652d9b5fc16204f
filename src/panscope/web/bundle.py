"""Scripts for pages that are opened as files: modules are not loaded from there, one script is.

Knows the forms that our own modules use: imports of names from a file beside them, each on one
line, and `export` before a function, a class or a constant.
"""

import re
from collections.abc import Mapping
from pathlib import Path

_IMPORT = re.compile(r'^import (?:\{([^}]*)\} from )?"\./([\w.]+)";$', re.M)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const|let) (\w+))", re.M)


def bundle(folder: Path, entries: list[str], instead: Mapping[str, str] | None = None) -> str:
    """Join scripts with all that they import, each once and before who imports it.

    `instead` names files that stand in for others.
    """
    swapped = dict(instead or {})
    done: dict[str, str] = {}
    for entry in entries:
        _add(folder, entry, swapped, done)
    return "(() => {\nconst modules = {};\n" + "\n".join(done.values()) + "\n})();\n"


def _add(folder: Path, name: str, swapped: Mapping[str, str], done: dict[str, str]) -> None:
    name = swapped.get(name, name)
    if name in done:
        return
    text = (folder / name).read_text()
    for _, needed in _IMPORT.findall(text):
        _add(folder, needed, swapped, done)
    exported = ", ".join(_EXPORT.findall(text))
    body = _EXPORT.sub("", _IMPORT.sub(lambda found: _taken(found, swapped), text))
    done[name] = f'modules["{name}"] = (() => {{\n{body}\nreturn {{ {exported} }};\n}})();'


def _taken(found: re.Match[str], swapped: Mapping[str, str]) -> str:
    """Write an import as taking names out of what is there already."""
    names, file = found.groups()
    if names is None:
        return ""
    return f'const {{{names.replace(" as ", ": ")}}} = modules["{swapped.get(file, file)}"];'
