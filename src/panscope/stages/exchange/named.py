"""What `panscope open` is given, taken apart: where to look, and what of it is meant.

hf://google/gemma-scope-2b-pt-res/layer_20/width_16k/canonical   of a repository, a folder
gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical     the same, as SAELens names it
./theirs                                                         all of a folder
./theirs/layer_*/ae.pt                                           of a folder, by a glob
"""

import re
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from panscope.stages.exchange.hub import HUB

CANONICAL = "canonical"


class Named(NamedTuple):
    """A source, as `hub.locate` takes it, and globs of what is meant below it; none for all."""

    source: str
    only: tuple[str, ...]

    @property
    def run(self) -> Path:
        """The run folder where nobody says another: in `runs`, by the name of the source."""
        is_here = not self.source.startswith(HUB)
        last = Path(self.source).resolve().name if is_here else PurePosixPath(self.source).name
        return Path("runs") / re.sub(r"[^\w.+]+", "-", "-".join((last, *self.only))).strip("-.")


def named(name: str, only: Iterable[str] = ()) -> Named:
    """Take a name apart; `only` are globs below what it names."""
    whole = _spelt_out(name)
    source, below = _of_hub(whole) if whole.startswith(HUB) else _of_disk(Path(whole))
    globs = tuple(f"{below}/{glob}" if below else glob for glob in only)
    return Named(source, globs or ((below,) if below else ()))


def _spelt_out(name: str) -> str:
    """Turn SAELens' name of a release of Gemma Scope, if no folder has it, into the Hub's."""
    release, slash, below = name.partition("/")
    if not release.startswith("gemma-scope-") or Path(release).exists():
        return name
    return f"{HUB}google/{release.removesuffix(f'-{CANONICAL}')}{slash}{below}"


def _of_hub(name: str) -> tuple[str, str]:
    owner, _, rest = name.removeprefix(HUB).strip("/").partition("/")
    repository, _, below = rest.partition("/")
    return f"{HUB}{owner}/{repository}".rstrip("/"), below


def _of_disk(path: Path) -> tuple[str, str]:
    """Split a path before its first part that is a glob, or a file."""
    plain = Path(
        *takewhile(lambda part: part != CANONICAL and not set(part) & set("*?["), path.parts)
    )
    folder = plain.parent if plain.is_file() else plain
    below = path.relative_to(folder).as_posix()
    return str(folder), "" if below == "." else below
