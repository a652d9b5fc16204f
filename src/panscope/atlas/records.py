"""What an Atlas holds, as frozen values: the same from Parquet to page."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SaeRecord:
    """One Sae of the atlas.

    `sae` is its id within the suite, `<site>/<name>`. `bin_edges` are the edges of the activation
    histograms of all its features, in raw model units, one more than there are bins; they grow by a
    constant factor, so the histogram's axis is logarithmic. `logit_bin_edges` are those of logit
    effects, evenly spaced. Values beyond the ends are counted in the outermost bins.
    """

    sae: str
    site: str
    width: int
    n_tokens: int
    n_alive: int
    bin_edges: tuple[float, ...]
    logit_bin_edges: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Band:
    """A band of a feature's activation range, `low <= value < high`; bands do not overlap.

    `share` is the share of the feature's firings that fall in it; the shares sum to one.
    """

    low: float
    high: float
    share: float


@dataclass(frozen=True, slots=True)
class Example:
    """A feature firing in a context.

    `band` indexes the feature's bands (strongest first); -1 is for the strongest contexts of all.
    `positions` and `values` list where in the context the feature fired and how strongly; `peak` is
    the position this example was chosen for.
    """

    band: int
    context: int
    peak: int
    positions: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Context:
    """A row of text as the model read it: token ids, and the document and kind it came from.

    Position 0 is the BOS. `documents` numbers the document of each token.
    """

    context: int
    tokens: tuple[int, ...]
    documents: tuple[int, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A feature of another Sae whose decoder direction is near."""

    sae: str
    index: int
    cosine: float


@dataclass(frozen=True, slots=True)
class Feature:
    """Everything that one pass over the text said about one latent.

    `count` firings among `SaeRecord.n_tokens` tokens give `density`; `max` and `mean` are over the
    firings, in raw model units, zero for a dead feature. Logits are the effect of the decoder
    direction through the final norm's gain and the unembedding; token ids beside them.

    Companions are the latents of the same Sae most often active at the same tokens: Jaccard is the
    share of the tokens where both fire among those where either does, correlation is Pearson's,
    of the activations over all tokens. `kind_counts` are firings by kind of text, in the order of
    the manifest's fact `kinds`. `x` and `y` are the feature's place on a map of the decoder.
    `head_shares` says how a direction at `attn_z` is shared out among the heads of its layer: the
    length of each head's part over the sum of these lengths; empty at other sites. What an atlas of
    an earlier version lacks is None or empty.
    """

    index: int
    count: int
    density: float
    max: float
    mean: float
    histogram: tuple[int, ...]
    top_tokens: tuple[int, ...]
    top_logits: tuple[float, ...]
    bottom_tokens: tuple[int, ...]
    bottom_logits: tuple[float, ...]
    neighbours: tuple[int, ...]
    neighbour_cosines: tuple[float, ...]
    bands: tuple[Band, ...]
    examples: tuple[Example, ...]
    std: float | None = None
    companions: tuple[int, ...] = ()
    companion_jaccards: tuple[float, ...] = ()
    companion_correlations: tuple[float, ...] = ()
    encoder_neighbours: tuple[int, ...] = ()
    encoder_neighbour_cosines: tuple[float, ...] = ()
    elsewhere: tuple[Elsewhere, ...] = ()
    kind_counts: tuple[int, ...] = ()
    logit_histogram: tuple[int, ...] = ()
    x: float | None = None
    y: float | None = None
    head_shares: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A feature as one line of a table."""

    index: int
    density: float
    max: float
    mean: float
    top_tokens: tuple[int, ...]
    peak_tokens: tuple[int, ...]
