"""The firings of a text, written down piece by piece until features are made of them.

    atlas/.firings/
      piece-00007/
        <site>/<name>.safetensors   what fired of a Sae: firings a token, latents, values
        rows.safetensors            token ids, documents, which tokens are masked
        piece.json                  kinds, checksums; written last
      told/<site>/<name>.json       what is said of a Sae whose features are written
      text.json                     how many pieces the text has

A piece is a fixed number of forward passes and depends on nothing but them: whichever worker writes
it, and after whatever interruption, its bytes are the same. It costs 8 bytes a firing on the disk;
in memory one piece of all Saes is held while it is written. Nobody waits for the disk: what a crash
of the machine has lost is found by its checksum, and read again.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from panscope import files
from panscope.atlas.features import FEATURE_SCHEMA
from panscope.config import Config
from panscope.errors import Corrupt, Incomplete
from panscope.files import FileRecord
from panscope.kernels.firings import Codes
from panscope.kernels.pairs import Pairs
from panscope.model.text import Rows
from panscope.noted import read_note, write_note
from panscope.place import Place, write_unsynced
from panscope.store.tensors import parts_of, tensors_in

FOLDER = ".firings"
ROWS = "rows.safetensors"
SEAL = "piece.json"
TOLD = "told"
COLUMNS = tuple(FEATURE_SCHEMA.names)


class Seal(Config):
    """What a piece holds: the rows from `first_row` on, their kinds, and the files' checksums."""

    key: str
    first_row: int
    kinds: tuple[str, ...]
    files: dict[str, FileRecord]


class Told(Config):
    """What is said of a Sae in the manifest, the contexts its examples are in, and its file."""

    key: str
    facts: dict[str, Any]
    contexts: tuple[int, ...]
    file: FileRecord
    columns: tuple[str, ...] = ()
    """Of the file; earlier versions did not say, and wrote fewer."""


Note = Seal | Told


class Extent(Config):
    """How many pieces the text has."""

    key: str
    n_pieces: int


