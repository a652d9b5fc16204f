"""Work begun from the pages by those who may write: a contrast, a label and its scores."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect
from tests.browser.audit import check
from tests.browser.conftest import SAES, TOKEN, Tab

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("tab", ["phone"], indirect=True)
def test_a_contrast_is_begun_followed_and_cancelled(tab: Tab, tmp_path: Path) -> None:
    page = tab.page
    page.goto("/contrast")
    assert page.locator("#begin").is_hidden()
    page.goto("about:blank")
    page.goto(f"/contrast#token={TOKEN}")
    page.get_by_label("Prompts of set a").fill("one\ntwo\n\nthree")
    expect(page.locator("[data-count=a]")).to_have_text("3 prompts")
    page.get_by_label("or passages of").nth(1).select_option("news")
    expect(page.get_by_label("Prompts of set b")).to_be_disabled()
    page.get_by_label("Name").fill("mine-news")
    check(page)
    page.get_by_role("button", name="Begin").click()
    expect(page.locator("#said")).to_have_text("Set a has 3 prompts; give 8 or more.")

    prompts = tmp_path / "Prompts of mine.txt"
    prompts.write_text("a line\n" * 9)
    page.get_by_label("or a file").first.set_input_files(prompts)
    expect(page.locator("[data-count=a]")).to_have_text("9 prompts")
    page.get_by_role("button", name="Begin").click()
    expect(page.locator("#work-title")).to_have_text("Contrast mine-news is at work")
    check(page)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#work-title")).to_have_text(
        "Contrast mine-news was cancelled", timeout=30_000
    )
    assert page.get_by_role("button", name="Cancel").is_hidden()


@pytest.mark.parametrize("tab", ["light"], indirect=True)
def test_a_feature_is_explained_and_a_label_scored(tab: Tab) -> None:
    page = tab.page
    page.goto(f"/sae/{SAES[0]}/8#token={TOKEN}")
    page.get_by_role("button", name="Explain").click()
    expect(page.locator(".labels > .note").first).to_contain_text("panscope, rules · detection")
    page.get_by_label("Your label").fill("the word “river”")
    page.get_by_label("Your name").fill("Ada")
    page.get_by_role("button", name="Keep").click()
    expect(page.locator("#label-title")).to_have_text("the word “river”")
    page.get_by_role("button", name="Score this label").click()
    expect(page.locator(".labels > .note").first).to_contain_text("Ada, human · detection")
    page.locator(".labels > details > summary").click()
    page.locator(".judgements > summary").first.click()
    for scorer in ("fuzzing", "detection"):  # the first stands open
        page.get_by_text(re.compile(f"^{scorer} by panscope: .* right")).click()
    assert page.locator(".judged:visible").count() == 1
    assert page.locator(".judged:visible .t.peak").count() > 4
    page.set_viewport_size({"width": 390, "height": 844})
    check(page)
