"""Journeys, each in light, in dark and on a phone; any word on the console is a failure."""

import json
import re
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
from tests.browser.audit import check, focus_is_visible
from tests.browser.conftest import SAES, TOKEN, Tab
from tests.web.fixture_run import HOSTILE, IDS, N_HEADS, World

from panscope.web import numbers

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
expect.set_options(timeout=30_000)
SAE = "resid_post.1/w64_l0_30_s0"
TEXT = "The dog slept under the table in January, and the river rose on Monday."


def state(page) -> dict[str, str]:
    """The query of the page's address, which Playwright's own `url` follows a little later."""
    query = page.evaluate("location.search.slice(1)")
    return {key: values[0] for key, values in parse_qs(query).items()}


def hover(tab: Tab, locator) -> None:
    """Point at something; a phone has no pointer, so there it is focused."""
    if tab.is_phone:
        locator.focus()
    else:
        locator.hover()


def test_suite(tab: Tab) -> None:
    page = tab.page
    page.goto("/")
    points = page.locator("#plot .point")
    assert points.count() == 36
    assert "lower left" in page.locator("#plot-title").inner_text()
    assert page.locator("#plot .join").count() == 12  # one width at one site: one line
    check(page)

    hover(tab, points.nth(0))
    assert page.locator("#tip").inner_text().startswith("attn_z.0/w64_l0_15_s0\nL0 15.6\n")
    page.get_by_label("Vertical axis").select_option("fvu")
    assert state(page)["y"] == "fvu"
    assert "FVU" in page.locator("#plot").inner_text()
    page.get_by_role("button", name="attn_z").click()
    assert points.count() == 24

    page.get_by_role("columnheader", name="FVU").get_by_role("button").click()
    cells = page.locator("#saes tbody td:nth-child(5)").all()
    fvus = [float(cell.get_attribute("data-value")) for cell in cells]
    assert fvus == sorted(fvus)
    page.locator("#main").focus()
    page.keyboard.press("/")
    page.keyboard.type("mlp_out.2")
    assert page.locator("#saes tbody tr:visible").count() == 3
    page.keyboard.press("Escape")
    page.reload()
    assert page.locator("#saes tbody tr:visible").count() == 3
    assert state(page) == {"y": "fvu", "hide": "attn_z", "sort": "fvu", "filter": "mlp_out.2"}

    page.keyboard.press("j")
    assert focus_is_visible(page)
    page.keyboard.press("Enter")
    page.wait_for_url("**/sae/mlp_out.2/w64_l0_60_s0")
    page.goto("/")
    points.nth(0).click()
    page.wait_for_url("**/sae/attn_z.0/*")


def test_sae(tab: Tab) -> None:
    page = tab.page
    page.goto(f"/sae/{SAE}")
    rows = page.locator(".list-body .row:not(.wait)")
    rows.first.wait_for()
    found = page.locator("#found")
    expect(found).to_have_text("62 of 64")
    assert "higher early" in page.locator("#position-l0-title").inner_text()
    check(page)

    page.keyboard.press("/")
    page.keyboard.type("·january")
    page.wait_for_url("**?text=*january")
    expect(found).not_to_have_text("62 of 64")
    expect(rows.first).to_contain_text("January")
    page.locator("#query input[name=text]").fill("janury")
    expect(found).to_contain_text("did you mean january")
    page.get_by_role("button", name="Clear").click()
    expect(found).to_have_text("62 of 64")

    page.get_by_role("columnheader", name="Max").get_by_role("button").click()
    expect(page.locator("[aria-sort=descending]")).to_contain_text("Max")
    assert state(page) == {"sort": "-max"}
    page.locator("#densities a").first.click()
    expect(found).not_to_have_text("62 of 64")
    assert set(state(page)) == {"sort", "low", "high"}
    said = found.inner_text()
    page.reload()
    expect(found).to_have_text(said)
    first = rows.first.locator("a").get_attribute("href")
    page.keyboard.press("j")
    assert page.locator(".row.marked").count() == 1
    assert focus_is_visible(page)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{first}")


