import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.web.fixture_run import HOSTILE, IDS, World, build, build_notes

from panscope.errors import ConfigError, NotFound
from panscope.notebook import Shown, feature, histogram, strip

SAE = "resid_post.1/w64_l0_30_s0"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = build(tmp_path_factory.mktemp("runs") / "demo", sites=("resid_post.1",))
    build_notes(run, [SAE])
    return run


class Elements(HTMLParser):
    """Collects elements, and fails for one that is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def classes(self, name: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.found if name in (a.get("class") or "").split()]


def elements(shown: Shown) -> Elements:
    return Elements(shown._repr_html_())


def test_a_feature_shows_its_label_examples_and_histogram(run: Path) -> None:
    shown = elements(feature(run, SAE, 0))
    assert "months, in English and French" in feature(run, SAE, 0).html
    assert len(shown.classes("peak")) == len(shown.classes("example")) > 10
    assert len(shown.classes("bar")) > 3
    assert "<script" not in feature(run, SAE, 0)._repr_html_()


def test_a_dead_feature_and_markup_of_the_corpus_are_shown(run: Path) -> None:
    assert "never" in feature(run, SAE, 5).html
    hostile = int(World(SAE, 64).strength[:, IDS[HOSTILE]].argmax())
    shown = feature(run, SAE, hostile).html
    assert HOSTILE not in shown
    assert "&lt;script&gt;" in shown


def test_a_wrong_name_is_answered_with_the_nearest(run: Path) -> None:
    with pytest.raises(NotFound, match=f"did you mean {SAE}"):
        feature(run, SAE[:-1], 0)
    with pytest.raises(NotFound, match="from 0 to 63"):
        feature(run, SAE, 64)


def test_a_strip_shades_by_value() -> None:
    shown = elements(strip(["The", " cat", "\n"], [0.0, 2.0, 1.0]))
    tokens = shown.classes("t")
    assert [token.get("style") for token in tokens] == [None, "--a: 1.0000", "--a: 0.5000"]
    assert [token["class"] for token in tokens] == ["t", "t peak", "t"]
    assert "·cat" in strip([" cat"], [1.0]).html
    against = elements(strip(["a"], [1.0], maximum=4.0)).classes("t")
    assert against[0]["style"] == "--a: 0.2500"
    assert strip([], []).html == '<div class="strip whole"></div>'
    with pytest.raises(ConfigError, match="2 tokens and 1 values"):
        strip(["a", "b"], [1.0])


def test_a_histogram_leaves_empty_ends_out() -> None:
    shown = elements(histogram([0, 1, 2, 3, 4], [0, 3, 1, 0], "counts"))
    bars = shown.classes("bar")
    assert len(bars) == 2
    heights = [float(bar["height"] or 0) for bar in bars]
    assert heights[0] == pytest.approx(3 * heights[1], abs=0.2)
    assert len(elements(histogram([0, 1], [0])).classes("bar")) == 1
    with pytest.raises(ConfigError, match="one edge more"):
        histogram([0, 1], [1, 2])
    with pytest.raises(ConfigError, match="0 counts and 1 edges; give counts"):
        histogram([0], [])
    with pytest.raises(ConfigError, match="value 1 is nan; give finite numbers"):
        strip(["a", "b"], [1.0, float("nan")])


def test_where_nothing_shows_html_it_is_not_spelt_out() -> None:
    assert repr(strip(["a"], [1.0])).endswith("characters of HTML, which a notebook shows>")


def test_the_styles_stay_within_what_is_shown() -> None:
    html = strip(["a"], [1.0])._repr_html_()
    assert "@scope (.panscope)" in html
    for outside in ("\n:root", "\nbody", "\nhtml", "  :root"):
        assert outside not in html


def test_showing_needs_no_torch(run: Path) -> None:
    script = (
        "import sys; from panscope.notebook import feature;"
        f"feature({str(run)!r}, {SAE!r}, 0)._repr_html_();"
        "sys.exit('torch' in sys.modules or 'fastapi' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
