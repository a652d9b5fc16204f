import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.web.fixture_contrast import build_contrast
from tests.web.fixture_run import FakeLive, build, build_notes

from panscope.web.app import create_app

CHROMIUM = Path("/usr/bin/chromium")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SITES = [f"{kind}.{layer}" for layer in range(4) for kind in ("attn_z", "mlp_out", "resid_post")]
L0S = (15, 30, 60)
TOKEN = "a-token-of-the-tests"
SAES = [f"{site}/w64_l0_{l0}_s0" for site in SITES for l0 in L0S]


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server over a fixture run of 12 sites, in a thread."""
    run = build(tmp_path_factory.mktemp("runs") / "fixture", SITES, L0S)
    build_notes(run, SAES)
    build_contrast(run, "french-english", SAES[::3])
    with served(run) as address:
        yield address


@contextmanager
def served(run: Path) -> Iterator[str]:
    """Serve a fixture run for the length of a with block, in a thread."""
    config = uvicorn.Config(create_app(run, FakeLive(SAES), TOKEN), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"no browser at {CHROMIUM}: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=QUIET)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Tab:
    """A page of the browser, and what its console said."""

    page: Any
    said: list[str]
    kind: str

    @property
    def is_phone(self) -> bool:
        return self.kind == "phone"


@pytest.fixture(params=["light", "dark", "phone"])
def tab(request: pytest.FixtureRequest, chromium: Any, address: str) -> Iterator[Tab]:
    """A wide page in light and in dark, and a phone's; a word on the console is a failure."""
    is_phone = request.param == "phone"
    context = chromium.new_context(
        base_url=address,
        viewport={"width": 390, "height": 844} if is_phone else {"width": 1280, "height": 860},
        color_scheme="dark" if request.param == "dark" else "light",
        has_touch=is_phone,
    )
    tab = Tab(context.new_page(), [], request.param)
    tab.page.set_default_timeout(30_000)
    tab.page.on(
        "console", lambda line: line.type in ("error", "warning") and tab.said.append(line.text)
    )
    tab.page.on("pageerror", lambda error: tab.said.append(str(error)))
    yield tab
    context.close()
    assert tab.said == []
