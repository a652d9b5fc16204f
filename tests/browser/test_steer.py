"""A journey through steering: a feature named, both texts written, the view shared."""

from typing import Any

import pytest
from tests.browser.audit import check
from tests.browser.conftest import SAES, TOKEN, Tab

pytestmark = pytest.mark.browser
SAE = SAES[2]


def written(page: Any, part: str) -> str:
    return page.locator(f"#{part} .strip").inner_text()


def test_steering(tab: Tab) -> None:
    page = tab.page
    page.goto(f"/steer?feature={SAE}:3*2.5&prompt=The+dog#token={TOKEN}")
    about = page.locator(".edit .about")
    about.get_by_text("its maximum is").wait_for()
    assert "2.50 times that is" in about.inner_text()
    check(page)

    page.get_by_role("button", name="Write").click()
    page.locator("#steered .t").nth(47).wait_for()
    page.locator("#stop").wait_for(state="hidden")
    assert written(page, "normal") != written(page, "steered")
    assert page.locator("#kl > span").count() == 48
    assert f"{SAE}:3*2.5 adds up to 25.0" in page.locator("#told").inner_text()
    check(page)

    token = page.locator("#steered .t").nth(5)
    token.tap() if tab.is_phone else token.hover()
    assert "likeliest:" in page.locator("#tip").inner_text()
    token.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(":focus").get_attribute("data-position") == "7"

    page.get_by_role("button", name="Ablate").click()
    assert f"{SAE}:3=0" in page.evaluate("decodeURIComponent(location.search)")
    page.get_by_role("button", name="Add a feature").click()
    assert page.locator(".edit").count() == 2
    page.get_by_role("button", name="Remove this feature").first.click()
    page.get_by_role("spinbutton", name="feature").fill("7")
    page.get_by_role("spinbutton", name="Tokens").fill("9")
    page.locator("textarea").press("Enter")
    page.locator("#steered .t").nth(8).wait_for()
    page.locator("#stop").wait_for(state="hidden")
    assert page.locator("#steered .t").count() == 9
    page.reload()
    assert page.get_by_role("spinbutton", name="feature").input_value() == "7"
    assert page.get_by_role("spinbutton", name="Tokens").input_value() == "9"


def test_who_may_not_steer_is_told_so(tab: Tab) -> None:
    tab.page.goto("/steer")
    tab.page.get_by_text("needs the token of this server").wait_for()
    assert tab.page.locator("#write").is_hidden()
    check(tab.page)


def test_a_refusal_is_said_where_the_texts_would_be(tab: Tab) -> None:
    page = tab.page
    page.goto(f"/steer?feature={SAE}:99*2#token={TOKEN}")
    page.locator(".about", has_text="no feature 99").wait_for()
    page.evaluate("document.querySelector('[name=index]').removeAttribute('max')")
    page.get_by_role("button", name="Write").click()
    page.locator("#status", has_text="give an index from 0 to 63").wait_for()
    assert page.get_by_role("button", name="Retry").is_visible()
    assert all("404" in line for line in tab.said), "the browser's own lines about refusals"
    tab.said.clear()


def test_a_link_names_a_feature(tab: Tab) -> None:
    for address in (f"feature={SAE}/5", f"sae={SAE}&index=5", f"feature={SAE}:5"):
        tab.page.goto(f"/steer?{address}")
        tab.page.locator(".about", has_text="Feature 5").wait_for()
        assert tab.page.get_by_label("Strength as a number").input_value() == "3"
