"""Write a Suite's Saes, or an Atlas's features, as files of another library: all, or nothing."""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from panscope.atlas.features import Atlas
from panscope.atlas.notes import Notes
from panscope.errors import ConfigError
from panscope.files import read_manifest
from panscope.sae.suite import Suite
from panscope.stages.exchange.formats import writable
from panscope.stages.exchange.leaving import Leaving
from panscope.stages.exchange.run import SUFFIXES, chosen
from panscope.stages.exchange.shown import Exhibit


def write(
    artefact: Path, form: str, into: Path, only: Iterable[str], model: str | None
) -> list[Path]:
    """Write what an artefact holds in a foreign format; return the files of weights or features.

    `only` are globs of Saes' ids. `into` is there when all are written: what the format cannot
    hold leaves nothing. `model` is what the files call the model; none for what the run says.
    """
    if into.exists():
        raise ConfigError(str(into), "is there already", "choose another folder")
    kind = read_manifest(artefact).kind
    if kind not in ("suite", "atlas"):
        raise ConfigError(str(artefact), f"is a {kind}", "give a suite or an atlas")
    with _whole(into) as folder:
        (_write_features if kind == "atlas" else _write_saes)(artefact, form, folder, only, model)
    return sorted(path for path in into.rglob("*") if path.suffix in (*SUFFIXES, ".json", ".gz"))


def _write_saes(
    artefact: Path, form: str, into: Path, only: Iterable[str], model: str | None
) -> None:
    suite, module = Suite.open(artefact), writable(form, "suite")
    for name in chosen(str(artefact), list(suite.names), only):
        facts = suite.facts[name]
        leaving = Leaving(name, facts, model or facts.get("model") or model_of(artefact))
        module.write(suite.load(name), leaving, into)


def _write_features(
    artefact: Path, form: str, into: Path, only: Iterable[str], model: str | None
) -> None:
    atlas, module = Atlas(artefact), writable(form, "atlas")
    named = model or str(atlas.manifest.facts.get("model", {}).get("name", "unnamed"))
    saes = [atlas.saes[name] for name in chosen(str(artefact), list(atlas.saes), only)]
    with closing(Notes.reading(artefact.absolute().parent / "notes.sqlite")) as notes:
        module.write(Exhibit(atlas, notes, named.rpartition("/")[2]), saes, into)


@contextmanager
def _whole(into: Path) -> Iterator[Path]:
    """Yield a folder beside `into` that takes its name at the end, and is removed on a failure."""
    beside = into.with_name(f".{into.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        yield beside
        beside.rename(into)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def model_of(folder: Path) -> str | None:
    """Return the name of the model an artefact is of: its run's recipe says, if it is in a run."""
    recipe = folder.parent / "recipe.json"
    if not recipe.is_file():
        return None
    name: str | None = json.loads(recipe.read_bytes()).get("model", {}).get("name")
    return name
