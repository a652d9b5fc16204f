"""A language model on this machine's loopback: it speaks OpenAI's protocol, and can misbehave.

It explains a feature by the word that is marked most often, and reads a label for its last word, so
that what it foretells is right where the label is.
"""

import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What is sent for a request, and after how long; `cut` ends it that many bytes too early."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    after_seconds: float = 0.0


Misbehave = Callable[[int, dict[str, Any]], Reply | None]


def well(number: int, request: dict[str, Any]) -> Reply | None:
    """Misbehave never."""
    return None


@dataclass
class Model:
    """The server's state: every request it got, and what it does instead of answering some."""

    misbehave: Misbehave = well
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def questions(self) -> Counter[str]:
        """Count the different requests."""
        return Counter(json.dumps(request, sort_keys=True) for request in self.requests)

    def reply(self, request: dict[str, Any], key: str | None) -> Reply:
        with self.lock:
            number = len(self.requests)
            self.requests.append(request)
            self.keys.append(key)
            self.times.append(time.monotonic())
        if instead := self.misbehave(number, request):
            return instead
        return vectors(request["input"]) if "input" in request else well_formed(answer(request))


def well_formed(text: str) -> Reply:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    tree = {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}
    return Reply(body=json.dumps(tree).encode())


def vectors(texts: list[str]) -> Reply:
    """Embed texts by which of a few words they have, out of order as the protocol allows."""
    topics = ["may june march", "river snow rain", "the of"]
    words = [re.findall(r"\w+", text) for text in texts]
    found = [[float(sum(w in topic.split() for w in of)) for topic in topics] for of in words]
    data = [{"index": i, "object": "embedding", "embedding": v} for i, v in enumerate(found)]
    tree = {"object": "list", "data": data[::-1], "usage": {"prompt_tokens": 5, "total_tokens": 5}}
    return Reply(body=json.dumps(tree).encode())


def answer(request: dict[str, Any]) -> str:
    question = request["messages"][-1]["content"]
    if "LABEL:" in question:
        marked = Counter(word for run in re.findall("<<(.*?)>>", question) for word in run.split())
        return f"They say so.\nLABEL: the word {marked.most_common(1)[0][0]}"
    word = json.loads(re.search(r"active on: (\".*\")", question)[1]).split()[-1]
    excerpts = re.findall(r"^Excerpt \d+: (.*)$", question, re.MULTILINE)
    if "one a line" in question:
        tokens = re.findall(r'^(\d+) "(.*)"$', question, re.MULTILINE)
        return json.dumps({number: 10 for number, piece in tokens if piece.strip() == word})
    if "marked tokens" in question:
        return str([int(word in " ".join(re.findall("<<(.*?)>>", text))) for text in excerpts])
    return str([int(word in re.findall(r"\w+", text)) for text in excerpts])


class Server(ThreadingHTTPServer):
    """A server that says nothing, into another test's stderr, when who asked has hung up."""

    def handle_error(self, request: Any, address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, address)


@contextmanager
def serving(misbehave: Misbehave = well) -> Iterator[Model]:
    """Serve a model for the length of a with block."""
    model = Model(misbehave)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            request = json.loads(self.rfile.read(length))
            assert ("input" in request) == (self.path == "/v1/embeddings"), self.path
            self._send(model.reply(request, self.headers.get("Authorization")))

        def do_GET(self) -> None:
            models = [{"id": "tiny-judge"}, {"id": "large-judge"}]
            self._send(Reply(body=json.dumps({"data": models}).encode()))

        def _send(self, reply: Reply) -> None:
            time.sleep(reply.after_seconds)
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body[: len(reply.body) - reply.cut])
                self.close_connection = bool(reply.cut)
            except OSError:  # who asked has gone
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    model.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
