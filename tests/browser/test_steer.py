"""Journeys through steering: features named, texts written, edits saved, opened and shared."""

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect
from tests.browser.audit import check
from tests.browser.conftest import SAES, TOKEN, Tab

pytestmark = pytest.mark.browser
SAE = SAES[2]


def written(page: Any, part: str) -> str:
    return page.locator(f"#{part} .strip").inner_text()


def edits_in_address(page: Any) -> list[dict[str, Any]]:
    return page.evaluate("JSON.parse(new URLSearchParams(location.search).get('edits'))")


def test_steering(tab: Tab) -> None:
    page = tab.page
    page.goto(f"/steer?feature={SAE}:3*2.5&prompt=The+dog#token={TOKEN}")
    about = page.locator(".edit .about")
    about.get_by_text("its maximum is").wait_for()
    assert "2.5 times that is" in about.inner_text()
    check(page)

    page.get_by_role("button", name="Write").click()
    page.locator("#steered .t").nth(47).wait_for()
    page.locator("#stop").wait_for(state="hidden")
    assert written(page, "normal") != written(page, "steered")
    assert page.locator("#kl > span").count() == 48
    assert "adds up to 25.0" in page.locator(".weighs").inner_text()
    check(page)

    token = page.locator("#steered .t").nth(5)
    token.tap() if tab.is_phone else token.hover()
    assert "likeliest:" in page.locator("#tip").inner_text()
    token.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(":focus").get_attribute("data-position") == "7"
    assert "likeliest:" in page.locator("#tip").inner_text()

    page.locator("[name=change]").select_option("remove")
    assert edits_in_address(page) == [{"action": "zero", "sae": SAE, "index": 3}]
    page.get_by_role("button", name="Add an edit").click()
    assert page.locator(".edit").count() == 2
    page.get_by_role("button", name="Remove this edit").first.click()
    page.get_by_role("spinbutton", name="number", exact=True).fill("7")
    page.get_by_role("spinbutton", name="Tokens").fill("9")
    page.locator("textarea").press("Enter")
    page.locator("#steered .t").nth(8).wait_for()
    page.locator("#stop").wait_for(state="hidden")
    assert page.locator("#steered .t").count() == 9
    page.reload()
    assert page.get_by_role("spinbutton", name="number", exact=True).input_value() == "7"
    assert page.get_by_role("spinbutton", name="Tokens").input_value() == "9"


EVERY = [
    {"action": "set", "sae": SAE, "index": 4, "value": 1.5, "unit": "max", "at": "prompt"},
    {"action": "clamp", "sae": SAE, "index": 5, "high": 0.5, "unit": "max", "at": [1, -1]},
    {"action": "patch", "sae": SAE, "index": 6, "source": "The river", "specials": True},
    {"action": "scale", "site": "resid_post.0", "value": -2, "along": f"{SAE}:7"},
    {"action": "zero", "site": "resid_post.0", "toward": "a", "away": "b", "at": "generated"},
    {"action": "add", "site": "resid_post.0", "value": 2, "direction": [0.5, -1]},
]


@pytest.mark.parametrize("tab", ["phone"], indirect=True)
def test_every_edit_is_saved_opened_and_shared(tab: Tab) -> None:
    page = tab.page
    query = urlencode({"edits": json.dumps(EVERY), "prompt": "The dog slept"})
    page.goto(f"/steer?{query}#token={TOKEN}")
    page.locator(".about", has_text="Feature 7").wait_for()
    token = page.locator(".edit").nth(1).locator(".tokens .t").nth(1)
    token.tap() if tab.is_phone else token.click()
    changed = [EVERY[0], {**EVERY[1], "at": [-1, 1, 2]}, *EVERY[2:]]
    assert edits_in_address(page) == changed
    check(page)
    page.get_by_label("Name for these edits").fill("all of them")
    page.get_by_role("button", name="Save").click()
    page.locator("#status", has_text="Saved as").wait_for()

    page.goto("/notes")
    page.get_by_role("link", name="all of them").click()
    page.locator(".about", has_text="Feature 7").wait_for()
    assert edits_in_address(page) == changed
    page.go_back()
    page.once("dialog", lambda dialog: dialog.accept())
    remove = page.get_by_role("button", name="Remove all of them")
    remove.click()
    remove.wait_for(state="detached")


