"""Journeys over the tour, a folder of runs with their progress, and a frozen copy."""

import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uvicorn
from tests.browser.audit import check, focus_is_visible
from tests.browser.conftest import Tab
from tests.web.fixture_run import build

from panscope.events import Advanced, Finished, Measured, Started, silent, to_jsonl
from panscope.web.app import create_runs_app, freeze_run

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("small") / "small")


@pytest.fixture(scope="session")
def runs_address(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("many")
    shutil.copytree(small_run, folder / "demo")
    emit = to_jsonl(folder / "in training/events.jsonl")
    emit(Started("train", 2_000_000, "tokens"))
    emit(Measured("train", 5, 20_480, {"mlp_out.1/w64_l0_30_s0": {"fvu": 0.31, "l0": 49.8}}))
    emit(Advanced("train", 500_000, {"fvu": 0.31, "tokens/s": 12_345.0}))
    server = uvicorn.Server(uvicorn.Config(create_runs_app(folder), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_the_tour(tab: Tab) -> None:
    page = tab.page
    page.goto("/tour")
    page.get_by_role("button", name="Look").click()
    expect(page.locator(".tour-features li").first).to_contain_text("Feature")
    check(page)
    page.locator("#seen .t", has_text="woman").click()
    expect(page.locator("#seen .t[aria-pressed=true]")).to_have_text("·woman")

    page.locator("#main").focus()
    page.keyboard.press("j")
    assert page.url.endswith("#guess")
    assert focus_is_visible(page)
    page.reload()
    expect(page.get_by_role("heading", name="Guess what a feature means")).to_be_visible()
    page.get_by_role("button", name="Hard").click()
    boxes = page.locator("#asked input")
    assert boxes.count() == 4
    assert page.locator("#asked .peak").count() == 0  # nothing is given away
    for box in boxes.all():
        box.check()
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#verdict")).to_contain_text("2 of 4 right; guessing alone gives 2.")
    assert page.locator("#asked .peak").count() == 2
    assert page.locator(".choice.wrong").count() == 2
    check(page)
    page.get_by_role("link", name="whole, and test it").click()
    page.wait_for_url("**/sae/resid_post.*/*/*")


def test_a_folder_of_runs(tab: Tab, runs_address: str) -> None:
    page = tab.page
    page.goto(f"{runs_address}/")
    check(page)
    page.get_by_role("link", name="train 25 %").click()
    bar = page.get_by_label("train: 500000 of 2000000 tokens")
    expect(bar).to_have_attribute("value", "500000")
    expect(page.locator("#saes tbody td").nth(1)).to_have_text("0.310")
    check(page)
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("link", name="demo", exact=True).click()
    page.locator("#saes tbody a").first.click()
    page.locator(".row a").first.click()
    page.wait_for_url("**/run/demo/sae/attn_z.0/*/*")
    page.locator(".example").first.wait_for()
    page.keyboard.press("g")
    page.keyboard.press("s")
    page.wait_for_url("**/run/demo/")


def test_progress_moves_by_itself(tab: Tab, tmp_path: Path) -> None:
    emit = to_jsonl(tmp_path / "run/events.jsonl")
    emit(Started("train", 100, "tokens"))
    server = uvicorn.Server(uvicorn.Config(create_runs_app(tmp_path), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    tab.page.goto(f"http://127.0.0.1:{port}/run/run/progress")
    expect(tab.page.locator(".stage")).to_contain_text("0 of 100 tokens")
    emit(Advanced("train", 60))
    expect(tab.page.locator(".stage")).to_contain_text("60 of 100 tokens")
    emit(Finished("train", 1.0))
    expect(tab.page.locator(".stage")).to_contain_text("done")
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="session")
def frozen_copy(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("frozen") / "copy"
    with ThreadPoolExecutor(1) as thread:  # playwright's own loop runs in this one
        thread.submit(freeze_run, small_run, copy, 10, silent).result()
    return copy


def test_a_frozen_copy_opens_from_the_disk(tab: Tab, frozen_copy: Path) -> None:
    page = tab.page
    page.goto(f"file://{frozen_copy}/index.html")
    check(page)
    page.locator("#saes tbody a").first.click()
    found = page.locator("#found")
    all_of_it = re.compile(r"^1[0-3] of 64$")  # ten, and those of the tour
    expect(found).to_have_text(all_of_it)
    page.get_by_role("columnheader", name="Max").get_by_role("button").click()
    expect(page.locator("[aria-sort=descending]")).to_contain_text("Max")
    page.locator("#query input[name=text]").fill("·january")
    expect(found).not_to_have_text(all_of_it)
    check(page)
    page.get_by_role("button", name="Clear").click()
    page.locator("#map .dot").focus()
    expect(page.locator("#tip")).to_contain_text("fires most on")
    page.keyboard.press("Enter")
    page.locator(".example").first.wait_for()
    expect(page.locator("#test")).to_be_hidden()
    expect(page.get_by_text("A frozen copy")).to_be_visible()
    page.get_by_label("In other Saes").check(force=True)
    expect(page.locator(".near[data-near=elsewhere] .says").first).not_to_be_empty()
    check(page)
    page.keyboard.press("j")
    page.locator(".example").first.wait_for()
    page.locator(".crumbs a").last.click()
    expect(found).to_have_text(all_of_it)

    page.locator(".brand").click()
    page.locator("#find").fill("january")
    page.get_by_role("button", name="Find").click()
    page.wait_for_url("**/search/numbers/index.html?*")
    expect(page.locator("#results-title")).to_contain_text("feature")
    page.get_by_label("Sites").fill("resid_post.*")
    page.keyboard.press("Enter")
    expect(page.locator("#hits")).not_to_contain_text("attn_z")
    check(page)
    page.keyboard.press("Escape")
    page.locator("#main").focus()
    for key, name in [("t", "A guided tour"), ("p", "Progress of small"), ("m", "Microscope")]:
        page.keyboard.press("g")
        page.keyboard.press(key)
        expect(page.get_by_role("heading", name=name)).to_be_visible()
        page.wait_for_load_state()  # keys are heard from then on
    expect(page.get_by_text("A frozen copy has neither model nor server")).to_be_visible()
    page.locator("textarea").fill("In January")
    page.get_by_role("button", name="Look").click()
    expect(page.locator("#status")).to_contain_text("needs a running server")
    check(page)
