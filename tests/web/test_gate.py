"""What no route sees: foreign hosts, cross-site writes, bodies too large or too slow."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends
from fastapi.testclient import TestClient
from tests.web.conftest import SAES
from tests.web.fixture_run import FakeLive

from panscope.errors import ConfigError
from panscope.web import gate, writing
from panscope.web.app import create_app
from panscope.web.gate import HEADERS, LOOPBACK, MAX_BODY_BYTES, Gate
from panscope.web.problem import Refused
from panscope.web.turns import Turns

SAE = SAES[2]
TOKEN = "a-token-for-the-tests"


def local(run_folder: Path, token: str | None = None) -> TestClient:
    app = create_app(run_folder, FakeLive(SAES), token, LOOPBACK)

    @app.post("/api/label", dependencies=[Depends(writing.may_write)])
    def label() -> str:
        return "written"

    return TestClient(app, base_url="http://localhost:8000")


def refusal(answer: Any) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["kind"], error["message"]


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8000", "[::2]:8000", ""])
def test_a_name_that_was_made_to_point_here_is_refused(run_folder: Path, host: str) -> None:
    client = local(run_folder)
    status, kind, message = refusal(client.get("/api/saes", headers={"host": host}))
    assert (status, kind) == (421, "Refused")
    assert "is not this server; ask for 127.0.0.1 or [::1] or localhost" in message
    page = client.get("/", headers={"host": host})
    assert page.status_code == 421
    assert page.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:8000"])
def test_this_machine_is_known_by_its_names(run_folder: Path, host: str) -> None:
    assert local(run_folder).get("/api/saes", headers={"host": host}).status_code == 200


def test_a_server_for_others_answers_to_any_name(client: TestClient) -> None:
    assert client.get("/api/saes", headers={"host": "lab.example"}).status_code == 200


def test_another_sites_page_cannot_use_the_model(client: TestClient) -> None:
    body = {"sae": SAE, "index": 0, "text": "a"}
    from_elsewhere = {"sec-fetch-site": "cross-site"}
    answer = client.post("/api/test", json=body, headers=from_elsewhere)
    assert refusal(answer)[:2] == (403, "Refused")
    assert client.get("/api/saes", headers=from_elsewhere).status_code == 200
    own = client.post("/api/test", json=body, headers={"sec-fetch-site": "same-origin"})
    assert own.status_code == 200


def test_an_address_of_digits_alone_is_refused(client: TestClient) -> None:
    answer = client.get(f"/sae/{SAE}/{'9' * 5_000}")
    assert answer.status_code == 414
    assert "has more than 2,000 characters; start from /" in answer.text


def test_head_says_what_get_would(client: TestClient) -> None:
    for path in ("/", "/api/saes"):
        head, whole = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(whole.content))


def test_who_waits_is_sent_away_at_a_stop() -> None:
    turns = Turns()
    refused: list[str] = []

    def wait() -> None:
        with pytest.raises(Refused) as caught, turns.take():
            pass
        refused.append(str(caught.value))

    with turns.take():
        waiting = threading.Thread(target=wait)
        waiting.start()
        turns.close()
        waiting.join(5)
    assert refused == ["the model: is being stopped; ask again in 5 seconds"]


def test_a_body_is_bounded_whether_or_not_it_says_its_length(client: TestClient) -> None:
    whole = b'{"text": "' + b"a" * MAX_BODY_BYTES + b'"}'
    pieces = (whole[start : start + 4096] for start in range(0, len(whole), 4096))
    for body in (whole, pieces):
        answer = client.post("/api/microscope", content=body)
        assert refusal(answer)[:2] == (413, "Refused")


def test_a_body_of_the_largest_size_reaches_its_route(client: TestClient) -> None:
    start = b'{"text": "a", "saes": []'
    body = start + b" " * (MAX_BODY_BYTES - len(start) - 1) + b"}"
    headers = {"content-type": "application/json"}
    assert client.post("/api/microscope", content=body, headers=headers).status_code == 200


def test_a_body_that_does_not_come_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.05)
    said: list[Any] = []

    async def never(*_: object) -> Any:
        raise AssertionError("the app was asked")

    async def silent() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        said.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/test",
        "headers": [],
        "query_string": b"",
    }
    asyncio.run(Gate(never)({**scope, "server": ("localhost", 80), "scheme": "http"}, silent, send))
    assert said[0]["status"] == 408
    assert b"did not arrive within" in said[1]["body"]


@pytest.mark.parametrize("has_begun", [False, True])
def test_who_is_cut_off_by_a_stop_is_told(has_begun: bool) -> None:
    """And the log is left alone: it had sixty lines of traceback for each."""
    said: list[Any] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if has_begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(60)

    async def never() -> Any:
        raise AssertionError("a request without a body was read")

    async def send(message: Any) -> None:
        said.append(message)

    async def stopped() -> None:
        scope = {"type": "http", "method": "GET", "path": "/api/saes", "headers": []}
        scope |= {"query_string": b"", "server": ("localhost", 80), "scheme": "http"}
        asked = asyncio.create_task(Gate(slow)(scope, never, send))
        await asyncio.sleep(0)
        asked.cancel()
        await asked

    asyncio.run(stopped())
    assert said[0]["status"] == (200 if has_begun else 503)
    assert has_begun or b"the server: is being stopped" in said[1]["body"]
    assert [message["type"] for message in said] == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize("path", ["/", "/api/saes", "/nothing", "/api/nothing", "/static/base.css"])
def test_every_answer_carries_the_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert "'unsafe" not in headers["content-security-policy"]


def test_what_nobody_foresaw_carries_them_too(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("panscope.web.run.RunFolder.suite", lambda self: 1 / 0)
    client = TestClient(create_app(run_folder), raise_server_exceptions=False)
    answer = client.get("/api/suite")
    assert answer.status_code == 500
    assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]


def test_a_wrong_method_says_which_are_right(client: TestClient) -> None:
    answer = client.delete("/api/suite")
    assert refusal(answer)[:2] == (405, "ConfigError")
    assert answer.headers["allow"] == "GET"


def test_a_server_only_reads_unless_it_was_told(run_folder: Path) -> None:
    client = local(run_folder)
    given = {"authorization": f"Bearer {TOKEN}"}
    status, kind, message = refusal(client.post("/api/label", headers=given))
    assert (status, kind) == (403, "Refused")
    assert "panscope serve --writable" in message
    assert client.get("/api/writing").json() == {"writable": False, "accepted": False}


@pytest.mark.parametrize(
    "given", [None, f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", "Bearer é"]
)
def test_writing_needs_the_token(run_folder: Path, given: str | None) -> None:
    client = local(run_folder, TOKEN)
    headers = {"authorization": given.encode()} if given else {}
    answer = client.post("/api/label", headers=headers)
    assert refusal(answer)[:2] == (401, "Refused")
    assert answer.headers["www-authenticate"] == "Bearer"
    state = client.get("/api/writing", headers=headers)
    assert state.json() == {"writable": True, "accepted": False}


def test_the_token_lets_write(run_folder: Path) -> None:
    client = local(run_folder, TOKEN)
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert client.post("/api/label", headers=headers).json() == "written"
    assert client.get("/api/writing", headers=headers).json() == {
        "writable": True,
        "accepted": True,
    }


def test_tokens_are_given_or_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANSCOPE_TOKEN", TOKEN)
    assert writing.token_from_environment() == TOKEN
    monkeypatch.setenv("PANSCOPE_TOKEN", "short")
    with pytest.raises(ConfigError, match="PANSCOPE_TOKEN: is not 16 or more"):
        writing.token_from_environment()
    monkeypatch.delenv("PANSCOPE_TOKEN")
    made = {writing.token_from_environment() for _ in range(3)}
    assert len(made) == 3
    assert all(len(token) == 32 for token in made)


def test_turns_are_one_at_a_time_and_few_wait() -> None:
    turns = Turns(n_waiting=1, wait_seconds=20)
    entered, leave = threading.Event(), threading.Event()
    order: list[str] = []

    def hold() -> None:
        with turns.take():
            entered.set()
            leave.wait(20)
            order.append("first")

    def wait() -> None:
        with turns.take():
            order.append("second")

    threads = [threading.Thread(target=hold), threading.Thread(target=wait)]
    threads[0].start()
    entered.wait(20)
    threads[1].start()
    while turns._places._value:
        pass
    with (
        pytest.raises(Refused, match="the model: has a full queue; ask again in 5 seconds"),
        turns.take(),
    ):
        pass
    leave.set()
    for thread in threads:
        thread.join(20)
    assert order == ["first", "second"]
    with turns.take():
        pass


def test_a_wait_ends() -> None:
    turns = Turns(n_waiting=1, wait_seconds=0.01)
    with turns.take(), pytest.raises(Refused, match="was not free within 0 s"), turns.take():
        pass
    with turns.take():
        pass


def test_a_busy_model_says_when_to_come_back(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(run_folder, FakeLive(SAES))
    app.state.run.turns = Turns(n_waiting=0)
    client = TestClient(app)
    body = {"sae": SAE, "index": 0, "text": "a dog"}
    with app.state.run.turns.take():
        answer = client.post("/api/test", json=body)
    assert refusal(answer)[:2] == (503, "Refused")
    assert answer.headers["retry-after"] == "5"
    assert client.post("/api/test", json=body).status_code == 200
