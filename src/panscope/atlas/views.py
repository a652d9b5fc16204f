"""One feature as a page shows it: its record joined to all that the record refers to."""

from dataclasses import dataclass

from panscope.atlas.features import Atlas
from panscope.atlas.records import Context, Feature, FeatureRow, SaeRecord


@dataclass(frozen=True, slots=True)
class KindShare:
    """How a feature fires on one kind of text: how often, and on which share of its tokens."""

    kind: str
    count: int
    density: float


@dataclass(frozen=True, slots=True)
class FeatureView:
    """One feature with what its numbers refer to: contexts, pieces, neighbours, next and previous.

    `pieces` holds the text of every token id that occurs in the rest. Features elsewhere are named
    in `feature` alone: their rows are in other files. An atlas made before encoder neighbours,
    companions or kinds were described has none of them.
    """

    sae: SaeRecord
    feature: Feature
    contexts: tuple[Context, ...]
    neighbours: tuple[FeatureRow, ...]
    encoder_neighbours: tuple[FeatureRow, ...]
    companions: tuple[FeatureRow, ...]
    kinds: tuple[KindShare, ...]
    previous: int | None
    next: int | None
    pieces: dict[int, str]


def kind_shares(atlas: Atlas, feature: Feature) -> tuple[KindShare, ...]:
    """The kinds of text, the one on which the feature fires most often first."""
    if not feature.kind_counts:
        return ()
    read = atlas.manifest.facts.get("kinds", ())
    shares = (
        KindShare(kind["kind"], n, n / max(1, kind["n_tokens"]))
        for kind, n in zip(read, feature.kind_counts, strict=True)
    )
    return tuple(sorted(shares, key=lambda share: -share.density))


def tokens_in(view: FeatureView) -> set[int]:
    """The ids of all tokens that a view shows."""
    near = (*view.neighbours, *view.encoder_neighbours, *view.companions)
    tokens = {*view.feature.top_tokens, *view.feature.bottom_tokens}
    return tokens.union(
        *(context.tokens for context in view.contexts),
        *(row.top_tokens + row.peak_tokens for row in near),
    )