def test_a_list_of_65536_rows(tab: Tab) -> None:
    page = tab.page

    def answer(route) -> None:
        offset = int(parse_qs(urlparse(route.request.url).query)["offset"][0])
        row = {"density": 0.01, "max": 1.0, "mean": 0.5, "top_tokens": [1], "peak_tokens": [1]}
        rows = [{"index": offset + n, **row} for n in range(100) if offset + n < 65_536]
        whole = {"total": 65_536, "offset": offset, "rows": rows, "pieces": {"1": " a"}}
        route.fulfill(json={**whole, "nearest": ""})

    page.route("**/features?*", answer)
    page.goto(f"/sae/{SAE}")
    body = page.locator(".list-body")
    page.locator(".list-body .row:not(.wait)").first.wait_for()
    for share in (0.25, 0.5, 1):
        body.evaluate("(list, share) => list.scrollTo(0, share * list.scrollHeight)", share)
        last = min(65_535, int(share * 65_536) + 5)
        expect(body.get_by_text(str(last), exact=True)).to_be_attached()
        assert 5 < page.locator(".list-body .row").count() < 60


def test_feature(tab: Tab) -> None:
    page = tab.page
    page.goto(f"/sae/{SAE}/0")
    peaks = page.locator("#examples .t.peak")
    assert peaks.count() == page.locator(".example").count() > 10
    assert page.locator(".band h3").first.inner_text() == "Strongest of all"
    assert "% of firings" in page.locator(".band header").nth(1).inner_text()
    assert "log axis" in page.locator("#activations").inner_text()
    assert "this feature" in page.locator("#densities").inner_text()
    check(page)

    hover(tab, peaks.first)
    tip = page.locator("#tip")
    assert re.fullmatch(
        r"value [\d.]+ \(100 % of the maximum\)\nposition \d+\ntoken \d+ ·\w+", tip.inner_text()
    )
    peaks.first.focus()
    assert focus_is_visible(page)
    page.keyboard.press("ArrowRight")
    assert "silent" in tip.inner_text()
    page.keyboard.press("Enter")
    assert page.locator(".t[aria-pressed=true]").count() == 1
    assert re.fullmatch(r"\d+\.\d+", state(page)["pin"])
    page.reload()
    assert page.locator(".t[aria-pressed=true]").count() == 1
    page.keyboard.press("Escape")
    assert state(page) == {}

    page.get_by_role("button", name="unfold", exact=True).first.click()
    assert page.locator(".example.open .t").count() == 63
    check(page)
    page.get_by_role("button", name="fold", exact=True).click()

    page.locator("#main").focus()
    page.keyboard.press("/")
    page.keyboard.type(TEXT)
    page.keyboard.press("Enter")
    page.locator("#test-result .t.peak").wait_for()
    assert page.locator("#test-result .t.peak").inner_text() == "·January"
    assert "Fires on" in page.locator("#test-result").inner_text()
    assert state(page) == {"text": TEXT}
    assert "your text" in page.locator("#activations").inner_text()

    page.get_by_role("button", name="Embed").click()
    page.get_by_label("charts").uncheck()
    code = page.get_by_label("The code").input_value()
    assert "embed=true&amp;embedplots=false&amp;defaulttesttext=The+dog" in code
    check(page)
    page.keyboard.press("Escape")
    page.locator("#main").focus()
    page.keyboard.press("j")
    page.wait_for_url(f"**/sae/{SAE}/1")
    page.get_by_label("Go to the feature of this number").fill("7")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/sae/{SAE}/7")
    page.goto(f"/sae/{SAE}/5")
    assert "This feature is dead" in page.locator("main").inner_text()
    check(page)
    page.goto(f"/sae/{SAE}/{int(World(SAE, 64).strength[:, IDS[HOSTILE]].argmax())}")
    # Strips are drawn once their width is known, which may be after the page is there.
    expect(page.locator("#examples")).to_contain_text(HOSTILE, use_inner_text=True)


def test_what_is_like_a_feature(tab: Tab) -> None:
    page = tab.page
    page.goto(f"/sae/{SAE}/0")
    shown = page.locator(".near[data-near]:visible")
    assert "cosine of decoder" in shown.inner_text()
    page.get_by_label("Write alike").focus()
    page.keyboard.press("ArrowRight")
    assert "cosine of encoder" in shown.inner_text()
    assert state(page) == {"near": "encoder"}
    page.get_by_label("Fire together").check(force=True)
    assert "Jaccard" in shown.inner_text()
    page.get_by_label("In other Saes").check(force=True)
    check(page)
    page.reload()
    expect(page.get_by_label("In other Saes")).to_be_checked()
    link = shown.locator("td a").nth(1)
    assert SAE not in link.get_attribute("href")
    link.click()
    page.wait_for_url("**/sae/attn_z.0/**")
    page.goto(f"/sae/{SAE}/0")
    assert "It fires most often in" in page.locator("#kinds-title").inner_text()
    assert "root axis" in page.locator("#effects").inner_text()


