"""A feature explained and its labels scored from its page, by rules and by a language model."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.browser.audit import check
from tests.browser.conftest import L0S, SITES, TOKEN, Tab, served
from tests.stages.loopback import serving
from tests.web.fixture_run import build, build_notes

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
expect.set_options(timeout=30_000)
SAE = "resid_post.1/w64_l0_30_s0"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = build(tmp_path / "fixture", SITES[3:6], L0S[1:2])
    build_notes(run, [SAE])
    return run


@pytest.fixture
def address(run: Path) -> Iterator[str]:
    with served(run) as address:
        yield address


def test_by_rules_alone_there_is_nothing_to_choose(tab: Tab) -> None:
    page = tab.page
    page.goto(f"/sae/{SAE}/1")
    page.locator(".labels > details > summary").click()
    expect(page.get_by_role("button", name="Score")).to_have_count(0)
    page.goto(f"/sae/{SAE}/0#token={TOKEN}")
    expect(page.locator("#explain")).to_be_visible()
    page.locator(".labels > details > summary").click()
    expect(page.locator("#who")).to_be_hidden()
    page.get_by_role("button", name="Score the label words such as January").click()
    page.wait_for_url("**#label-1")
    expect(page.locator("#label-1")).to_contain_text("by panscope")
    check(page)


def test_a_model_is_chosen_and_kept_for_the_next_feature(tab: Tab, run: Path) -> None:
    page = tab.page
    with serving() as model:
        endpoint = {"base_url": model.url, "model": "tiny-judge", "a_minute": 1e6}
        (run / "recipe.json").write_text(json.dumps({"explain": {"endpoint": endpoint}}))
        page.goto(f"/sae/{SAE}/0#token={TOKEN}")
        who = page.locator("#who")
        expect(who).to_have_text("by rules")
        who.focus()
        page.keyboard.press("Enter")
        expect(who).to_have_attribute("aria-expanded", "true")
        page.get_by_label("Explains and scores").select_option(label="tiny-judge")
        page.get_by_label("simulation").uncheck()
        expect(who).to_have_text("by tiny-judge, detection and fuzzing")
        check(page)
        page.get_by_role("button", name="Explain", exact=True).click()
        page.wait_for_url("**#label-*")
        expect(page.locator(".history > li:target")).to_contain_text("tiny-judge, model")
        assert page.locator(".history > li:target tbody tr").count() == 2
        n_asked = len(model.requests)

        page.goto(f"/sae/{SAE}/9")
        expect(who).to_have_text("by tiny-judge, detection and fuzzing")
        who.click()
        for scorer in ("detection", "fuzzing"):
            page.get_by_label(scorer).uncheck()
        page.get_by_label("Your label").fill("something")
        page.get_by_label("Your name").fill("Ada")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Score this label").click()
        expect(page.locator("#label-said")).to_have_text(
            "No scorer is ticked; tick one of them first."
        )
        assert len(model.requests) == n_asked


def test_what_fails_is_one_sentence(tab: Tab, run: Path) -> None:
    page = tab.page
    endpoint = {"model": "tiny-judge", "key_variable": "A_KEY_THAT_NOBODY_SET"}
    recipe = {"explain": {"by": "endpoint", "endpoint": endpoint}}
    (run / "recipe.json").write_text(json.dumps(recipe))
    page.goto(f"/sae/{SAE}/9#token={TOKEN}")
    who = page.locator("#who")
    expect(who).to_have_text("by rules")
    who.click()
    expect(page.locator("#who-choices")).to_contain_text("A_KEY_THAT_NOBODY_SET is not set")
    page.goto(f"/sae/{SAE}/5")
    page.get_by_role("button", name="Explain", exact=True).click()
    expect(page.locator("#label-said")).to_contain_text("has too few examples")
    tab.said[:] = [line for line in tab.said if "422" not in line]
