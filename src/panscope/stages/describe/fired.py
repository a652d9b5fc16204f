"""What fired of one Sae in all the text, piece by piece: by token as in the log, and by latent."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from panscope.kernels.bodies import counting
from panscope.kernels.firings import Codes, Firings

KEPT_FIRINGS = 1 << 25  # sorted once and kept: 268 MB


@dataclass(frozen=True, slots=True)
class Fired:
    """A Sae's codes; they are sorted once if they are few, and else whenever they are read."""

    codes: Sequence[Codes]
    kept: Sequence[Firings] | None

    @classmethod
    def of(cls, codes: Sequence[Codes], most: int = KEPT_FIRINGS) -> Self:
        """Sort the codes of all pieces, if there are not more firings than so many."""
        is_small = sum(len(piece.values) for piece in codes) <= most
        return cls(codes, [counting().by_latent(piece) for piece in codes] if is_small else None)

    @property
    def by_latent(self) -> Iterator[Firings]:
        """The same latent by latent, piece by piece."""
        sort = counting().by_latent
        return iter(self.kept) if self.kept is not None else map(sort, self.codes)
