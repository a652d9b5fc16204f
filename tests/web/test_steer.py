"""Steering over REST: events, refusals with their status, a turn that is given back."""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi.testclient import TestClient
from httpx2 import Response
from tests.web.conftest import SAES
from tests.web.fixture_run import FakeLive

from panscope.web import steer
from panscope.web.app import create_app
from panscope.web.readings import TokensBeside

TOKEN = "a-token-for-the-tests"
EDIT = {"sae": SAES[0], "index": 3, "value": 2.0, "unit": "max"}


class Endless(FakeLive):
    """Never comes to an end, as a slow model would not in time."""

    def beside(self, *asked: Any) -> Iterator[TokensBeside]:
        yield from itertools.cycle(super().beside(*asked))


@pytest.fixture(scope="module")
def writable(run_folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(run_folder, FakeLive(SAES), TOKEN)) as client:
        client.headers["authorization"] = f"Bearer {TOKEN}"
        yield client


def asked(client: TestClient, **keys: Any) -> Response:
    return client.post("/api/steer", json={"prompt": "The dog", "edits": [EDIT], **keys})


def events(answer: Response) -> list[tuple[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = answer.text.strip().split("\n\n")
    pairs = [block.split("\n") for block in blocks]
    return [(kind.removeprefix("event: "), json.loads(data[6:])) for kind, data in pairs]


def test_each_token_is_an_event_and_an_end_comes_last(writable: TestClient):
    *tokens, end = events(asked(writable, tokens=9))
    assert [kind for kind, _ in tokens] == ["token"] * 9
    assert end == ("end", {"reason": "written"})
    assert {*tokens[0][1]} == {"normal", "steered", "kl_nats", "shares"}
    assert any(both["normal"] != both["steered"] for _, both in tokens)


def test_without_edits_the_texts_are_one(writable: TestClient):
    *tokens, _ = events(asked(writable, edits=[], tokens=9))
    assert all(both["normal"] == both["steered"] for _, both in tokens)


@pytest.mark.parametrize(
    ("keys", "status", "words"),
    [
        ({"edits": [{**EDIT, "action": "ad"}]}, 422, "'add', 'set'"),
        ({"edits": [{**EDIT, "vlaue": 1}]}, 422, "did you mean value"),
        ({"edits": [EDIT, {**EDIT, "sae": SAES[0][1:]}]}, 404, f"did you mean {SAES[0]}"),
        ({"edits": [{**EDIT, "index": 64}]}, 404, "from 0 to 63"),
        ({"edits": [EDIT] * 17}, 422, "at most 16"),
        ({"tokens": 257}, 422, "256"),
        ({"prompt": "x" * 4_001}, 422, "4000"),
        ({"temperature": -1}, 422, "greater than or equal to 0"),
    ],
)
def test_a_refusal_has_its_status(
    writable: TestClient, keys: dict[str, Any], status: int, words: str
):
    answer = asked(writable, **keys)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_it_needs_the_token(client: TestClient, writable: TestClient):
    assert asked(client).status_code == 403, "this server only reads"
    refused = writable.post(
        "/api/steer", json={"prompt": ""}, headers={"authorization": "Bearer x"}
    )
    assert refused.status_code == 401


def test_the_time_is_bounded(run_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(steer, "SECONDS", 0.05)
    with TestClient(create_app(run_folder, Endless(SAES), TOKEN)) as client:
        client.headers["authorization"] = f"Bearer {TOKEN}"
        for _ in range(2):  # the turn was given back
            assert events(asked(client))[-1][1]["reason"].startswith("stopped after")


def test_who_stops_asking_gives_the_turn_back(run_folder: Path):
    app = create_app(run_folder, Endless(SAES))
    run, request = app.state.run, steer.SteerRequest(prompt="The dog")
    going = steer._events(run, request, [])
    stream = steer._from(next(going), going)
    assert "token" in next(stream) and "token" in next(stream)
    stream.close()
    with run.turns.take():
        pass


def test_a_reader_who_goes_away_gives_the_turn_back(run_folder: Path):
    """Over a real connection, which is cut in the middle of an endless text."""
    app = create_app(run_folder, Endless(SAES), TOKEN)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/api/steer"
    given: dict[str, Any] = {"json": {"prompt": "The dog"}}
    given |= {"headers": {"authorization": f"Bearer {TOKEN}"}}
    with httpx2.stream("POST", address, **given) as answer:
        assert next(answer.iter_lines()) == "event: token"
    began = time.monotonic()
    with app.state.run.turns.take():
        assert time.monotonic() - began < steer.SECONDS / 2
    server.should_exit = True
    thread.join(10)


def test_a_reader_who_never_reads_gives_the_turn_back(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(steer, "READING_SECONDS", 0.1 - steer.SECONDS)
    run = create_app(run_folder, Endless(SAES)).state.run
    stream = steer.steer(run, steer.SteerRequest(prompt="The dog"))

    async def stuck(*_: Any) -> Any:
        await asyncio.Event().wait()

    asyncio.run(asyncio.wait_for(stream({"type": "http"}, stuck, stuck), 5))
    with run.turns.take():
        pass
