"""A journey through contrasts: from the list to a feature that differs, and on to steering."""

import pytest
from tests.browser.audit import check
from tests.browser.conftest import Tab

pytestmark = pytest.mark.browser


def test_contrasts(tab: Tab) -> None:
    page = tab.page
    page.goto("/contrast")
    check(page)
    page.get_by_role("link", name="french-english").click()
    page.get_by_role("heading", name="Features that differ most").wait_for()
    assert page.locator("section").first.locator("tbody tr").count() == 12
    check(page)
    page.locator("section").first.locator("tbody a").first.click()
    page.get_by_role("heading", name="Where it fires").wait_for()
    page.go_back()
    page.get_by_role("link", name="Steer with feature 1 of").click()
    page.locator(".about", has_text="Feature 1").wait_for()
    page.locator("#main").focus()
    page.keyboard.press("g")
    page.keyboard.press("c")
    page.wait_for_url("**/contrast")