def test_heads_are_bars_as_long_as_their_shares(tab: Tab) -> None:
    page = tab.page
    page.goto(f"/sae/{SAES[0]}/0")
    panel = page.get_by_role("region", name=re.compile(r"^Head \d+ writes [\d.]+.% of it$"))
    heads = panel.get_by_role("listitem")
    assert heads.count() == N_HEADS
    lengths = [bar.bounding_box()["width"] for bar in heads.locator(".bar").all()]
    shares = [float(head.get_attribute("title")) for head in heads.all()]
    most = lengths[shares.index(max(shares))]
    for length, share in zip(lengths, shares, strict=True):
        assert length / most == pytest.approx(share / max(shares), abs=0.02)
    check(page)


def test_labels(tab: Tab) -> None:
    page = tab.page
    page.goto(f"/sae/{SAES[-1]}/0")
    assert page.locator("#label-title").inner_text() == "months, in English and French"
    page.locator(".labels > details > summary").click()
    assert page.locator(".history > li").count() >= 2
    assert "0.910" in page.locator(".scores").first.inner_text()
    page.locator(".judgements > summary").first.click()
    expect(page.get_by_text("What it was judged on was not kept").first).to_be_visible()
    check(page)
    assert not page.locator("#label").is_visible()

    index = 20 + ["light", "dark", "phone"].index(tab.kind)
    page.goto(f"/sae/{SAE}/{index}#token={TOKEN}")
    assert page.locator("#label-title").inner_text() == "No label yet"
    page.get_by_label("Your label").fill("something rare")
    page.get_by_label("Your name").fill("Ada")
    check(page)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="something rare").wait_for()
    page.goto(f"/search?text=rare&sae={SAE}")
    page.locator("#hits > li").first.wait_for()
    assert "something rare" in page.locator("#hits").inner_text()


def test_inside_another_page(tab: Tab) -> None:
    page = tab.page
    page.goto(f"/sae/{SAE}/0?embed=true&embedplots=false&embedtest=false")
    expect(page.locator("#examples .t.peak").first).to_be_visible()
    assert not page.locator("header.top").is_visible()
    for part in (".side-column", "#test"):
        assert page.locator(part).count() == 0
    check(page)
    page.goto(f"/sae/{SAE}/0?embed=true&embedactivations=false&defaulttesttext=In January")
    page.locator("#test-result .t.peak").wait_for()
    assert page.locator("#examples").count() == 0


def test_map(tab: Tab) -> None:
    page = tab.page
    page.goto(f"/sae/{SAE}")
    sheet = page.locator("#map canvas")
    sheet.wait_for()
    found = page.locator("#found")
    expect(found).to_have_text("62 of 64")
    sheet.scroll_into_view_if_needed()
    box = sheet.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    dot = page.locator("#map .dot")
    tip = page.locator("#tip")
    if tab.is_phone:
        for x in range(20, int(box["width"]), 12):  # a finger scrolls; a tap finds what is near
            page.touchscreen.tap(box["x"] + x, middle[1])
            if "on" in (dot.get_attribute("class") or "").split():
                break
        expect(tip).to_contain_text("fires most on")
        return
    dot.focus()
    expect(tip).to_contain_text("fires most on")
    assert focus_is_visible(page)
    first = dot.get_attribute("href")
    for key in ("ArrowLeft", "ArrowRight"):
        page.keyboard.press(key)
        assert dot.get_attribute("href") != first
        first = dot.get_attribute("href")
    expect(page.locator("#map [aria-live]")).to_contain_text("fires most on")
    dot.blur()
    expect(tip).to_be_hidden()

    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 90, middle[1] - 90, steps=4)
    page.mouse.up()
    expect(found).not_to_have_text("62 of 64")
    said = found.inner_text()
    assert 0 < int(said.split()[0]) < 62
    assert re.fullmatch(r"(-?[\d.]+,){3}-?[\d.]+", state(page)["box"])
    check(page)
    page.reload()
    expect(found).to_have_text(said)
    page.get_by_role("button", name="Clear").click()
    expect(found).to_have_text("62 of 64")
    assert state(page) == {}

    for x in range(20, int(box["width"]), 9):
        page.mouse.move(box["x"] + x, middle[1])
        if tip.is_visible():
            break
    expect(tip).to_contain_text("density")
    expect(tip).to_contain_text("fires most on")
    wanted = dot.get_attribute("href")
    dot.click()
    page.wait_for_url(f"**{wanted}")


