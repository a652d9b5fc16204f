"""Whole files only: atomic writes, checksums, and the manifest that seals a folder.

An artefact is a folder with `manifest.json`: its kind, the format's version, the digests of the
configuration and of the inputs it was made from, and size and BLAKE3 checksum of every file. The
manifest is written last, so a folder without one was begun and not finished. Nothing reads a file
of an artefact without checking its bytes first.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3
from pydantic import BaseModel, ConfigDict

from panscope.config import Config, digest_of
from panscope.errors import ConfigError, Corrupt, Incomplete, NotFound, PanscopeError, Unsupported
from panscope.place import Buffer, Place, Where, pieces_of
from panscope.place import replacing as replacing  # for writers that stream into a path

MANIFEST = "manifest.json"
FORMAT_VERSION = 2
"""Files are named with `size_bytes` and `blake3`; format 1 began with `sha256` instead."""
MADE_BY = {"store": "harvest", "suite": "train", "atlas": "describe"}
REMEDY = "delete it and run the stage that wrote it again, or restore a copy"


class FileRecord(Config):
    """Size and BLAKE3 checksum of one file of an artefact."""

    size_bytes: int
    blake3: str


class Manifest(BaseModel):
    """What an artefact is, what it was made from, and the bytes it consists of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    format_version: int
    digest: str
    config: dict[str, Any]
    inputs: dict[str, str]
    facts: dict[str, Any]
    files: dict[str, FileRecord]


