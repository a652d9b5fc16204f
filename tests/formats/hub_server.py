"""A server on loopback that answers as the Hub does what huggingface_hub asks it.

Files go up in a commit, those above `inline` bytes by way of LFS; both are kept in memory. What a
broken upload has left stays, as at the Hub: `puts` counts what was sent.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories by `models/owner/name`, each a map of names to bytes, at one commit."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.gets: list[str] = []
        self.url = ""
        self.fails_after = -1
        """After how many objects the connection breaks; -1 for never."""

    def commit_of(self, repo: str) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for name, data in sorted(self.repositories[repo].items()):
            digest.update(name.encode() + data)
        return digest.hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield hub.url
    server.shutdown()
    server.server_close()
    thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    @property
    def parts(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int, tree: object = None, **headers: str) -> None:
        headers["Content-Type"] = "application/json"
        self.send(status, json.dumps(tree).encode(), headers)

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def missing(self) -> None:
        self.answer(404, {"error": "Repository not found"}, **{"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        match self.parts:
            case ["api", *repo] if "/".join(repo[:3]) not in self.hub.repositories:
                self.missing()
            case ["api", kind, owner, name, *rest] if not rest or rest[0] == "revision":
                self.information(f"{kind}/{owner}/{name}", f"{owner}/{name}")
            case ["api", kind, owner, name, "tree", *_]:
                files = self.hub.repositories[f"{kind}/{owner}/{name}"]
                tree = [
                    {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                    for n, d in sorted(files.items())
                ]
                self.answer(200, tree)
            case ["datasets", owner, name, "resolve", _, *path]:
                self.file(f"datasets/{owner}/{name}", "/".join(path))
            case [owner, name, "resolve", _, *path]:
                self.file(f"models/{owner}/{name}", "/".join(path))
            case _:
                self.answer(404, {"error": self.path})

    def information(self, repo: str, name: str) -> None:
        files = [{"rfilename": file} for file in sorted(self.hub.repositories[repo])]
        info = {"id": name, "modelId": name, "sha": self.hub.commit_of(repo), "siblings": files}
        self.answer(200, {**info, "private": False, "tags": [], "downloads": 0, "likes": 0})

    def file(self, repo: str, name: str) -> None:
        if repo not in self.hub.repositories:
            self.missing()
            return
        if name not in self.hub.repositories[repo]:
            self.answer(404, {"error": "Entry not found"}, **{"X-Error-Code": "EntryNotFound"})
            return
        data = self.hub.repositories[repo][name]
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        headers["X-Repo-Commit"] = self.hub.commit_of(repo)
        if self.command == "GET":
            self.hub.gets.append(name)
        if begin := self.headers.get("Range"):
            first = int(begin.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            self.send(206, data[first:], headers)
            return
        self.send(200, data, headers)

    def do_POST(self) -> None:
        body = self.body()
        match self.parts:
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                kind = f"{asked.get('type') or 'model'}s"
                name = f"{asked['organization']}/{asked['name']}"
                self.hub.repositories.setdefault(f"{kind}/{name}", {})
                self.answer(200, {"url": f"{self.hub.url}/{name}", "name": name})
            case ["api", "validate-yaml"]:
                self.answer(200, {"errors": [], "warnings": []})
            case ["api", _, _, _, "preupload", _]:
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith("safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
                self.answer(200, {"files": modes})
            case [*_, "info", "lfs", "objects", "batch"]:
                self.batch(json.loads(body)["objects"])
            case ["api", kind, owner, name, "commit", _]:
                self.commit(f"{kind}/{owner}/{name}", body)
            case _:
                self.answer(404, {"error": self.path})

    def batch(self, objects: list[dict[str, Any]]) -> None:
        answered = []
        for asked in objects:
            action = {"upload": {"href": f"{self.hub.url}/put/{asked['oid']}"}}
            is_here = asked["oid"] in self.hub.objects
            answered.append({**asked, **({} if is_here else {"actions": action})})
        self.answer(200, {"transfer": "basic", "objects": answered})

    def do_PUT(self) -> None:
        data, name = self.body(), self.parts[-1]
        if len(self.hub.puts) == self.hub.fails_after:
            self.answer(400, {"error": "the disk is full"})
            return
        assert hashlib.sha256(data).hexdigest() == name
        self.hub.objects[name] = data
        self.hub.puts.append(name)
        self.answer(200, {})

    def commit(self, repo: str, body: bytes) -> None:
        files = self.hub.repositories[repo]
        for line in body.splitlines():
            record = json.loads(line)
            value = record["value"]
            if record["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif record["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        url = f"{self.hub.url}/{repo}/commit/{self.hub.commit_of(repo)}"
        oid = self.hub.commit_of(repo)
        self.answer(200, {"commitUrl": url, "commitOid": oid, "success": True})