@pytest.mark.parametrize("tab", ["dark"], indirect=True)
def test_a_feature_is_bookmarked(tab: Tab) -> None:
    page = tab.page
    page.goto(f"/sae/{SAE}/5#token={TOKEN}")
    star = page.get_by_role("button", name="Bookmark")
    star.click()
    page.locator("#star[aria-pressed=true]").wait_for()
    page.goto("/notes")
    remove = page.get_by_role("button", name=f"Remove feature 5 of {SAE}")
    remove.wait_for()
    check(page)
    remove.click()
    remove.wait_for(state="detached")


def test_who_may_not_steer_is_told_so(tab: Tab) -> None:
    tab.page.goto("/steer")
    tab.page.get_by_text("needs the token of this server").wait_for()
    assert tab.page.locator("#write").is_hidden()
    check(tab.page)


@pytest.mark.parametrize("tab", ["light", "phone"], indirect=True)
def test_what_is_wrong_is_said_beside_its_field(tab: Tab) -> None:
    """By the page where it can know, else by the server."""
    page = tab.page
    edits = [
        {"sae": SAE, "index": 99, "value": 2},
        {"action": "clamp", "sae": SAE, "index": 5, "low": 2, "high": 1},
        {"sae": f"{SAE}x", "index": 1, "value": "x", "at": []},
    ]
    query = urlencode({"edits": json.dumps(edits), "tokens": "999"})
    page.goto(f"/steer?{query}#token={TOKEN}")
    page.get_by_role("button", name="Write").click()
    rows = page.locator(".edit")
    assert "from 0 to 63" in rows.nth(0).locator("label:has([name=index]) + .problem").inner_text()
    assert "lower bound is above" in rows.nth(1).locator(".problem").inner_text()
    assert "a number between" in rows.nth(2).locator(".strength .problem").inner_text()
    assert "1 to 256" in page.locator(".settings .problem").inner_text()
    assert page.locator("#texts").is_hidden()
    check(page)
    problem = rows.nth(0).locator("label:has([name=index]) + .problem")
    for number, n_problems in (("3", 0), ("99", 1)):  # said while it is typed, too
        rows.nth(0).locator("[name=index]").fill(number)
        expect(problem).to_have_count(n_problems)

    for _ in range(2):
        page.get_by_role("button", name="Remove this edit").first.click()
    page.get_by_label("Strength as a number").fill("1")
    page.get_by_label("positions").fill("1")
    page.get_by_role("spinbutton", name="Tokens").fill("9")
    page.get_by_role("button", name="Write").click()
    page.locator(".problem", has_text=f"did you mean {SAE}").wait_for()
    assert page.locator("#status").is_hidden()
    assert all("404" in line for line in tab.said), "the browser's own lines about refusals"
    tab.said.clear()


@pytest.mark.parametrize("tab", ["light"], indirect=True)
def test_a_link_names_a_feature(tab: Tab) -> None:
    for wrong in ("[", "{}", "[null]", '[{"action":"ad"}]', '[{"direction":"x"}]'):
        tab.page.goto(f"/steer?{urlencode({'edits': wrong})}#token={TOKEN}")
        tab.page.get_by_text("edits that cannot be read").wait_for()
        assert tab.page.locator(".edit").count() == 1
    for address in (f"feature={SAE}/5", f"sae={SAE}&index=5", f"feature={SAE}:5"):
        tab.page.goto(f"/steer?{address}")
        tab.page.locator(".about", has_text="Feature 5").wait_for()
        assert tab.page.get_by_label("Strength as a number").input_value() == "3"
