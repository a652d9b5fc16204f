"""Read foreign files into a Suite.

Reading goes file by file: what is chosen by name, then by what is in it. A file that no format
knows is passed over with a word, since folders hold optimisers and statistics too; one that a
format knows and that is not whole, or asks for what a Sae cannot do, ends the reading.
"""

import fnmatch
import re
import time
from collections.abc import Iterable, Mapping
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

STAGE = "exchange"
SUFFIXES = (".npz", ".safetensors", ".pt")
CANONICAL = "canonical"
BESIDE = ("sparsity", "examples", "activations_store_state", "activation_whitening")
"""What lies beside weights and is none: it is not fetched."""
USUAL = ("params", "sae_weights", "sae", "ae", "final")
"""What files of weights are called where the folder's name tells them apart."""
NAME_BYTES = 200  # of a Sae, which names a folder: those hold 255
THRESHOLDS_IN_A_SCALE = 32  # as in Saes trained here: the median lies at 2^-5 of the site's scale


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
    config, inputs = {"source": source, **wanted}, {"source": place.digest(names)}
    if files.made(into, KIND, config, inputs):
        emit(Finished(STAGE, 0.0, reused=True))
        return Suite.open(into)
    files.clear_unsealed(into, FILES)
    emit(Started(STAGE, len(names), "files"))
    facts: dict[str, dict[str, Any]] = {}
    for done, name in enumerate(names, 1):
        file = Foreign(place.fetched(name), name, source, ends)
        if fact := _taken(file, into, facts, emit):
            facts[fact["sae"]] = fact
        emit(Advanced(STAGE, done))
    if not facts:
        known = ", ".join(form.NAME for form in FORMATS)
        raise NotFound(source, "holds no Sae in a format we know", f"formats: {known}")
    in_order = sorted(facts.values(), key=lambda fact: Site.parse(fact["site"]).order)
    files.seal(into, KIND, config, inputs, {"saes": in_order})
    emit(Finished(STAGE, time.monotonic() - started))
    return Suite.open(into)


def _may_be_weights(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix in SUFFIXES and path.stem not in BESIDE


def _taken(
    file: Foreign, into: Path, taken: Mapping[str, Any], emit: Emit
) -> dict[str, Any] | None:
    """Write what a file holds into the suite; return its facts, None if no format knows it."""
    form = format_of(file)
    if form is None:
        emit(Warned(STAGE, f"{file.name} is in no format we know"))
        return None
    slide: Slide = form.read(file)
    _refuse_overflow(file, slide.sae)
    sae_id = f"{slide.sae.writes[0]}/{_name(file, slide.sae)}"
    if sae_id in taken:
        found = f"and {taken[sae_id]['file']} would both be {sae_id}"
        raise ConfigError(f"{file.source}: {file.name}", found, "read them apart, with --only")
    write_sae(into, sae_id, slide.sae)
    return {**_facts(sae_id, slide), "format": form.NAME, "source": file.source, "file": file.name}


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
    kinds = {(True, False): "autoencoder", (False, False): "transcoder"}
    facts: dict[str, Any] = {
        "sae": sae_id,
        "site": str(sae.writes[0]),
        "reads": [str(site) for site in sae.reads],
        "writes": [str(site) for site in sae.writes],
        "kind": kinds.get((sae.reads == sae.writes, sae.skip is not None), "skip_transcoder"),
        "width": sae.width,
        "scale": _scale(sae),
        **{key: value for key, value in slide.facts.items() if value is not None},
    }
    return facts if sae.k is None else {**facts, "target_l0": float(sae.k)}


def _scale(sae: Sae) -> float:
    """Guess the size of activations, in whose octaves `describe` counts; files do not say it."""
    threshold = float(sae.threshold.median())
    in_latents = float(sae.b_dec.norm() / sae.w_dec.norm(dim=1).median().clamp_min(1e-8))
    return THRESHOLDS_IN_A_SCALE * threshold if threshold > 0 else in_latents or 1.0


def _name(file: Foreign, sae: Sae) -> str:
    """Make the name of a Sae from its place, without what its site says already."""
    *folders, last = PurePosixPath(file.name).with_suffix("").parts
    parts = (folders or [Path(file.source).name]) if last in USUAL else [*folders, last]
    name = re.sub(r"[^\w+-]+", "_", "_".join(parts)).strip("_")
    name = name.encode()[-NAME_BYTES:].decode(errors="ignore")
    return name.removeprefix(f"layer_{sae.writes[0].layer}_") or "sae"


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
