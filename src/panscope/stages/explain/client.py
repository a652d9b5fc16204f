"""The door to a language model at any endpoint that speaks OpenAI's protocol.

What was answered once is kept on disk under the digest of the question, so that a run that was
killed, or repeated, asks nothing twice. Refusals that will pass (429, 5xx, time-outs, torn or
malformed answers) are tried again, more slowly each time and not before the server says so; what
still fails is no answer, and is counted. So is a question that a server refuses which has answered
others. What will not pass (a wrong key or model) stops the run.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT
from threading import Event, Lock, Thread
from typing import Any, TypeVar

from panscope.errors import ConfigError, Interrupted, PanscopeError
from panscope.stages.explain import answer
from panscope.stages.explain.dialect import Dialect
from panscope.stages.explain.endpoint import Endpoint, Spent, key_of
from panscope.stages.explain.kept_answers import KeptAnswers
from panscope.stages.explain.prompts import Messages
from panscope.stages.explain.refusals import missing, refusal

Answer = TypeVar("Answer")
PAUSE_AT_MOST_SECONDS = 300.0
LOOK_SECONDS = 0.2  # while an answer is awaited, whether the client has been closed
IN_A_ROW = 10  # questions without an answer, one after another, after which the run stops
PASSING = {408, 409, 425, 429}
OF_ONE_QUESTION = {400, 413, 422}  # too long, or about what the server's filter forbids


class Refused(Exception):
    """A question that a server will not answer, though it answers others."""


class Passing(Exception):
    """A failure that may pass; `after_seconds` is how long the server wants to be left alone."""

    def __init__(self, why: str, after_seconds: float = 0.0) -> None:
        super().__init__(why)
        self.after_seconds = after_seconds


@dataclass(slots=True)
class Client:
    """An endpoint, and what it has answered; threads may share it."""

    endpoint: Endpoint
    answers: KeptAnswers
    http: Any
    sleep: Callable[[float], object]
    closing: Event
    spent: Spent = field(default_factory=Spent)
    lock: Lock = field(default_factory=Lock)
    dialect: Dialect = field(default_factory=Dialect)
    next_at: float = 0.0

    def ask(self, messages: Messages) -> str | None:
        """Return the answer to some messages, from disk if it is there; None where none came."""
        body = self.endpoint.question(messages)
        question = {"url": self.endpoint.base_url, "body": body}
        with self.answers.alone(question) as kept:
            if kept.said is None:
                kept.said = self._asked("/chat/completions", body, self._said)
                return kept.said
        with self.lock:
            self.spent.kept += 1
        return kept.said

    def embed(self, texts: Sequence[str]) -> list[list[float]] | None:
        """Return a vector for each text; None where none came."""
        body = {"model": self.endpoint.model, "input": list(texts)}
        return self._asked("/embeddings", body, lambda tree: answer.vectors_in(tree, len(texts)))

    def close(self) -> None:
        """Let go of the connections, and of who waits for a turn or an answer."""
        self.closing.set()
        self.http.close()

    def metrics(self) -> dict[str, float]:
        """Say what has been asked and spent so far."""
        with self.lock:
            return self.spent.metrics(self.endpoint)

    def warnings(self) -> list[str]:
        """Say what was asked in vain so far, and why."""
        with self.lock:
            return list(self.spent.warnings(self.endpoint))

    def _asked(
        self, route: str, body: dict[str, Any], read: Callable[[Any], Answer]
    ) -> Answer | None:
        """Send a question until it is answered, or has been tried often enough."""
        why = ""
        for number in range(self.endpoint.tries):
            self._wait_for_a_turn()
            self._refuse_closed()
            try:
                return self._sent(route, body, read)
            except Refused as refused:
                why = str(refused)
                break
            except Passing as passing:
                why = str(passing)
                doubled = self.endpoint.pause_seconds * 2**number
                if number + 1 < self.endpoint.tries:
                    pause = max(doubled, passing.after_seconds)
                    self.sleep(min(pause, PAUSE_AT_MOST_SECONDS))
        self._count_failure(why)
        return None

    def _wait_for_a_turn(self) -> None:
        """Wait until a question may be sent; refuse one beyond the budget."""
        with self.lock:
            limit = self.endpoint.most_dollars
            if limit is not None and self.spent.dollars(self.endpoint) >= limit:
                do = "raise most_dollars; the same command goes on from here"
                raise PanscopeError("explain", f"has spent its {limit} dollars", do)
            start = max(self.next_at, time.monotonic())
            self.next_at = start + 60 / self.endpoint.a_minute
        self.sleep(max(0.0, start - time.monotonic()))

    def _sent(self, route: str, body: dict[str, Any], read: Callable[[Any], Answer]) -> Answer:
        """Send one request and read what comes; Passing for what may be tried again."""
        import httpx2

        sent = self.dialect.spoken(body)
        try:
            response = self._posted(route, sent)
        except (httpx2.HTTPError, UnicodeError) as error:  # no connection or host, too slow, torn
            raise Passing(f"{type(error).__name__}: {error}") from error
        status, reason = response.status_code, answer.reason_in(response.text)
        if status == 200:
            return self._read(response, read)
        if status in PASSING or status >= 500:
            after = answer.seconds_in(response.headers.get("retry-after", ""))
            raise Passing(f"the server answered {status} {reason}".rstrip(), after)
        if status == 400 and self.dialect.learn(sent, _tree(response)):
            return self._sent(route, body, read)
        if status in OF_ONE_QUESTION and self.spent.asked + self.spent.kept:
            raise Refused(f"the server answered {status} {reason}".rstrip())
        where, moved = self.endpoint.base_url + route, response.headers.get("location", "")
        if status == 404:
            raise missing(where, self.endpoint.model, self._models(), reason)
        raise refusal(where, status, moved, reason)

    def _posted(self, route: str, sent: dict[str, Any]) -> Any:
        """Post, and wait for the answer or for the end: a server may take minutes."""
        answered = Future[Any]()

        def post() -> None:
            try:
                answered.set_result(self.http.post(route, json=sent))
            except Exception as error:  # noqa: BLE001 - raised where it is awaited
                answered.set_exception(error)

        Thread(target=post, daemon=True).start()
        while not wait([answered], LOOK_SECONDS).done:
            self._refuse_closed()
        return answered.result()

    def _refuse_closed(self) -> None:
        if self.closing.is_set():
            do = "run the same command again: what was answered is not asked again"
            raise Interrupted("explain", "was stopped before all answers came", do, SIGINT)

    def _read(self, response: Any, read: Callable[[Any], Answer]) -> Answer:
        """Count what an answer cost, usable or not, and read it."""
        try:
            tree = response.json()
            usage = answer.usage_in(tree)
            with self.lock:
                self.spent.tokens_in += usage.tokens_in
                self.spent.tokens_out += usage.tokens_out
            found = read(tree)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            sent = answer.reason_in(response.text)
            raise Passing(f"what the server sent is no answer: {sent}") from error
        with self.lock:
            self.spent.asked += 1
            self.spent.failed_in_a_row = 0
        return found

    def _said(self, tree: Any) -> str:
        """Read what was said, and count it if it was cut off."""
        text = answer.text_in(tree)
        with self.lock:
            self.spent.cut += answer.was_cut(tree)
        return text

    def _models(self) -> list[str]:
        """List the models of the endpoint; none if it does not say."""
        import httpx2

        try:
            return [str(model["id"]) for model in self.http.get("/models").json()["data"]]
        except (httpx2.HTTPError, ValueError, LookupError, TypeError, RecursionError):
            return []

    def _count_failure(self, why: str) -> None:
        with self.lock:
            self.spent.failed += 1
            self.spent.failed_in_a_row += 1
            self.spent.why = why
            if self.spent.failed_in_a_row < IN_A_ROW:
                return
        found = f"{IN_A_ROW} questions in a row had no answer ({why})"
        do = "see to the server; the same command goes on from here"
        raise PanscopeError(self.endpoint.base_url, found, do)


def refuse_without_library() -> None:
    """Raise ConfigError where the client's library is not installed: it is an extra."""
    if find_spec("httpx2") is None:
        do = "run pip install 'panscope[explain]'"
        raise ConfigError("explain", "httpx2 is not installed", do)


