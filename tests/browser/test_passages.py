"""How much of each passage a feature's page shows, and whether its line breaks are."""

import re

import pytest
from tests.browser.audit import check
from tests.browser.conftest import Tab
from tests.browser.test_journeys import SAE, expect, state

pytestmark = pytest.mark.browser
TEXT = "def visit:\nreturn None\nThe dog slept in January."
FORGETFUL = """for (const name of ["localStorage", "sessionStorage"])
  Object.defineProperty(window, name, { get() { throw new DOMException("no", "SecurityError"); } });
"""


def n_breaks(page) -> int:
    """Count the line breaks of the tested text that are shown."""
    shown = "all => all.filter((one) => getComputedStyle(one).display !== 'none').length"
    return page.locator("#test-result br").evaluate_all(shown)


def test_line_breaks_are_hidden_on_this_page_and_the_next(tab: Tab) -> None:
    page = tab.page
    page.goto(f"/sae/{SAE}/0")
    page.get_by_label("Text to test").fill(TEXT)
    page.get_by_role("button", name="Test", exact=True).click()
    page.locator("#test-result .t").first.wait_for()
    assert n_breaks(page) == 2
    button = page.locator("#breaks")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_text("Show line breaks")
    assert n_breaks(page) == 0 and state(page)["breaks"] == "hidden"
    assert "↵" in page.locator("#test-result").inner_text()
    page.get_by_role("button", name="Embed").click()
    expect(page.get_by_label("The code")).to_have_value(re.compile("breaks=hidden"))
    page.goto(f"/sae/{SAE}/1?text=a%0AThe dog")
    page.locator("#test-result .t").first.wait_for()
    assert n_breaks(page) == 0
    page.goto(f"/sae/{SAE}/1?breaks=shown&text=a%0AThe dog")
    page.locator("#test-result .t").first.wait_for()
    assert n_breaks(page) == 1
    page.locator("#breaks").click()
    page.locator("#breaks").click()
    page.goto(f"/sae/{SAE}/2")
    expect(page.locator("#breaks")).to_have_text("Hide line breaks")


def test_passages_are_shown_on_a_line_on_a_few_or_whole(tab: Tab) -> None:
    page = tab.page
    page.goto(f"/sae/{SAE}/0?pin=0.3")
    size, tokens = page.get_by_label("Passages"), page.locator(".example >> nth=0").locator(".t")
    on_a_line = tokens.count()
    size.select_option("snippet")
    on_a_few = tokens.count()
    assert 0 < on_a_few <= 63 and (tab.is_phone or on_a_line < on_a_few)
    assert page.locator(".example.open .t.peak").count() == page.locator(".example").count()
    check(page)
    size.select_option("whole")
    assert tokens.count() == 63 and state(page) == {"size": "whole", "pin": "0.3"}
    assert page.locator(".t[aria-pressed=true]").count() == 1  # the pinned token is there again
    page.get_by_role("button", name="fold", exact=True).first.click()
    assert tokens.count() < 63
    page.goto(f"/sae/{SAE}/1")
    expect(size).to_have_value("whole")
    expect(tokens).to_have_count(63)
    page.goto(f"/sae/{SAE}/1?size=snippet&breaks=nonsense")
    expect(size).to_have_value("snippet")
    page.get_by_role("button", name="unfold", exact=True).first.click()
    expect(tokens).to_have_count(63)
    page.get_by_role("button", name="fold", exact=True).click()
    expect(page.get_by_role("button", name="fold", exact=True)).to_have_count(0)
    expect(page.locator("#breaks")).to_have_text("Hide line breaks")


def test_a_page_works_where_the_browser_keeps_nothing(tab: Tab) -> None:
    page = tab.page
    page.add_init_script(FORGETFUL)
    page.goto(f"/sae/{SAE}/0?embed=true")
    expect(page.locator("#examples .t.peak").first).to_be_visible()
    page.locator("#breaks").click()
    expect(page.locator("#breaks")).to_have_text("Show line breaks")
