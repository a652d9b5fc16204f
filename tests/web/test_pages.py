import json
import re

import pytest
from fastapi.testclient import TestClient
from tests.web.conftest import SAES
from tests.web.fixture_run import HOSTILE, IDS, World

from panscope.web import numbers, pages

SAE = SAES[2]
PATHS = ["/", f"/sae/{SAE}", f"/sae/{SAE}/0", "/microscope", "/search", "/docs", "/help"]


@pytest.mark.parametrize("path", PATHS)
def test_pages_have_landmarks_a_way_up_and_help(client: TestClient, path: str) -> None:
    html = client.get(path).text
    for part in ("<main", "<header", 'aria-label="Breadcrumb"', 'lang="en"', 'aria-current="page"'):
        assert part in html
    topic = re.search(r'class="what" href="/help#(\w+)"', html)
    assert topic
    assert f'id="{topic[1]}"' in client.get("/help").text


@pytest.mark.parametrize("path", PATHS)
def test_pages_need_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert not re.search(r"""(src|href)=["'](https?:)?//""", answer.text)
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    for asset in re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text):
        served = client.get(asset)
        assert served.status_code == 200
        assert not re.search(r"https?://(?!www\.w3\.org)", served.text)


def test_every_script_that_is_imported_is_served(client: TestClient) -> None:
    for script in (pages.HERE / "static").glob("*.js"):
        for name in re.findall(r'from "\./([\w.]+)"', script.read_text()):
            assert client.get(f"/static/{name}").status_code == 200


def test_no_text_of_the_corpus_becomes_markup(client: TestClient) -> None:
    hostile = IDS[HOSTILE]
    latent = int(World(SAE, 64).strength[:, hostile].argmax())
    for path in (f"/sae/{SAE}/{latent}", "/microscope"):
        html = client.get(path).text
        assert HOSTILE not in html
        assert "alert(1)" in html
    view = client.get(f"/api/sae/{SAE}/feature/{latent}").json()
    assert HOSTILE in view["pieces"].values()


def test_no_text_of_an_address_becomes_markup(client: TestClient) -> None:
    for path in ("/sae/<script>x", "/<img src=x>", f"/sae/{SAE}?text=<script>x"):
        html = client.get(path).text
        assert "<script>x" not in html
        assert "<img src=x" not in html


def test_the_feature_page_holds_its_data(client: TestClient) -> None:
    html = client.get(f"/sae/{SAE}/0").text
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.S)[1])
    assert data["view"] == client.get(f"/api/sae/{SAE}/feature/0").json()
    assert f'rel="next" href="/sae/{SAE}/1"' in html
    assert 'rel="prev"' not in html


def test_only_an_embedded_feature_may_stand_in_another_page(client: TestClient) -> None:
    parts = {"plots": "Statistics", "test": 'id="test"', "activations": 'id="examples"'}
    whole = client.get(f"/sae/{SAE}/0", params={"embedplots": "false"})
    assert "frame-ancestors 'none'" in whole.headers["content-security-policy"]
    assert all(mark in whole.text for mark in parts.values())
    for part in parts:
        asked = {"embed": "true", f"embed{part}": "false"}
        answer = client.get(f"/sae/{SAE}/0", params=asked)
        assert "frame-ancestors *" in answer.headers["content-security-policy"]
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        shown = [other for other, other_mark in parts.items() if other_mark in answer.text]
        assert shown == [other for other in parts if other != part]
    other = client.get("/microscope", params={"embed": "true"})
    assert "frame-ancestors 'none'" in other.headers["content-security-policy"]


def test_a_dead_feature_says_so(client: TestClient) -> None:
    html = client.get(f"/sae/{SAE}/5").text
    assert "This feature is dead." in html
    assert "1\u202f280\u202f000 tokens" in html


def test_next_and_previous_skip_the_dead(client: TestClient) -> None:
    assert f'rel="next" href="/sae/{SAE}/6"' in client.get(f"/sae/{SAE}/4").text
    assert f'rel="prev" href="/sae/{SAE}/4"' in client.get(f"/sae/{SAE}/6").text


def test_random_goes_to_a_feature(client: TestClient) -> None:
    answer = client.get(f"/sae/{SAE}/random", follow_redirects=False)
    assert answer.status_code == 307
    assert re.fullmatch(rf"/sae/{re.escape(SAE)}/\d+", answer.headers["location"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0, "0"),
        (0.99951, "1.00"),
        (999.6, "1\u202f000"),
        (12345678, "12\u202f300\u202f000"),
        (-0.01234, "-0.0123"),
        (0.00012, "1.20e-4"),
        (1e12, "1.00e12"),
    ],
)
def test_numbers_have_three_digits(value: float | None, shown: str) -> None:
    assert numbers.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1e-4, "0.0100\u202f%"),
        (1 / 23_000, "1 in 23\u202f000 tokens"),
        (1.0, "100\u202f%"),
        (0.0, "never"),
    ],
)
def test_rare_densities_are_one_in_so_many(value: float, shown: str) -> None:
    assert numbers.density(value) == shown


def test_a_feature_of_heads_says_which_writes_it(client: TestClient) -> None:
    shares = client.get(f"/api/sae/{SAES[0]}/feature/0").json()["feature"]["head_shares"]
    html = client.get(f"/sae/{SAES[0]}/0").text
    head = shares.index(max(shares))
    assert f">Head {head} writes {numbers.percent(shares[head])} of it</h2>" in html
    listed = re.findall(r'data-width="([\d.]+)" title="([\d.e-]+)"><span class="bar"', html)
    widths = {title: float(width) for width, title in listed}
    for share in shares:
        assert widths[str(share)] == pytest.approx(share / max(shares), abs=1e-4)
    assert "an even share is 8.33\u202f%" in html


@pytest.mark.parametrize("path", [f"/sae/{SAE}/0", f"/sae/{SAES[0]}/63"])
def test_other_features_and_those_of_zeros_name_no_head(client: TestClient, path: str) -> None:
    assert "heads-title" not in client.get(path).text
