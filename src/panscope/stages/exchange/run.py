"""Read foreign files into a Suite.

Reading goes file by file: what is chosen by name, then by what is in it. A file that no format
knows is passed over with a word, since folders hold optimisers and statistics too; one that a
format knows and that is not whole, or asks for what a Sae cannot do, ends the reading.
"""

import fnmatch
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from panscope import files
from panscope.errors import ConfigError, Corrupt, NotFound, nearest
from panscope.events import Advanced, Emit, Finished, Started, Warned
from panscope.sae.sae import WEIGHTS, Sae
from panscope.sae.suite import FILES, KIND, Suite, write_sae
from panscope.sites import Site
from panscope.stages.exchange import gemma_scope, hub
from panscope.stages.exchange.arrays import RESTORE
from panscope.stages.exchange.foreign import LARGEST, Ends, Foreign, Slide
from panscope.stages.exchange.formats import FORMATS, format_of
from panscope.stages.exchange.named import CANONICAL

STAGE = "exchange"
SUFFIXES = (".npz", ".safetensors", ".pt")
BESIDE = ("sparsity", "examples", "activations_store_state", "activation_whitening")
"""What lies beside weights and is none: it is not fetched."""
MOST_UNCHOSEN = 8
"""Files that are fetched unasked: one repository of Gemma Scope has 316, of 300 MB and more."""
USUAL = ("params", "sae_weights", "sae", "ae", "final")
"""What files of weights are called where the folder's name tells them apart."""
NAME_BYTES = 200  # of a Sae, which names a folder: those hold 255


def read(
    source: str,
    into: Path,
    only: Iterable[str],
    ends: Ends,
    emit: Emit,
    revision: str | None = None,
) -> Suite:
    """Read a folder or `hf://owner/name` into a suite; one that was read already is reused.

    `only` are globs of files below the source, or of their folders; `canonical` in place of an L0
    is Gemma Scope's pick. `ends` says what Saes read and write where the files do not.
    """
    started = time.monotonic()
    wanted = {"only": list(only), **ends._asdict(), "revision": revision}
    place = hub.locate(source, revision)
    names = chosen(source, [name for name in place.names if _may_be_weights(name)], wanted["only"])
    _refuse_ours(source, place.names, names)
    if isinstance(place, hub.Repository) and not wanted["only"]:
        _refuse_many(source, names)
    config, inputs = {"source": source, **wanted}, {"source": place.digest(names)}
    if files.made(into, KIND, config, inputs):
        emit(Finished(STAGE, 0.0, reused=True))
        return Suite.open(into)
    files.clear_unsealed(into, FILES)
    found = (Foreign(place.fetched(name), name, source, ends) for name in names)
    facts = _all_taken(found, len(names), into, emit)
    if not facts:
        known = ", ".join(form.NAME for form in FORMATS)
        raise NotFound(source, "holds no Sae in a format we know", f"formats: {known}")
    _warn_of_missing_parts(facts, emit)
    files.seal(into, KIND, config, inputs, {"saes": facts})
    emit(Finished(STAGE, time.monotonic() - started))
    return Suite.open(into)


def _refuse_ours(source: str, names: Iterable[str], chosen: Iterable[str]) -> None:
    """Raise ConfigError for Saes of a suite: our weights have the names of Gemma Scope 2's."""
    ours = {str(PurePosixPath(name).with_name("sae.json")) for name in chosen}
    if ours & set(names) and files.MANIFEST in {PurePosixPath(name).name for name in names}:
        do = f"use it as it is, or, on the Hub, panscope pull {source}"
        raise ConfigError(source, "holds a suite of panscope", do)


def _refuse_many(source: str, names: list[str]) -> None:
    """Raise ConfigError where a whole repository would be fetched that nobody chose from."""
    if len(names) > MOST_UNCHOSEN:
        some = PurePosixPath(names[0]).parent
        do = f"choose, such as {source}/{some}, or write {source}/* for all"
        raise ConfigError(source, f"holds {len(names)} files of weights", do)


