"""Take the pictures of README and docs from a run of the demo: `python docs/pictures/make.py RUN`.

The run has labels of the Sae below and the contrast of the prompts that lie beside this file;
`make pictures` makes both. The feature that tells German from English best is in most pictures.
"""

import base64
import json
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import uvicorn
from playwright.sync_api import Page, sync_playwright

from panscope.web.app import create_app

HERE = Path(__file__).parent
CHROMIUM = "/usr/bin/chromium"
SAE = "resid_post.2/w2048_l0_20_s0"
CONTRAST = "german-english"
TEXT = "The old woman sat by the sea. Am Abend ging der alte Mann nach Hause."
TOKEN = "a-token-of-the-pictures"
JUDGED = (".labels > details > summary", ".judgements > summary")
MOST_BYTES = 120_000


@dataclass(frozen=True)
class Picture:
    """A view: its address, what must be there before it is taken, and what is clicked for that.

    One as wide as a phone is dark.
    """

    name: str
    address: str
    ready: str
    clicks: tuple[str, ...] = ()
    width: int = 1280
    height: int = 800


def pictures(index: int) -> list[Picture]:
    """All views; `index` names the feature that most of them show."""
    feature, text = f"/sae/{SAE}/{index}", quote(TEXT)
    edit = quote(f"{SAE}:{index}*0.75")
    return [
        Picture("suite", "/", "#plot .point"),
        Picture("sae", f"/sae/{SAE}", "#map canvas"),
        Picture("feature", f"{feature}?text={text}", "#test-result .peak"),
        Picture("microscope", f"/microscope?text={text}", ".site .pick"),
        Picture("search", f"/search?by=text&text={text}", "#results h2:not(:empty)"),
        Picture("steer", f"/steer?prompt=Once upon a time&feature={edit}", "#texts", ("#write",)),
        Picture("contrast", f"/contrast/{CONTRAST}", "table"),
        Picture("labels", feature, ".judged .t", JUDGED),
        Picture("tour", "/tour#guess", "#shown .peak"),
        Picture("progress", "/progress", "#saes td", height=640),
        Picture("feature-phone", feature, ".example .peak", width=390),
        Picture("suite-phone", "/", "#plot .point", width=390),
    ]


@contextmanager
def served(run: Path) -> Iterator[str]:
    """Serve a run while the pictures are taken; yield the address."""
    config = uvicorn.Config(create_app(run, token=TOKEN), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def take(page: Page, picture: Picture) -> bytes:
    """Open a view and return it as WebP, once nothing in it moves."""
    page.set_default_timeout(60_000)
    page.goto(picture.address if "#" in picture.address else f"{picture.address}#token={TOKEN}")
    for click in picture.clicks:
        page.locator(click).first.click()
    page.locator(picture.ready).first.wait_for()
    page.locator("#stop:visible, .skeleton").first.wait_for(state="hidden")
    page.wait_for_timeout(1_000)
    chrome = page.context.new_cdp_session(page)
    shot = chrome.send("Page.captureScreenshot", {"format": "webp", "quality": 80})
    return base64.b64decode(shot["data"])


def main(run: Path) -> None:
    """Take all pictures of a run, and say how large they are."""
    with served(run) as base, sync_playwright() as playwright:
        with urllib.request.urlopen(f"{base}/api/contrast/{CONTRAST}") as answer:
            found = json.load(answer)["found"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for picture in pictures(next(one["index"] for one in found if one["sae"] == SAE)):
            context = browser.new_context(
                base_url=base,
                viewport={"width": picture.width, "height": picture.height},
                color_scheme="dark" if picture.width == 390 else "light",
            )
            image = take(context.new_page(), picture)
            context.close()
            assert len(image) < MOST_BYTES, f"{picture.name} has {len(image)} bytes"
            (HERE / f"{picture.name}.webp").write_bytes(image)
            print(f"{picture.name}.webp  {len(image):,} bytes")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