def key_for(endpoint: Endpoint) -> str:
    """Return the key of an endpoint that can be asked; empty if it needs none.

    Raises ConfigError without a model's name, the library or the key that is named.
    """
    refuse_without_library()
    if not endpoint.model:
        do = "add model = ... to the recipe"
        raise ConfigError("explain", f"no model at {endpoint.base_url} is named", do)
    return key_of(endpoint)


def connect(endpoint: Endpoint, kept: Path, closing: Event | None = None) -> Client:
    """Make a client, which is closed by `closing` too.

    Raises ConfigError as `key_for` does, and for an address or a key that cannot be sent.
    """
    key = key_for(endpoint)
    import httpx2

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    seconds, limits = endpoint.timeout_seconds, httpx2.Limits(max_connections=endpoint.at_once)
    try:
        http = httpx2.Client(
            base_url=endpoint.base_url, headers=headers, timeout=seconds, limits=limits
        )
    except httpx2.InvalidURL as error:
        raise ConfigError("explain", f"base_url is none ({error})", "correct it") from error
    except UnicodeError as error:
        do = f"correct {endpoint.key_variable}"
        raise ConfigError("explain", "the key is not ASCII", do) from error
    closing = closing or Event()
    return Client(endpoint, KeptAnswers(kept), http, closing.wait, closing)


def _tree(response: Any) -> Any:
    """Read what a refusal says; None where it is no JSON."""
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None