@dataclass(frozen=True, slots=True)
class Log:
    """The firings of one description, whose configuration and inputs `key` names."""

    folder: Path
    key: str

    @classmethod
    def of(cls, atlas: Path, key: str) -> "Log":
        """Place the log of an atlas that is being made."""
        return cls(atlas / FOLDER, key)

    def write(
        self,
        number: int,
        first_row: int,
        rows: Sequence[Rows],
        pairs: Mapping[str, Sequence[Pairs]],
    ) -> None:
        """Write a piece: its rows, and the pairs of each Sae, pass by pass."""
        piece = self._piece(number)
        told = {ROWS: _of_rows(rows)} | {f"{sae}.safetensors": _of(p) for sae, p in pairs.items()}
        records = {name: _saved(piece / name, tensors) for name, tensors in told.items()}
        kinds = tuple(kind for passed in rows for kind in passed.kinds)
        seal = Seal(key=self.key, first_row=first_row, kinds=kinds, files=records)
        write_note(piece / SEAL, seal)

    def has(self, number: int) -> bool:
        """Say whether a piece is there."""
        return self._seal(number) is not None

    def drop_damaged(self) -> Iterator[Corrupt]:
        """Check every byte; yield what is wrong, with the piece or the note it is in taken out."""
        kinds: dict[str, type[Note]] = {f"piece-*/{SEAL}": Seal, f"{TOLD}/**/*.json": Told}
        for pattern, kind in kinds.items():
            for path in sorted(self.folder.glob(pattern)):
                if problem := _problem_with(path, kind):
                    path.unlink(missing_ok=True)
                    yield problem

    def end(self, n_pieces: int) -> None:
        """Note how many pieces the text has."""
        write_note(self.folder / "text.json", Extent(key=self.key, n_pieces=n_pieces))

    def pieces(self) -> list[tuple[Seal, Rows]]:
        """Return every piece's seal and rows; Incomplete if one is missing."""
        return [(seal, self._rows(number, seal)) for number, seal in self._sealed()]

    def codes(self, sae: str, width: int) -> list[Codes]:
        """Return what fired of a Sae, piece by piece: its bytes are checked, and mapped."""
        return [
            _codes(self._checked(number, seal, f"{sae}.safetensors"), width)
            for number, seal in self._sealed()
        ]

    def tell(self, sae: str, facts: dict[str, Any], contexts: Sequence[int], path: Path) -> None:
        """Note that a Sae's features are written to `path`."""
        record = FileRecord(size_bytes=path.stat().st_size, blake3=files.blake3_of(path))
        contexts = tuple(contexts)
        told = Told(key=self.key, facts=facts, contexts=contexts, file=record, columns=COLUMNS)
        write_note(self._told(sae), told)

    def told(self, sae: str, path: Path) -> Told | None:
        """Return what is noted of a Sae whose features are at `path`; None if they are not.

        Features with the columns of another version are made again: an atlas has all of one kind.
        Raises Corrupt for a note that is damaged.
        """
        told = read_note(Told, self._told(sae))
        if told is None or (told.key, told.columns) != (self.key, COLUMNS):
            return None
        return None if files.problem_with(path, told.file) else told

    def remove(self) -> None:
        """Remove everything, once the atlas is sealed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _piece(self, number: int) -> Path:
        return self.folder / f"piece-{number:05}"

    def _told(self, sae: str) -> Path:
        return self.folder / TOLD / f"{sae}.json"

    def _seal(self, number: int) -> Seal | None:
        """Read a piece's seal; None if there is none, or one of another description."""
        seal = read_note(Seal, self._piece(number) / SEAL)
        return seal if seal and seal.key == self.key else None

    def _sealed(self) -> Iterator[tuple[int, Seal]]:
        do = "run describe again: it writes what is missing"
        extent = read_note(Extent, self.folder / "text.json")
        if extent is None or extent.key != self.key:
            raise Incomplete(str(self.folder), "the text has not been read to its end", do)
        for number in range(extent.n_pieces):
            seal = self._seal(number)
            if seal is None:
                raise Incomplete(str(self._piece(number)), "is not written", do)
            yield number, seal

    def _checked(self, number: int, seal: Seal, name: str) -> dict[str, Tensor]:
        path = self._piece(number) / name
        if problem := files.problem_with(path, seal.files[name]):
            do = "run describe again: it writes what is damaged"
            raise Corrupt(str(path), "is not what was written", do) from problem
        return tensors_in(Place.of(path).read())

    def _rows(self, number: int, seal: Seal) -> Rows:
        tensors = self._checked(number, seal, ROWS)
        mask = tensors["mask"].bool()
        return Rows(tensors["ids"].long(), tensors["documents"].long(), mask, seal.kinds)


def _problem_with(path: Path, kind: type[Note]) -> Corrupt | None:
    """Check a note, and the files of a piece."""
    try:
        note = read_note(kind, path)
    except Corrupt as problem:
        return problem
    records = note.files if isinstance(note, Seal) else {}
    found = (files.problem_with(path.parent / name, record) for name, record in records.items())
    return next((problem for problem in found if problem), None)


def _of_rows(rows: Sequence[Rows]) -> dict[str, Tensor]:
    return {
        "ids": torch.cat([passed.ids for passed in rows]).int(),
        "documents": torch.cat([passed.documents for passed in rows]).int(),
        "mask": torch.cat([passed.mask for passed in rows]).to(torch.int8),
    }


def _of(pairs: Sequence[Pairs]) -> dict[str, Tensor]:
    return {
        "counts": torch.cat([passed.offsets.diff() for passed in pairs]).int().cpu(),
        "latents": torch.cat([passed.latent for passed in pairs]).cpu(),
        "values": torch.cat([passed.z for passed in pairs]).float().cpu(),
    }


def _codes(tensors: Mapping[str, Tensor], width: int) -> Codes:
    offsets = torch.zeros(len(tensors["counts"]) + 1, dtype=torch.int64)
    offsets[1:] = tensors["counts"].cumsum(0)
    return Codes(offsets, tensors["latents"], tensors["values"], width)


def _saved(path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    """Write a safetensors file; the checksum is that of the bytes in memory."""
    parts = parts_of(tensors)
    write_unsynced(path, parts)
    return FileRecord(size_bytes=sum(map(len, parts)), blake3=files.blake3_in(parts))
