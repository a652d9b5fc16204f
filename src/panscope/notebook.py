"""Features, token strips and histograms that show themselves in a notebook, as the pages show them.

    from panscope.notebook import feature, histogram, strip

    feature("runs/demo", "resid_post.2/w2048_l0_20_s0", 7)

What is shown carries the pages' own style sheets, kept to itself by `@scope`; it needs no script
and no server, and torch is not imported.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from itertools import groupby
from pathlib import Path

from panscope.atlas.features import Atlas
from panscope.atlas.notes import Notes
from panscope.atlas.queries import Catalogue
from panscope.atlas.records import Band, Example
from panscope.atlas.views import FeatureView
from panscope.errors import ConfigError
from panscope.web.numbers import count, density, number, visible

LINE_CHARACTERS = 92  # of a folded example
SIDE = 0.44  # of them before the peak, as in strip.js
SPACE = 0.64  # of a token's margins, in characters
WIDTH, HEIGHT, FOOT = 420, 140, 18  # of a histogram, in px


@dataclass(frozen=True, slots=True)
class Shown:
    """Something that a notebook shows; `html` is what is inside, without the style sheets."""

    html: str

    def __repr__(self) -> str:
        return f"<{len(self.html):,} characters of HTML, which a notebook shows>"

    def _repr_html_(self) -> str:
        return f'<div class="panscope"><style>{_styles()}</style>{self.html}</div>'


def feature(run: str | Path, sae: str, index: int) -> Shown:
    """Show a feature of a run folder: facts, label, logits, examples, histogram.

    Raises NotFound, with the nearest names, for a run, Sae or feature that is not there.
    """
    catalogue = Catalogue(Atlas(Path(run) / "atlas"))
    view = catalogue.feature(sae, index)
    with closing(Notes.reading(Path(run) / "notes.sqlite")) as notes:
        label = notes.label_of(sae, index)
    title = f"<h3>{escape(sae)} / {index}</h3>" + (f"<p>{escape(label.text)}</p>" if label else "")
    f = view.feature
    parts = (title, _facts(view), _logits(view), *_bands(view))
    if f.count:
        parts += (_bars(view.sae.bin_edges, f.histogram, "activation (log axis)"),)
    return Shown("".join(parts))


def strip(tokens: Sequence[str], values: Sequence[float], maximum: float | None = None) -> Shown:
    """Show tokens shaded by `values`; `maximum` is what gets the full shade, else the largest."""
    if len(tokens) != len(values):
        found = f"has {len(tokens)} tokens and {len(values)} values"
        raise ConfigError("strip", found, "give one value for each token")
    for place, value in enumerate(values):
        if not math.isfinite(value):
            raise ConfigError("strip", f"value {place} is {value}", "give finite numbers")
    top = maximum if maximum is not None else max(values, default=0.0)
    peak = max(range(len(values)), key=values.__getitem__, default=-1)
    shown = (
        _token(piece, value, top, place == peak and value > 0)
        for place, (piece, value) in enumerate(zip(tokens, values, strict=True))
    )
    return Shown(f'<div class="strip whole">{"".join(shown)}</div>')


def histogram(edges: Sequence[float], counts: Sequence[int], title: str = "") -> Shown:
    """Show counts between edges, every bin as wide as the next; empty bins at the ends go."""
    if len(edges) != len(counts) + 1 or not len(counts):
        found = f"has {len(counts)} counts and {len(edges)} edges"
        raise ConfigError("histogram", found, "give counts, and one edge more")
    return Shown(_bars(edges, counts, title))


@cache
def _styles() -> str:
    """The pages' style sheets, in force within what is shown alone."""
    sheets = files("panscope.web") / "static"
    css = "\n".join((sheets / name).read_text() for name in ("base.css", "parts.css"))
    for outside in (":root", "html", "body"):
        css = css.replace(f"\n{outside}", "\n:scope").replace(f"  {outside}", "  :scope")
    return f"@scope (.panscope) {{\n{css}\n:scope {{ padding: 8px 12px; }}\n}}"