def artefact_digest(config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Name an artefact by what decides its content: configuration and input digests."""
    return digest_of({"config": dict(config), "inputs": dict(inputs)})


def blake3_of(where: Where) -> str:
    """Hash a file's bytes."""
    return blake3_in(Place.of(where).pieces())


def blake3_in(pieces: Iterable[Buffer]) -> str:
    """Hash bytes that come in pieces."""
    hashed = blake3(max_threads=blake3.AUTO)
    for piece in pieces:
        hashed.update(piece)
    return hashed.hexdigest()


def write_bytes(where: Where, data: bytes) -> None:
    """Write a file whole or not at all."""
    Place.of(where).write(data)


def write_json(where: Where, tree: object) -> None:
    """Write a tree of plain values as indented JSON, whole or not at all."""
    write_bytes(where, (json.dumps(tree, indent=1, sort_keys=True) + "\n").encode())


def seal(
    folder: Path,
    kind: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    facts: Mapping[str, Any],
) -> Manifest:
    """Checksum every file under `folder` and write the manifest that makes it an artefact.

    Hidden files (checkpoints, temporaries) are not part of an artefact.
    """
    records = {
        path.relative_to(folder).as_posix(): FileRecord(
            size_bytes=path.stat().st_size, blake3=blake3_of(path)
        )
        for path in visible_files(folder)
    }
    return seal_records(folder, kind, config, inputs, facts, records)


def seal_records(
    folder: Where,
    kind: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    facts: Mapping[str, Any],
    records: Mapping[str, FileRecord],
) -> Manifest:
    """Write the manifest of files whose checksums were taken when they were written."""
    manifest = Manifest(
        kind=kind,
        format_version=FORMAT_VERSION,
        digest=artefact_digest(config, inputs),
        config=dict(config),
        inputs=dict(inputs),
        facts=dict(facts),
        files=dict(records),
    )
    _write_manifest(Place.of(folder), manifest)
    return manifest


def with_facts(folder: Path, facts: Mapping[str, Any]) -> Manifest:
    """Replace the facts of a sealed artefact; its files and digest stay as they are."""
    manifest = read_manifest(folder).model_copy(update={"facts": dict(facts)})
    _write_manifest(Place.of(folder), manifest)
    return manifest


def visible_files(folder: Path) -> list[Path]:
    """List the files of an artefact's folder, in order, without manifest and hidden files."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path != folder / MANIFEST
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def read_manifest(folder: Where, kind: str | None = None) -> Manifest:
    """Read an artefact's manifest.

    Raises NotFound for no folder and for one of artefacts, Incomplete for no manifest, Corrupt for
    one that is damaged, Unsupported for another kind or format.
    """
    folder = Place.of(folder)
    if not folder.is_folder():
        made = f"; panscope {MADE_BY[kind]} makes one" if kind in MADE_BY else ""
        raise NotFound(str(folder), "no such folder", f"check the path{made}")
    if not (folder / MANIFEST).is_file():
        if below := artefacts_in(folder):
            do = f"give {' or '.join(sorted(map(str, below))[:4])}"
            raise NotFound(str(folder), "is no artefact, but has some in it", do)
        raise Incomplete(str(folder), "has no manifest.json", "run the stage that writes it again")
    manifest = _parsed(folder / MANIFEST)
    if kind is not None and manifest.kind != kind:
        raise Unsupported(
            str(folder), f"is {_one(manifest.kind)}", f"give the folder of {_one(kind)}"
        )
    return manifest


def _one(kind: str) -> str:
    """Name an artefact of a kind.

    >>> _one("atlas"), _one("suite")
    ('an atlas', 'a suite')
    """
    return f"an {kind}" if kind.startswith("a") else f"a {kind}"


def checked(folder: Path, manifest: Manifest, name: str) -> Path:
    """Return the path of an artefact's file after checking its bytes against the manifest."""
    problem = problem_with(folder / name, record_of(folder, manifest, name))
    if problem is not None:
        raise problem
    return folder / name


def checked_bytes(folder: Place, manifest: Manifest, name: str) -> Buffer:
    """Return the bytes of an artefact's file, mapped or fetched once, after checking them."""
    record, place = record_of(folder, manifest, name), folder / name
    problem = _size_problem(place, record)
    data = place.read() if problem is None else b""
    problem = problem or _checksum_problem(place, record, pieces_of(data))
    if problem is not None:
        raise problem
    return data


def record_of(folder: Where, manifest: Manifest, name: str) -> FileRecord:
    """Return what the manifest says of a file; NotFound if that is nothing."""
    record = manifest.files.get(name)
    if record is None:
        raise NotFound(f"{folder}/{name}", "is not in the manifest", "check the name")
    return record


def problem_with(where: Where, record: FileRecord) -> Corrupt | None:
    """Compare a file with its record; None if its bytes are the ones that were written."""
    place = Place.of(where)
    return _size_problem(place, record) or _checksum_problem(place, record, place.pieces())


def _size_problem(place: Place, record: FileRecord) -> Corrupt | None:
    if not place.is_file():
        return Corrupt(str(place), "is missing", REMEDY)
    size_bytes = place.size_bytes()
    if size_bytes != record.size_bytes:
        found = f"has {size_bytes} bytes, the manifest says {record.size_bytes}"
        return Corrupt(str(place), found, REMEDY)
    return None


def _checksum_problem(place: Place, record: FileRecord, pieces: Iterable[Buffer]) -> Corrupt | None:
    actual = blake3_in(pieces)
    if actual != record.blake3:
        found = f"blake3 is {actual[:12]}..., the manifest says {record.blake3[:12]}..."
        return Corrupt(str(place), found, REMEDY)
    return None


def verify(folder: Where) -> list[PanscopeError]:
    """Check every file of an artefact, or of each artefact below `folder`; list what is wrong."""
    artefacts = artefacts_in(folder)
    if not artefacts:
        read_manifest(folder)
    problems: list[PanscopeError] = []
    for place in artefacts:
        try:
            manifest = read_manifest(place)
        except PanscopeError as error:
            problems.append(error)
            continue
        found = (problem_with(place / name, r) for name, r in manifest.files.items())
        problems += [problem for problem in found if problem is not None]
    return problems


def artefacts_in(folder: Where) -> list[Place]:
    """List the folders at or below `folder` that have a manifest."""
    below = Place.of(folder).files_below()
    return [file.parent for file in below if file.name == MANIFEST]


def made(
    folder: Where, kind: str, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> Manifest | None:
    """Return the manifest of the artefact of this configuration and these inputs, if it is there.

    Raises ConfigError if `folder` holds another one: nothing finished is written over.
    """
    if not (Place.of(folder) / MANIFEST).is_file():
        return None
    manifest = read_manifest(folder, kind)
    if manifest.digest != artefact_digest(config, inputs):
        found = f"holds {_one(kind)} made from another recipe or input"
        raise ConfigError(str(folder), found, "choose another output or delete that folder")
    return manifest


def clear_unsealed(folder: Path, patterns: Iterable[str]) -> None:
    """Remove what an interrupted writer left in a folder without a manifest.

    That is files of its patterns, since all visible files of a folder are sealed and a stale one
    would pass for part of the artefact, and halves of files that a killed writer had not named.
    """
    if not (folder / MANIFEST).is_file():
        left = [path for pattern in (*patterns, "**/.*.tmp") for path in folder.glob(pattern)]
        for path in left:
            path.unlink()


def _parsed(place: Place) -> Manifest:
    """Parse a manifest and check it against the checksum it carries."""
    remedy = "run the stage that wrote it again"
    try:
        tree, written = parted(b"".join(place.pieces()))
        _refuse_another_format(place, tree)
        manifest = Manifest.model_validate(tree)
    except ValueError as error:  # JSON's, UTF-8's and pydantic's
        raise Corrupt(str(place), "is not a manifest", remedy) from error
    if written != digest_of(tree):
        raise Corrupt(str(place), "does not match its own checksum", remedy)
    return manifest


def parted(data: bytes) -> tuple[Any, Any]:
    """Part JSON from the checksum it carries; ValueError for what is no JSON."""
    tree = json.loads(data)
    written = tree.pop("checksum", None) if isinstance(tree, dict) else None
    return tree, written


def _refuse_another_format(place: Place, tree: Any) -> None:
    """Raise Unsupported for an earlier or later format, before its keys look like damage."""
    version = tree.get("format_version") if isinstance(tree, dict) else None
    if isinstance(version, int) and version != FORMAT_VERSION:
        found = f"has format {version}, this panscope reads {FORMAT_VERSION}"
        again = "delete it and run the stage that wrote it again, or use an earlier panscope"
        do = "upgrade panscope" if version > FORMAT_VERSION else again
        raise Unsupported(str(place.parent), found, do)


def _write_manifest(folder: Place, manifest: Manifest) -> None:
    """Write a manifest with a checksum of itself."""
    tree = manifest.model_dump(mode="json")
    write_json(folder / MANIFEST, {**tree, "checksum": digest_of(tree)})
