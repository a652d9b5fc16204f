"""A feature is put in a list and commented on, on a page; each in light, in dark, on a phone."""

import pytest
from tests.browser.audit import check, focus_is_visible
from tests.browser.conftest import SAES, TOKEN, Tab

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
expect.set_options(timeout=30_000)
SAE = SAES[5]


def place_of(tab: Tab) -> tuple[str, str]:
    """A feature and a list for each kind of tab: all write to one server."""
    index = 30 + ["light", "dark", "phone"].index(tab.kind)
    return f"/sae/{SAE}/{index}", f"../{tab.kind} & “odd” 100 %"


def test_a_feature_is_put_in_a_list_and_taken_out(tab: Tab) -> None:
    page, (path, name) = tab.page, place_of(tab)
    page.goto(path)
    expect(page.locator("#lists")).to_be_hidden()
    page.goto(f"{path}#token={TOKEN}")
    page.reload()
    title = page.locator("#lists-title")
    expect(title).to_have_text("In no list yet")
    page.get_by_label("Name of the list").fill(name)
    page.keyboard.press("Tab")
    assert focus_is_visible(page)
    page.keyboard.type("fires on <b>months</b>")
    page.keyboard.press("Enter")
    expect(title).to_have_text("In 1 list")
    check(page)
    page.get_by_label("Name of the list").focus()
    expect(page.locator(f"#known-lists option[value='{name}']")).to_be_attached()
    page.locator("#lists li a").click()
    page.get_by_role("heading", name=name).wait_for()
    assert "fires on <b>months</b>" in page.locator("table").inner_text()
    check(page)
    page.get_by_role("link", name=path.rpartition("/")[2], exact=True).click()
    page.get_by_role("button", name=f"Take it out of {name}").click()
    expect(title).to_have_text("In no list yet")
    page.goto(f"{path}?embed=true")
    expect(page.locator("#examples .t.peak").first).to_be_visible()
    assert page.locator("#lists").count() == page.locator("#comments").count() == 0


def test_a_list_is_removed_with_all_its_features(tab: Tab) -> None:
    page, (path, name) = tab.page, place_of(tab)
    page.goto(f"{path}#token={TOKEN}")
    page.get_by_label("Name of the list").fill(f"{name} whole")
    page.get_by_role("button", name="Put in").click()
    page.get_by_role("button", name=f"Take it out of {name} whole").wait_for()
    page.goto("/notes")
    check(page)
    remove = page.get_by_role("button", name=f"Remove the list {name} whole")
    page.once("dialog", lambda dialog: dialog.dismiss())
    remove.click()
    expect(remove).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    remove.click()
    remove.wait_for(state="detached")
    page.goto(path)
    expect(page.locator("#lists-title")).to_have_text("In no list yet")


def test_a_feature_is_commented_on(tab: Tab) -> None:
    page, (path, name) = tab.page, place_of(tab)
    page.goto(f"{path}#token={TOKEN}")
    form = page.locator("#comments form")
    for number in range(4):
        form.get_by_label("Your comment").fill(f"comment {number} of {name}\nmore of it")
        if not number:
            form.get_by_label("Signed by").fill(f"Ada {tab.kind}")
        form.get_by_role("button").click()
        written = "1 comment" if not number else f"{number + 1} comments"
        expect(page.locator("#comments-title")).to_have_text(written)
    expect(form.get_by_label("Signed by")).to_have_value(f"Ada {tab.kind}")
    expect(page.locator("#label [name=author]")).to_have_value(f"Ada {tab.kind}")
    expect(page.get_by_text("comment 0 of")).to_be_hidden()
    page.get_by_text("1 before these").click()
    expect(page.get_by_text("comment 0 of")).to_be_visible()
    check(page)
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#comments [data-remove]").first.click()
    expect(page.locator("#comments-title")).to_have_text("3 comments")
    assert "comment 3 of" not in page.locator("#comments").inner_text()

    page.goto("/notes")
    expect(page.get_by_text(f"comment 2 of {name}")).to_be_visible()
    remove = page.get_by_role("button", name=f"Remove the comment by Ada {tab.kind}")
    expect(remove).to_have_count(3)


@pytest.mark.parametrize("tab", ["light"], indirect=True)
def test_what_another_tab_removed_is_said_to_be_gone(tab: Tab) -> None:
    page = tab.page
    path = f"/sae/{SAE}/40"
    page.goto(f"{path}#token={TOKEN}")
    page.locator("#comments [name=text]").fill("soon gone")
    page.locator("#comments [name=author]").fill("Ada")
    page.locator("#comments form button").click()
    button = page.locator("#comments [data-remove]")
    number = button.get_attribute("data-remove")
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert page.request.delete(f"/api/comments/{number}", headers=headers).ok
    page.once("dialog", lambda dialog: dialog.accept())
    button.click()
    said = page.locator("#comments [role=status]")
    expect(said).to_contain_text("is not in these notes; reload the page")
    tab.said.clear()  # the browser's own word for the 404
