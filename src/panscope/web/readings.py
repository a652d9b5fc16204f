"""What a live test answers, as frozen values; importing this does not import torch.

Token lists leave the BOS out, so the token at place 0 of a list stood at position 1 of the row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from panscope.edits import Edit


@dataclass(frozen=True, slots=True)
class Activations:
    """One feature's value on every token of a text; `note` says what was cut."""

    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    values: tuple[float, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A feature that is among the strongest somewhere in a text, and all places where it fires.

    `density` and `max` are the atlas's; `label` shows the tokens on which it fires most strongly.
    """

    index: int
    density: float
    max: float
    label: tuple[str, ...]
    positions: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SaeReading:
    """What one Sae sees in a text: `strongest[token]` lists places in `features`, best first."""

    sae: str
    site: str
    features: tuple[Seen, ...]
    strongest: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Microscope:
    """What every chosen Sae sees in a text."""

    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    saes: tuple[SaeReading, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Near:
    """A feature whose decoder direction is near one that was asked about."""

    sae: str
    index: int
    cosine: float


@dataclass(frozen=True, slots=True)
class WrittenToken:
    """A token that the model wrote, how likely it was, and the likeliest in its place."""

    id: int
    piece: str
    probability: float
    likeliest: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class TokensBeside:
    """The next token of the normal and of the steered text, None behind an end.

    `kl_nats` is the divergence of the steered prediction from the unsteered one of the same text;
    `shares`, an edit each, of what it added from the length of the value there.
    """

    normal: WrittenToken | None
    steered: WrittenToken | None
    kl_nats: float | None
    shares: tuple[float, ...]


@runtime_checkable
class ReadsText(Protocol):
    """Runs the model on a text: reads Saes on it, or goes on with it."""

    def activations(self, text: str, sae: str, index: int) -> Activations:
        """One feature's value on every token."""
        ...

    def microscope(
        self, text: str, k: int, max_density: float, saes: Sequence[str] = ()
    ) -> Microscope:
        """The `k` strongest features of each token in each of `saes`, denser ones left out."""
        ...

    def direction(self, sae: str, index: int) -> tuple[float, ...]:
        """The decoder's direction of a feature."""
        ...

    def nearest_to_feature(
        self, sae: str, index: int, saes: Sequence[str], limit: int
    ) -> tuple[Near, ...]:
        """The features of `saes` that write nearest to what one writes, itself left out."""
        ...

    def nearest_to_difference(
        self, text: str, without: str, site: str, saes: Sequence[str], limit: int
    ) -> tuple[Near, ...]:
        """The features of `saes` that write nearest to how a site differs between two texts."""
        ...

    def nearest_to_vector(
        self, vector: Sequence[float], site: str, saes: Sequence[str], limit: int
    ) -> tuple[Near, ...]:
        """The features of `saes` that write nearest to a direction at a site."""
        ...

    def beside(
        self, prompt: str, edits: Sequence[Edit], n_tokens: int, temperature: float, seed: int
    ) -> Iterator[TokensBeside]:
        """Up to `n_tokens` tokens behind a prompt, without and with edits."""
        ...
