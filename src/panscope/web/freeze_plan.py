"""What a frozen copy holds, and which file each address has in it."""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import parse_qs, quote

from panscope.atlas.queries import Query
from panscope.web import tour
from panscope.web.contrasts import finished
from panscope.web.pages import SEARCHES
from panscope.web.run import RunFolder

PAGES = (
    *("/microscope", "/steer", "/contrast", "/notes", "/tour"),
    *("/progress", "/docs", "/help", "/search"),
)
_FEATURE = re.compile(r"/sae/(.+)/(\d+)")


@dataclass(frozen=True)
class Plan:
    """What is copied: of each Sae the first `n_features` alive features, in order of index.

    They come without regard to what they mean, so they are a fair sample, and next and previous
    lead from one to the other. The features of the tour's puzzles come besides.
    """

    run: RunFolder
    n_features: int

    @cached_property
    def chosen(self) -> dict[str, list[int]]:
        """The features of each Sae."""
        catalogue, query = self.run.catalogue, Query(sort="index", descending=False)
        found = {
            sae: set(catalogue.select(sae, query)[: self.n_features].tolist())
            for sae in catalogue.atlas.saes
        }
        for puzzle in tour.puzzles(catalogue, tour.chosen_sae(catalogue)):
            found[puzzle.sae].add(puzzle.index)
        return {sae: sorted(indices) for sae, indices in found.items()}

    @property
    def n_files(self) -> int:
        """How many pages are written; styles and scripts are two dozen files more."""
        return sum(1 for _ in self.paths())

    def paths(self) -> Iterator[str]:
        """The addresses of all pages, the first page last."""
        for sae, indices in self.chosen.items():
            yield from (f"/sae/{sae}/{index}" for index in indices)
            yield f"/sae/{sae}"
        yield from self._contrasts
        yield from (f"/search?by={kind}" for kind in SEARCHES)
        yield from (f"/notes?list={quote(name)}" for name in self._lists)
        yield from (*PAGES, "/")

    def file_of(self, address: str) -> str | None:
        """The file of an address, with its query and hash; None for what is not copied."""
        path, hash_, part = address.partition("#")
        name = self.name_of(path)
        query = f"?{path.partition('?')[2]}" if "?" in path else ""
        return None if name is None else name + query + hash_ + part

    def name_of(self, path: str) -> str | None:
        """Name the file of a path, relative to the copy.

        Of its query only the kind of a search and the name of a list matter.
        """
        plain, _, query = path.partition("?")
        asked = parse_qs(html.unescape(query))
        kind, name = (asked.get(key, [""])[0] for key in ("by", "list"))
        if plain == "/":
            return "index.html"
        if plain.startswith("/static/"):
            return plain[1:]
        if plain == "/search" and kind in SEARCHES:
            return f"search/{kind}/index.html"
        if plain == "/notes" and name in self._lists:
            return f"notes/{self._lists[name]}/index.html"
        if plain in PAGES or plain in self._contrasts or plain[len("/sae/") :] in self.chosen:
            return f"{plain[1:]}/index.html"
        feature = _FEATURE.fullmatch(plain)
        is_chosen = feature and int(feature[2]) in self._sets.get(feature[1], ())
        return f"{plain[1:]}.html" if is_chosen else None

    @cached_property
    def _contrasts(self) -> tuple[str, ...]:
        return tuple(f"/contrast/{quote(name)}" for name in finished(self.run))

    @cached_property
    def _lists(self) -> dict[str, int]:
        """Number the lists, as their names need not be those of files."""
        return {one.name: number for number, one in enumerate(self.run.notes.lists.names(), 1)}

    @cached_property
    def _sets(self) -> dict[str, frozenset[int]]:
        return {sae: frozenset(indices) for sae, indices in self.chosen.items()}