def _may_be_weights(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix in SUFFIXES and path.stem not in BESIDE


def _all_taken(
    found: Iterable[Foreign], n_files: int, into: Path, emit: Emit
) -> list[dict[str, Any]]:
    """Write what files hold into the suite; return its facts, in the order of a forward pass."""
    emit(Started(STAGE, n_files, "files"))
    facts: dict[str, dict[str, Any]] = {}
    for done, file in enumerate(found, 1):
        for fact in _taken(file, into, facts, emit):
            facts[fact["sae"]] = fact
        emit(Advanced(STAGE, done))
    return sorted(facts.values(), key=lambda fact: Site.parse(fact["site"]).order)


def _taken(
    file: Foreign, into: Path, taken: Mapping[str, Any], emit: Emit
) -> Iterator[dict[str, Any]]:
    """Write what a file holds into the suite; yield its facts, nothing if no format knows it."""
    form = format_of(file)
    if form is None:
        emit(Warned(STAGE, f"{file.name} is in no format we know"))
        return
    slides: list[Slide] = form.read(file)
    for slide in slides:
        _refuse_overflow(file, slide.sae)
        sae_id = f"{slide.sae.writes[0]}/{_name(file, slide)}"
        if sae_id in taken:
            found = f"and {taken[sae_id]['file']} would both be {sae_id}"
            raise ConfigError(f"{file.source}: {file.name}", found, "read them apart, with --only")
        write_sae(into, sae_id, slide.sae)
        origin = {"format": form.NAME, "source": file.source, "file": file.name}
        yield {**_facts(sae_id, slide), **origin}


def _warn_of_missing_parts(facts: Iterable[Mapping[str, Any]], emit: Emit) -> None:
    """Say where some parts of a whole were not read: what the others rebuild is not all."""
    wholes = {fact["part_of"]: fact["parts"] for fact in facts if "part_of" in fact}
    read = Counter(fact.get("part_of") for fact in facts)
    for whole, n_parts in wholes.items():
        if read[whole] < n_parts:
            text = f"{read[whole]} of the {n_parts} parts of {whole} were read"
            emit(Warned(STAGE, f"{text}: what they rebuild adds up to less than all"))


def _refuse_overflow(file: Foreign, sae: Sae) -> None:
    """Raise Corrupt where numbers, folded into each other, are none or too large to work with."""
    for name in (*WEIGHTS, "skip"):
        weight = getattr(sae, name)
        largest = 0.0 if weight is None else float(weight.abs().max())
        if not largest <= LARGEST:
            found = f"makes a {name} of up to {largest:.3g}, when all is folded into weights"
            raise Corrupt(str(file.path), found, RESTORE)


def _facts(sae_id: str, slide: Slide) -> dict[str, Any]:
    """Say what the manifest holds of a Sae: as of our own, as far as it is known."""
    sae = slide.sae
    facts: dict[str, Any] = {
        "sae": sae_id,
        "site": str(sae.writes[0]),
        "reads": [str(site) for site in sae.reads],
        "writes": [str(site) for site in sae.writes],
        "kind": _kind(sae),
        "width": sae.width,
        **{key: value for key, value in slide.facts.items() if value is not None},
    }
    facts |= {} if sae.size is None else {"size": sae.size}
    return facts if sae.k is None else {**facts, "target_l0": float(sae.k)}


def _kind(sae: Sae) -> str:
    if len(sae.reads) > 1 or len(sae.writes) > 1:
        return "crosscoder"
    kinds = {(True, False): "autoencoder", (False, False): "transcoder"}
    return kinds.get((sae.reads == sae.writes, sae.skip is not None), "skip_transcoder")


def _name(file: Foreign, slide: Slide) -> str:
    """Make the name of a Sae from its place, without what its site says already."""
    *folders, last = PurePosixPath(file.name).with_suffix("").parts
    is_usual = last in USUAL or last.startswith("params_layer_")
    parts = (folders or [Path(file.source).name]) if is_usual else [*folders, last]
    if "part_of" in slide.facts:
        parts.append(f"from_{slide.sae.reads[0].layer}")
    name = re.sub(r"[^\w+-]+", "_", "_".join(parts)).strip("_")
    name = name.encode()[-NAME_BYTES:].decode(errors="ignore")
    return name.removeprefix(f"layer_{slide.sae.writes[0].layer}_") or "sae"


def chosen(source: str, names: list[str], only: Iterable[str]) -> list[str]:
    """Return the names that some pattern matches, all without patterns.

    Raises NotFound for a pattern that matches nothing.
    """
    patterns = list(only)
    picked: set[str] = set()
    for pattern in patterns:
        wide = re.sub(rf"(^|/){CANONICAL}$", r"\1average_l0_*", pattern)
        hits = [name for name in names if _is_at(name, wide)]
        hits = gemma_scope.canonical(hits) if wide != pattern else hits
        if not hits:
            places = [name.rpartition("/")[0] or name for name in names]
            raise NotFound(source, f"has nothing at {pattern!r}", nearest(pattern, places))
        picked |= set(hits)
    return [name for name in names if name in picked or not patterns]


def _is_at(name: str, pattern: str) -> bool:
    """Whether a pattern means a file, or a folder that it is in."""
    steps = name.split("/")
    places = ("/".join(steps[:n]) for n in range(1, len(steps) + 1))
    return any(fnmatch.fnmatchcase(place, pattern) for place in places)