def _facts(view: FeatureView) -> str:
    f = view.feature
    facts = {
        "Density": density(f.density),
        "Firings": f"{count(f.count)} <small>of {count(view.sae.n_tokens)}</small>",
        "Max": number(f.max),
        "Mean": number(f.mean),
    }
    cells = (f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{"".join(cells)}</dl>'


def _logits(view: FeatureView) -> str:
    f = view.feature
    sides = (
        ("Promotes", f.top_tokens, f.top_logits),
        ("Suppresses", f.bottom_tokens, f.bottom_logits),
    )
    lists = (
        f"<p><small>{name}</small> {_pieces(view, ids, values)}</p>" for name, ids, values in sides
    )
    return "".join(lists)


def _pieces(view: FeatureView, ids: Iterable[int], values: Iterable[float]) -> str:
    pairs = zip(ids, values, strict=True)
    return " ".join(
        f'<span class="piece" title="logit {value}">{escape(visible(view.pieces[token]))}</span>'
        for token, value in pairs
    )


def _bands(view: FeatureView) -> Iterable[str]:
    """Yield the examples under the heading of their band, the strongest of all first."""
    f = view.feature
    ordered = sorted(f.examples, key=lambda e: (e.band, -_peak(e)))
    for band, examples in groupby(ordered, key=lambda e: e.band):
        title = "Strongest of all" if band < 0 else _band_title(f.bands[band], f.max)
        lines = "".join(_line(view, example) for example in examples)
        yield f'<section class="band"><header><h3>{title}</h3></header>{lines}</section>'


def _band_title(band: Band, maximum: float) -> str:
    high = min(band.high, maximum)  # a band ends at the edge of a bin, maybe above the maximum
    return f"{number(band.low)} to {number(high)}, {number(100 * band.share)} % of firings"


def _line(view: FeatureView, example: Example) -> str:
    """An example folded around its peak, the BOS left out."""
    context = next(c for c in view.contexts if c.context == example.context)
    values = dict(zip(example.positions, example.values, strict=True))
    pieces = [view.pieces[token] for token in context.tokens]
    before = _fitting(range(example.peak - 1, 0, -1), pieces, LINE_CHARACTERS * SIDE)
    room = LINE_CHARACTERS * (1 - SIDE) - len(pieces[example.peak])
    after = _fitting(range(example.peak + 1, len(pieces)), pieces, room)
    sides = (
        "".join(
            _token(pieces[p], values.get(p, 0.0), view.feature.max, p == example.peak) for p in side
        )
        for side in (reversed(before), [example.peak], after)
    )
    spans = "".join(f"<span>{side}</span>" for side in sides)
    return (
        f'<div class="example"><span class="n">{number(_peak(example))}</span>'
        f'<div class="strip fold">{spans}</div>'
        f'<span class="kind">{escape(context.kind)}</span></div>'
    )


def _fitting(places: Iterable[int], pieces: Sequence[str], room: float) -> list[int]:
    """The first places whose tokens fit into so many characters."""
    found: list[int] = []
    for place in places:
        room -= len(pieces[place]) + SPACE
        if room < 0:
            break
        found.append(place)
    return found


def _peak(example: Example) -> float:
    return example.values[example.positions.index(example.peak)]


def _token(piece: str, value: float, maximum: float, is_peak: bool) -> str:
    shade = f' style="--a: {min(1.0, value / maximum):.4f}"' if value > 0 and maximum > 0 else ""
    name = "t peak" if is_peak else "t"
    said = f"value {value}" if value > 0 else "silent"
    return f'<span class="{name}"{shade} title="{said}">{escape(visible(piece))}</span>'


def _bars(edges: Sequence[float], counts: Sequence[int], title: str) -> str:
    """Bars as SVG, from the first bin that is not empty to the last."""
    filled = [place for place, n in enumerate(counts) if n] or [0]
    first, last = filled[0], filled[-1] + 1
    step, tall = WIDTH / (last - first), max(1, *counts)
    rects = "".join(
        f'<rect class="bar" x="{(i - first) * step:.1f}" y="{(HEIGHT - FOOT) * (1 - n / tall):.1f}"'
        f' width="{max(1.0, step - 1):.1f}" height="{(HEIGHT - FOOT) * n / tall:.1f}">'
        f"<title>{count(n)}, {number(edges[i])} to {number(edges[i + 1])}</title></rect>"
        for i, n in enumerate(counts[first:last], first)
    )
    ends = (
        f'<text x="0" y="{HEIGHT - 4}">{number(edges[first])}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{number(edges[last])}</text>'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(title)}</text>'
    )
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" style="max-width: {WIDTH}px"'
    named = f'role="img" aria-label="{escape(title)}"'
    return f'<div class="chart"><svg {named} {box}>{rects}{ends}</svg></div>'