@pytest.mark.parametrize("tab", ["light"], indirect=True)
def test_a_map_of_65536_points(tab: Tab) -> None:
    page = tab.page
    places = np.random.default_rng(0).normal(size=(3, 65_536)).astype("<f4")
    places[:, 7] = (9, 0, 5)  # alone at the right edge, and the densest
    page.route("**/map", lambda route: route.fulfill(body=places.tobytes()))
    page.goto(f"/sae/{SAE}")
    canvas = page.locator("#map canvas")
    canvas.wait_for()
    repaint = """() => new Promise((done) => {
      const begun = performance.now();
      document.documentElement.dataset.theme = "dark";
      queueMicrotask(() => queueMicrotask(() => done(performance.now() - begun)));
    })"""
    assert page.evaluate(repaint) < 250  # 10 to 30 ms; what is slower is felt
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 10, box["y"] + box["height"] / 2, steps=3)
    expect(page.locator("#tip")).to_contain_text("feature 7\n")
    page.mouse.move(0, 0)
    page.locator("#map .dot").focus()
    assert page.locator("#map .dot").get_attribute("href").endswith("/7")


def test_search(tab: Tab) -> None:
    page = tab.page
    rows = page.locator("#hits > li")
    title = page.locator("#results-title")
    page.goto("/")
    page.keyboard.press("g")
    page.keyboard.press("f")
    page.wait_for_url("**/search")
    check(page)
    page.keyboard.press("/")
    page.keyboard.type("french months")
    page.keyboard.press("Enter")
    expect(title).to_contain_text("1 feature")
    assert state(page) == {"text": "french months"}
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    assert focus_is_visible(page)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/sae/{SAES[-1]}/0")

    page.goto("/search?by=numbers")
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(100)
    check(page)
    page.get_by_label("Sites").fill("resid_post.*")
    page.get_by_label("Density in per cent, from").fill("nine")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("“nine” is not a number")
    page.get_by_label("Density in per cent, from").fill("9")
    page.keyboard.press("Enter")
    expect(title).to_contain_text("features")
    expect(page.locator("#status")).to_be_hidden()
    assert "mlp_out" not in page.locator("#hits").inner_text()

    page.goto(f"/search?by=text&text={TEXT}")
    expect(page.locator("#strip .t")).to_have_count(16)
    everywhere = title.inner_text()
    page.locator("#strip .t", has_text="January").click()
    expect(title).not_to_have_text(everywhere)
    assert state(page)["tokens"] == "7"
    check(page)
    page.reload()
    expect(page.locator("#strip .t[aria-pressed=true]")).to_have_text("·January")
    page.keyboard.press("Escape")
    expect(title).to_have_text(everywhere)

    page.goto(f"/search?by=direction&feature={SAE}/0")
    expect(rows).to_have_count(100)
    check(page)
    page.get_by_label("Feature", exact=True).fill("resid_post.1")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("A feature is written as")

    found = page.request.get(f"/api/sae/{SAE}/feature/0/direction").text()
    page.get_by_text("A vector of numbers").click()
    page.get_by_label("Numbers, as many").fill(found)
    page.get_by_label("At site").select_option(SAE.partition("/")[0])
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#hits > li .measure").first).to_have_text("cosine 1.00")
    check(page)
    page.reload()
    expect(rows).to_have_count(100)

    page.goto("/search?by=meaning&text=months")
    expect(page.locator("#status")).to_be_hidden()  # what is missing is said once
    expect(page.locator("#missing")).to_contain_text("name an embedding model in [explain.meaning]")
    check(page)


