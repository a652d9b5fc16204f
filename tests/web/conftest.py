import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.web.fixture_run import SITES, FakeLive, build

from panscope.web.app import create_app

SAES = [f"{site}/w64_l0_30_s0" for site in SITES]
TOKEN = "0123456789abcdef"


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="session")
def client(run_folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(run_folder, FakeLive(SAES))) as client:
        yield client


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one Sae, for tests that write notes."""
    return build(tmp_path_factory.mktemp("written") / "run", SITES[:1])


@pytest.fixture
def writable(run: Path) -> Iterator[TestClient]:
    """The run without notes, and a client that may write them."""
    for path in run.glob("notes.sqlite*"):
        path.unlink()
    with TestClient(create_app(run, FakeLive(SAES[:1]), TOKEN)) as client:
        client.headers["authorization"] = f"Bearer {TOKEN}"
        yield client


@pytest.fixture(scope="module", autouse=True)  # before what a module makes for all its tests
def _no_loop_of_a_browser() -> Iterator[None]:
    """Hide the event loop that Playwright leaves running in a worker that had browser tests."""
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(loop)
