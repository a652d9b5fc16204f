"""Explaining by a language model, over a real connection to a server that can misbehave."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.stages import loopback, planted
from tests.stages.loopback import Model, Reply, serving

from panscope.atlas.features import Atlas
from panscope.atlas.labels import Label
from panscope.atlas.notes import Notes
from panscope.cli import main
from panscope.errors import ConfigError, Interrupted, NotFound, PanscopeError
from panscope.events import Advanced, Event, Warned, silent
from panscope.stages import explain
from panscope.stages.explain import Config, run
from panscope.stages.explain.client import Client, connect
from panscope.stages.explain.endpoint import Endpoint
from panscope.stages.explain.prompts import label_in, strengths_in, yes_or_no_in

HELLO = ({"role": "user", "content": 'active on: "may"\nExcerpt 1: on may'},)
SAE = planted.SAES[0]


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return planted.build(tmp_path_factory.mktemp("runs") / "planted")


@pytest.fixture
def model() -> Iterator[Model]:
    with serving() as model:
        yield model


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes.open(tmp_path / "notes.sqlite")


def endpoint(server: Model, **more: Any) -> Endpoint:
    settings = {
        "base_url": server.url,
        "model": "tiny-judge",
        "a_minute": 1e6,
        "pause_seconds": 0.01,
    }
    return Endpoint(**{**settings, **more})


def config(model: Model, **more: Any) -> Config:
    return Config(by="endpoint", saes=("mlp*",), windows=6, endpoint=endpoint(model, **more))


Asking = Callable[..., tuple[Client, list[float]]]


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Asking]:
    """Makes clients that note their pauses instead of sleeping."""
    with ExitStack() as opened:

        def make(server: Model, **more: Any) -> tuple[Client, list[float]]:
            pauses: list[float] = []
            client = connect(endpoint(server, **more), tmp_path)
            opened.callback(client.close)
            client.sleep = lambda seconds: pauses.append(seconds) if seconds > 0.001 else None
            return client, pauses

        yield make


def test_a_planted_word_is_found_and_scores_high(
    model: Model, atlas: Atlas, notes: Notes, tmp_path: Path
):
    run(config(model), atlas, notes, tmp_path / "answers", silent)
    (label,) = notes.labels(SAE, 0)
    assert (label.text, label.author, label.method) == ("the word may", "tiny-judge", "model")
    assert [score.scorer for score in label.scores] == ["detection", "fuzzing", "simulation"]
    for score in label.scores:
        assert score.value is not None and score.value > 0.9, score
        assert score.author == "tiny-judge" and score.n_failed == 0
        assert score.baseline is not None and score.baseline < 0.7
    keys = {"context", "start", "tokens", "true", "told"}
    assert json.loads(label.scores[0].details)[0].keys() == keys


def test_nothing_is_asked_twice(model: Model, atlas: Atlas, notes: Notes, tmp_path: Path):
    events: list[Event] = []
    run(config(model), atlas, notes, tmp_path / "answers", events.append)
    assert set(model.questions.values()) == {1}
    n_asked = len(model.requests)
    spent = [e for e in events if isinstance(e, Advanced)][-1].metrics
    assert spent["asked"] == n_asked
    assert (spent["tokens in"], spent["tokens out"]) == (100 * n_asked, 10 * n_asked)
    run(config(model), atlas, notes, tmp_path / "answers", silent)
    again = Notes.open(tmp_path / "others.sqlite")
    run(config(model), atlas, again, tmp_path / "answers", silent)
    assert len(model.requests) == n_asked, "all answers were kept"
    texts = [[label.text for label in n.shown(SAE).values()] for n in (notes, again)]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(atlas: Atlas, tmp_path: Path):
    script = Path(__file__).with_name("killed_explain.py")
    (tmp_path / "atlas").symlink_to(atlas.folder)
    with serving(lambda number, request: time.sleep(0.01)) as model:
        command = [sys.executable, str(script), str(tmp_path), model.url]
        for n_asked in (3, 9, 20):
            process = subprocess.Popen(command)
            while len(model.requests) < n_asked and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, "it was still at work"
        subprocess.run(command, check=True)
        asked_twice = sum(model.questions.values()) - len(model.questions)
        assert asked_twice <= 3 * 2, "what was on its way when it was killed, two at once"
        n_requests = len(model.requests)
        subprocess.run(command, check=True)
        assert len(model.requests) == n_requests
    labels = Notes.reading(tmp_path / "notes.sqlite").shown(SAE)
    assert set(labels) == {0, 1, 2, 3, 4}
    assert all(len(label.scores) == 3 for label in labels.values())


MALFORMED = {
    "no JSON": b"<html>busy</html>",
    "half of it": b'{"choices": [{"mess',
    "no choices": b'{"choices": []}',
    "another tree": b'["choices"]',
    "null": b"null",
    "no text": b'{"choices": [{"message": null}]}',
    "no UTF-8": b"\xff\xfe\xfa",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed_answers_are_asked_for_again(asking: Asking, body: bytes):
    with serving(lambda number, request: Reply(body=body) if number < 2 else None) as model:
        client, _ = asking(model)
        assert client.ask(HELLO) == "[1]"
    assert len(model.requests) == 3


def of_message(message: dict[str, Any], **more: Any) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", **message}, **more}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": None}
    return Reply(body=json.dumps({"choices": [choice], "usage": usage, "new": 1}).encode())


TODAY = {
    "thoughts beside": ({"content": "[1]", "reasoning_content": "[0] or [1]?"}, "[1]"),
    "thoughts before": ({"content": "<think>[0]?</think>\n\n[1]"}, "[1]"),
    "thoughts begun by the template": ({"content": "[0]?\n</think>\n[1]"}, "[1]"),
    "thoughts cut off": ({"content": "<think>It may be [1]"}, ""),
    "parts": ({"content": [{"type": "thinking", "thinking": []}, {"text": "[1]"}]}, "[1]"),
    "refusal": ({"content": None, "refusal": "I cannot"}, ""),
    "no content": ({"reasoning": "Well"}, ""),
}


@pytest.mark.parametrize(("message", "said"), TODAY.values(), ids=TODAY)
def test_answers_as_todays_servers_give_them(asking: Asking, message: dict[str, Any], said: str):
    with serving(lambda number, request: of_message(message)) as model:
        client, _ = asking(model)
        assert client.ask(HELLO) == client.ask(HELLO) == said
    spent = client.spent
    assert (spent.asked, spent.kept, spent.tokens_in, spent.tokens_out) == (1, 1, 7, 3)


def test_answers_that_were_cut_off_are_told(atlas: Atlas, notes: Notes, tmp_path: Path):
    events: list[Event] = []
    with serving(lambda n, r: of_message({"content": None}, finish_reason="length")) as model:
        counts = run(config(model), atlas, notes, tmp_path / "answers", events.append)
    assert counts["without answer"] == 5
    (told,) = (e.text for e in events if isinstance(e, Warned) and "cut off" in e.text)
    assert told == "answers cut off at 512 tokens: 5; raise explain.endpoint.answer_tokens"


def test_unusable_answers_cost_what_they_cost(asking: Asking):
    bad = Reply(body=b'{"choices": [{"message": 7}], "usage": {"prompt_tokens": 9}}')
    with serving(lambda number, request: bad if number == 0 else None) as model:
        client, _ = asking(model)
        assert client.ask(HELLO) == "[1]"
    assert client.spent.tokens_in == 109


def test_keys_that_a_server_refuses_are_left_out_or_named_otherwise(asking: Asking):
    def thinking(number: int, request: dict[str, Any]) -> Reply | None:
        for key in ("max_tokens", "temperature"):
            if key in request:
                error = {"message": "unsupported", "param": key}
                return Reply(400, json.dumps({"error": error}).encode())
        return None

    with serving(thinking) as model:
        client, pauses = asking(model, more='{"reasoning_effort": "low"}')
        assert client.ask(HELLO) == "[1]" and pauses == []
        assert client.ask(({**HELLO[0], "name": "other"},)) == "[1]"
    assert len(model.requests) == 4
    wanted = {"model", "messages", "max_completion_tokens", "reasoning_effort"}
    assert set(model.requests[-1]) == wanted


def test_one_question_that_is_refused_stops_nothing(asking: Asking):
    def filtered(number: int, request: dict[str, Any]) -> Reply | None:
        return Reply(400, b'{"error": {"code": "content_filter"}}') if number else None

    with serving(filtered) as model:
        client, pauses = asking(model)
        assert client.ask(HELLO) == "[1]"
        assert client.ask(({"role": "user", "content": "other"},)) is None
    assert (client.spent.failed, pauses, len(model.requests)) == (1, [], 2)


def test_what_a_server_says_instead_of_an_answer_is_told(asking: Asking):
    page = b"<html><head><style>p{}</style></head><body><h1>502</h1>Bad Gateway</body></html>"
    wanted = pytest.raises(PanscopeError, match="answered 502 502 Bad Gateway")
    with serving(lambda number, request: Reply(502, page)) as model, wanted:
        client, _ = asking(model, tries=1)
        for number in range(10):
            client.ask(({"role": "user", "content": str(number)},))


def test_wrong_addresses_are_told_from_wrong_models(asking: Asking):
    moved = Reply(308, headers={"Location": "https://elsewhere/v1/chat/completions"})
    with serving(lambda number, request: moved if number else Reply(404, b"no page")) as model:
        client, _ = asking(model)
        with pytest.raises(NotFound, match=r"is not there .404: no page.; correct base_url"):
            client.ask(HELLO)
        with pytest.raises(ConfigError, match="has moved to https://elsewhere/v1"):
            client.ask(HELLO)
    with pytest.raises(ConfigError, match=r"endpoint.more is '\[\]'; write a JSON object"):
        Config.parse({"endpoint": {"more": "[]"}}, "recipe")


@pytest.mark.parametrize(
    "reply",
    [Reply(500), Reply(503), Reply(429), Reply(body=b"{}" * 50, cut=20)],
    ids=["500", "503", "429", "torn"],
)
def test_failures_that_pass_are_tried_again_more_slowly(asking: Asking, reply: Reply):
    with serving(lambda number, request: replace(reply) if number < 3 else None) as model:
        client, pauses = asking(model, pause_seconds=1.0)
        assert client.ask(HELLO) == "[1]"
    assert pauses == [1.0, 2.0, 4.0]
    assert (client.spent.asked, client.spent.failed) == (1, 0)


def test_a_server_that_names_a_pause_is_left_alone_so_long(asking: Asking):
    busy = Reply(429, headers={"Retry-After": "17"})
    with serving(lambda number, request: busy if number == 0 else None) as model:
        client, pauses = asking(model, pause_seconds=1.0)
        assert client.ask(HELLO) == "[1]"
    assert pauses == [17.0]


def test_a_slow_server_is_given_up_after_a_while(asking: Asking):
    slow = Reply(after_seconds=0.6)
    with serving(lambda number, request: slow if number == 0 else None) as model:
        client, _ = asking(model, timeout_seconds=0.2)
        assert client.ask(HELLO) == "[1]"
    assert len(model.requests) == 2


def test_what_fails_for_good_is_no_answer_and_is_asked_again_next_time(asking: Asking):
    with serving(lambda number, request: Reply(500) if number < 3 else None) as model:
        client, pauses = asking(model, tries=3)
        assert client.ask(HELLO) is None
        assert len(pauses) == 2, "after the last try nobody waits"
        assert client.spent.failed == 1
        assert client.ask(HELLO) == "[1]"


@pytest.mark.parametrize(
    "slow", [Reply(429, headers={"Retry-After": "200"}), Reply(after_seconds=20)]
)
def test_who_waits_for_a_server_is_let_go_when_the_client_closes(tmp_path: Path, slow: Reply):
    """Both between two tries and while an answer is awaited."""
    with serving(lambda number, request: slow) as model:
        client = connect(endpoint(model), tmp_path)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.ask, HELLO)
            while not model.requests:
                time.sleep(0.005)
            client.close()
            with pytest.raises(Interrupted, match="was stopped before all answers came"):
                answer.result(timeout=5)
    assert len(model.requests) == 1


def test_a_dead_server_stops_the_run(asking: Asking):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    dead = Model(url=url)
    client, _ = asking(dead, tries=1)
    wanted = pytest.raises(PanscopeError, match=r"10 questions in a row had no answer \(Connect")
    with wanted:
        for number in range(11):
            client.ask(({"role": "user", "content": str(number)},))
    assert number == 9


def test_wrong_keys_models_and_settings_are_named_at_once(
    model: Model, monkeypatch: pytest.MonkeyPatch, asking: Asking, tmp_path: Path
):
    refusals = {
        401: (ConfigError, r"refuses the key \(401\); name the variable"),
        404: (NotFound, "has no model 'tiny-jduge'; did you mean tiny-judge"),
        400: (ConfigError, "refuses the question .400: too long"),
    }
    for status, (kind, message) in refusals.items():
        model.misbehave = lambda n, r, s=status: Reply(s, b"too long")
        with pytest.raises(kind, match=message):
            asking(model, model="tiny-jduge")[0].ask(HELLO)
    assert len(model.requests) == 3
    with pytest.raises(ConfigError, match="no model at"):
        connect(Endpoint(), tmp_path)
    with pytest.raises(ConfigError, match="PANSCOPE_TEST_KEY is not set"):
        connect(endpoint(model, key_variable="PANSCOPE_TEST_KEY"), tmp_path)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ConfigError, match=r"run pip install 'panscope\[explain\]'"):
        connect(endpoint(model), tmp_path)
    for url in (
        "ftp://x",
        "http://[::1",
        "http://x:99999/v1",
        "http://x:a",
        "http://:80",
        "http://x:0",
    ):
        with pytest.raises(ConfigError, match=f"base_url is '{re.escape(url)}'"):
            Config.parse({"endpoint": {"base_url": url}}, "recipe")


def test_the_key_is_sent_and_written_nowhere(
    model: Model, monkeypatch: pytest.MonkeyPatch, atlas: Atlas, notes: Notes, tmp_path: Path
):
    monkeypatch.setenv("PANSCOPE_TEST_KEY", "sk-secret-5309")
    settings = config(model, key_variable="PANSCOPE_TEST_KEY")
    run(settings, atlas, notes, tmp_path / "answers", silent)
    notes.close()
    assert set(model.keys) == {"Bearer sk-secret-5309"}
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"tiny-judge" in written and b"sk-secret" not in written
    assert "sk-secret" not in settings.model_dump_json()


def test_a_kept_answer_that_was_damaged_is_asked_for_again(
    model: Model, asking: Asking, tmp_path: Path
):
    client, _ = asking(model)
    for damage in (b"[0]", b"{", b"", b'{"answer": "[0]"}', b"\xff"):
        client.ask(HELLO)
        (path,) = tmp_path.rglob("*.json")
        path.write_bytes(path.read_bytes().replace(b"[1]", damage) if damage == b"[0]" else damage)
        assert client.ask(HELLO) == "[1]"
    assert len(model.requests) == 6


def test_no_more_is_spent_than_the_recipe_allows(
    model: Model, atlas: Atlas, notes: Notes, tmp_path: Path
):
    priced = {"dollars_in": 1000.0, "dollars_out": 10_000.0, "at_once": 1}  # 20 cents a question
    with pytest.raises(PanscopeError, match=r"has spent its 1\.0 dollars"):
        run(config(model, most_dollars=1.0, **priced), atlas, notes, tmp_path / "answers", silent)
    assert len(model.requests) == 5
    run(config(model, **priced), atlas, notes, tmp_path / "answers", silent)
    assert set(model.questions.values()) == {1}


def test_no_more_is_asked_in_a_minute_than_the_recipe_allows(model: Model, tmp_path: Path):
    with closing(connect(endpoint(model, a_minute=600.0), tmp_path)) as client:
        for number in range(4):
            client.ask(({"role": "user", "content": f"{HELLO[0]['content']}{number}"},))
    gaps = [b - a for a, b in zip(model.times, model.times[1:], strict=False)]
    assert sum(gaps[1:]) > 0.15, "a tenth of a second between one and the next, as it arrives"


def test_unusable_answers_are_counted_and_never_wrong(atlas: Atlas, notes: Notes, tmp_path: Path):
    """The model explains, but when asked to foretell it rambles, every second time."""

    def ramble(number: int, request: dict[str, Any]) -> Reply | None:
        asked = request["messages"][-1]["content"]
        rambles = "LABEL:" not in asked and len(asked) % 2 == 0
        return loopback.well_formed("Well, it depends. [1, 0") if rambles else None

    with serving(ramble) as model:
        run(config(model), atlas, notes, tmp_path / "answers", silent)
    scores = [s for label in notes.shown(SAE).values() for s in label.scores]
    assert sum(score.n_failed for score in scores) > 10
    planted_scores = notes.labels(SAE, 0)[0].scores
    assert any(score.n_failed for score in planted_scores)
    assert all(score.value is None or score.value > 0.9 for score in planted_scores)


def test_features_without_a_label_are_told(atlas: Atlas, notes: Notes, tmp_path: Path):
    events: list[Event] = []
    with serving(lambda number, request: loopback.well_formed("I cannot say.")) as model:
        counts = run(config(model), atlas, notes, tmp_path / "answers", events.append)
    assert counts["without answer"] == 5 and notes.shown(SAE) == {}
    assert any(isinstance(e, Warned) and "usable answer: 5 of" in e.text for e in events)


def test_why_questions_had_no_answer_is_told(atlas: Atlas, notes: Notes, tmp_path: Path):
    def filtered(number: int, request: dict[str, Any]) -> Reply | None:
        return Reply(400, b"too long [/b]") if 0 < number < 4 else None

    events: list[Event] = []
    with serving(filtered) as model:
        run(config(model, at_once=1), atlas, notes, tmp_path / "answers", events.append)
    told = "questions without an answer: 3; the last one: the server answered 400 too long [/b]"
    assert [e.text for e in events if isinstance(e, Warned) and "answer" in e.text][-1] == told


def test_what_is_shown_to_the_explainer_is_never_asked_about(
    model: Model, atlas: Atlas, notes: Notes, tmp_path: Path
):
    run(config(model), atlas, notes, tmp_path / "answers", silent)
    made_from = json.loads(notes.labels(SAE, 0)[0].made_from)
    shown = {context for context, _ in made_from["shown"]}
    details = json.loads(notes.labels(SAE, 0)[0].scores[0].details)
    asked = {detail["context"] for detail in details}
    documents = [{d for n in rows for d in atlas.contexts[n].documents} for rows in (shown, asked)]
    assert shown and asked and documents[0].isdisjoint(documents[1])


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("LABEL: months", "months"),
        ("LABEL: a\nLABEL: **b**", "b"),
        ("LABEL:", None),
        ("\n" * 200_000 + "LABEL: a", "a"),
        ("*" * 200_000, None),
        ("LABEL: ...", None),
        ("LABEL: a\0b \ud800c\x1b[31m", "a b c [31m"),
        ("label: months", "months"),
        ("the label: months", None),
        ("### **Label:**\n\n**Months, such as “May”**", "Months, such as “May”"),
        ('LABEL: words such as "the"', 'words such as "the"'),
        ('```json\n{"label": "names of months"}\n```', "names of months"),
        ("LABEL: " + "x" * 1000, "x" * 300),
        ("", None),
    ],
)
def test_labels_are_read(answer: str, label: str | None):
    assert label_in(answer) == label


@pytest.mark.parametrize("url", ["http://\u00ad/v1", "http://a\x01b/v1"])
def test_an_address_that_cannot_be_asked_is_named(tmp_path: Path, url: str):
    with pytest.raises(ConfigError, match="base_url is none"):
        connect(Endpoint(base_url=url, model="a"), tmp_path)


def test_a_host_that_none_can_be_has_no_answer(tmp_path: Path):
    endpoint = Endpoint(base_url=f"http://{'a' * 300}/v1", model="a", tries=1)
    with closing(connect(endpoint, tmp_path)) as client:
        assert client.ask(()) is None and client.spent.why


def test_a_key_that_cannot_be_sent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_KEY", "clé")
    with pytest.raises(ConfigError, match="the key is not ASCII; correct A_KEY"):
        connect(Endpoint(model="a", key_variable="A_KEY"), tmp_path)


@pytest.mark.parametrize("body", [b"[" * 200_000, b"<style>" * 200_000, b"\xff" * 9])
def test_what_is_made_to_be_hard_to_read_is_no_answer(tmp_path: Path, body: bytes):
    with serving(lambda number, request: Reply(body=body)) as model:
        endpoint = Endpoint(base_url=model.url, model="a", tries=1)
        with closing(connect(endpoint, tmp_path)) as client:
            assert client.ask(()) is None
            assert "is no answer" in client.spent.why


def test_answers_of_another_shape_are_none():
    assert strengths_in('{"1' + "0" * 5_000 + '": 1}', 3) is None
    assert yes_or_no_in("[1, 0, 2]", 3) is None
    assert yes_or_no_in("[0, 0, 0] no: [1, 0, 1]", 3) == [True, False, True]
    assert yes_or_no_in("```json\n[true, false,\n true,]\n```", 3) == [True, False, True]
    assert yes_or_no_in("1, 0, 1", 3) == [True, False, True]
    assert yes_or_no_in("1, 0, maybe", 3) is yes_or_no_in("", 1) is None
    assert strengths_in('```json\n{\n "1": 8,\n 2: "4.5",\n}\n```', 3) == [0.0, 8.0, 4.5]
    for answer in ("", "{}x{", '{"9": 1}', '{"0": 11}', '{"0": "much"}', '{"a": 1}', '{"0": NaN}'):
        assert strengths_in(answer, 3) in (None, [0.0] * 3), answer
    assert strengths_in('{"0": NaN}', 3) is None
    assert strengths_in("{}", 2) == [0.0, 0.0]


def test_the_module_that_explains_needs_no_torch():
    check = "import panscope.stages.explain, sys; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", check], env=os.environ, check=False).returncode == 0
    )


def test_labels_are_found_by_what_they_mean(
    model: Model, atlas: Atlas, notes: Notes, tmp_path: Path
):
    meaning = endpoint(model, model="tiny-embedder")
    by_rules = Config(saes=("mlp*",), meaning=meaning)
    run(by_rules, atlas, notes, tmp_path / "answers", silent)
    n_asked = len(model.requests)
    assert n_asked == 1, "five labels in a question"
    assert {r["model"] for r in model.requests} == {"tiny-embedder"}
    found = explain.search(meaning, notes, "march june", 2)
    assert found[0].label.index == 0 and found[0].rank < 0.5
    assert len(found) == 2 and found[1].rank > found[0].rank
    assert explain.search(meaning, notes, "march", 5, sae="resid_post.0/w6") == []
    run(by_rules, atlas, notes, tmp_path / "answers", silent)
    assert len(model.requests) == n_asked + 2, "vectors are made once; two were searches"
    newer = notes.add(Label(SAE, 0, "rain and snow", "Ada"))
    run(by_rules, atlas, notes, tmp_path / "answers", silent)
    assert newer in [hit.label for hit in explain.search(meaning, notes, "snow rain", 2)]
    assert notes.meanings.nearest("another-model", [1.0, 0.0, 0.0]) == []
    assert notes.meanings.nearest("tiny-embedder", [1.0, 0.0]) == [], "of another length"


@pytest.mark.parametrize(
    "body",
    [b'{"data": []}', b'{"data": [{"index": 0, "embedding": "x"}]}', b'{"data": [{"index": 1}]}'],
)
def test_vectors_of_another_shape_are_asked_for_again(body: bytes, asking: Asking):
    with serving(lambda number, request: Reply(body=body) if number < 2 else None) as model:
        client, _ = asking(model)
        assert client.embed(["may"]) == [[1.0, 0.0, 0.0]]
    assert len(model.requests) == 3


def test_the_command_searches_by_words_and_by_meaning(model: Model, atlas: Atlas, tmp_path: Path):
    shutil.copytree(atlas.folder, tmp_path / "atlas")
    names = {"base_url": model.url, "model": "tiny-embedder"}
    settings = [f"explain.meaning.{key}={json.dumps(value)}" for key, value in names.items()]

    def search(*args: str) -> Result:
        return CliRunner().invoke(main, ["search", str(tmp_path), *args])

    assert "None is there yet: panscope explain" in search("may").output
    nowhere = CliRunner().invoke(main, ["search", str(tmp_path / "nope"), "may"])
    assert (nowhere.exit_code, "no such folder" in nowhere.stderr) == (3, True)
    refused = search("may", "--by", "meaning")
    assert (refused.exit_code, "[explain.meaning]" in refused.stderr) == (2, True)
    assert refused.stderr.startswith(f"error: {tmp_path}: "), "the run as it was typed"
    made = CliRunner().invoke(main, ["explain", "demo", *settings, "--output", str(tmp_path)])
    assert made.exit_code == 0, made.output
    for args in (("token ma",), ("march", "--by", "meaning")):
        rows = search(*args, "--limit", "2").output.splitlines()[1:]
        assert [row.split()[:2] for row in rows] == [
            ["mlp_out.0/w6", "0"],
            ["resid_post.0/w6", "0"],
        ]
    assert len(search("token", "--sae", "mlp_out.0/w6").output.splitlines()) > 1
    assert "All words of the search must be in it." in search("token zebra").output
    wrong = search("token", "--sae", "mlp_out.0/w7")
    assert (wrong.exit_code, "did you mean mlp_out.0/w6" in wrong.stderr) == (3, True)