def test_microscope(tab: Tab) -> None:
    page = tab.page
    page.goto("/microscope")
    check(page)
    page.get_by_role("button", name="fiction").click()
    page.locator(".site").first.wait_for()
    assert page.locator(".site").count() == 12
    page.locator("textarea").fill(TEXT)
    page.keyboard.press("Enter")
    january = page.locator("#strip .t", has_text="January")
    january.wait_for()
    check(page)

    hover(tab, january)
    assert "January" in page.locator("#reading-title").inner_text()
    site = page.locator("[data-site='resid_post.1']")
    on_token = site.inner_text()
    hover(tab, site.locator(".pick").first)
    assert page.locator("#strip .t[style*='--a']").count() > 0
    assert "fires on" in page.locator("#saying").inner_text()

    january.click()
    site.locator(".pick").first.click()
    shared = state(page)
    assert set(shared) == {"text", "token", "feature"}
    page.reload()
    page.locator("#strip .t[aria-pressed=true]").wait_for()
    assert site.inner_text() == on_token
    assert page.locator("#strip .t[style*='--a']").count() > 0
    check(page)
    page.locator("#main").focus()
    page.keyboard.press("j")
    assert int(state(page)["token"]) == int(shared["token"]) + 1
    page.keyboard.press("Escape")
    assert set(state(page)) == {"text"}

    with page.expect_request("**/api/microscope") as sent:
        page.get_by_label("Hide denser than").select_option("0.01")
    assert json.loads(sent.value.post_data)["max_density"] == 0.01
    assert state(page)["density"] == "0.01"

    page.route("**/api/microscope", lambda route: route.abort())
    page.get_by_role("button", name="Look").click()
    page.get_by_role("button", name="Retry").wait_for()
    assert "The server does not answer" in page.locator("#status").inner_text()
    page.unroute("**/api/microscope")
    page.get_by_role("button", name="Retry").click()
    page.get_by_role("button", name="Retry").wait_for(state="detached")
    assert [line for line in tab.said if "ERR_FAILED" not in line] == []
    tab.said.clear()  # the browser's own line about the request that was cut off


def test_docs_keys_and_theme(tab: Tab) -> None:
    page = tab.page
    page.goto("/docs")
    page.locator(".route").first.wait_for()
    paths = page.request.get("/openapi.json").json()["paths"].values()
    assert page.locator(".route").count() == sum(map(len, paths)) > 40
    check(page)
    page.keyboard.press("/")
    page.keyboard.type("densities")
    assert page.locator(".route:visible").count() == 1
    page.locator(".route:visible summary").click()
    page.locator(".route[open] input[name=sae]").fill(SAE)
    page.get_by_role("button", name="Try it").click()
    page.locator(".route[open] pre:visible").wait_for()
    assert json.loads(page.locator(".route[open] pre").inner_text())["n_dead"] == 2
    check(page)

    page.locator("#main").focus()
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog").is_visible()
    page.get_by_role("link", name="What am I looking at?").click()
    page.wait_for_url("**/help#api")
    check(page)

    paper = "getComputedStyle(document.body).backgroundColor"
    seen = {page.evaluate(paper)}
    for name in ("Light", "Dark"):
        page.locator("#theme-button").click()
        assert page.locator("#theme-button").inner_text() == name
        seen.add(page.evaluate(paper))
    assert len(seen) == 2
    page.reload()
    assert page.locator("#theme-button").inner_text() == "Dark"
    page.keyboard.press("g")
    page.keyboard.press("s")
    page.wait_for_url(lambda url: urlparse(url).path == "/")


def test_text_on_every_shade_can_be_read(tab: Tab) -> None:
    tab.page.goto(f"/sae/{SAE}/0")
    tab.page.evaluate(
        """() => {
          const shades = Array.from({ length: 101 }, (_, n) => {
            const token = document.createElement("span");
            token.className = "t";
            token.textContent = String(n);
            token.style.setProperty("--a", n / 100);
            return token;
          });
          document.querySelector("main").replaceChildren(...shades);
        }"""
    )
    check(tab.page)


def test_numbers_are_written_alike_in_python_and_on_the_page(tab: Tab) -> None:
    values = [0, 0.99951, 999.6, 12345678, -0.01234, 0.00012, 1e12, 5.0, 0.1, 99.95, 100]
    tab.page.goto("/help")
    script = """async (values) => {
      const { number, density } = await import("/static/numbers.js");
      return values.map((value) => [number(value), density(value)]);
    }"""
    positive = [value for value in values if 0 <= value <= 1]
    shown = tab.page.evaluate(script, values)
    assert [pair[0] for pair in shown] == [numbers.number(value) for value in values]
    shown = tab.page.evaluate(script, positive)
    assert [pair[1] for pair in shown] == [numbers.density(value) for value in positive]
