import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
import uvicorn

from panscope.errors import ConfigError, NotFound
from panscope.web.app import _listening, serve


def test_browsing_imports_no_torch(run_folder: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from panscope.web.app import create_app
from fastapi.testclient import TestClient
client = TestClient(create_app(Path({str(run_folder)!r})))
sae = client.get("/api/saes").json()[0]["sae"]
for path in ("/", "/sae/" + sae, "/sae/" + sae + "/0", "/microscope"):
    assert client.get(path).status_code == 200, path
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_port_in_use_is_named(run_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            serve(run_folder, "127.0.0.1", port)
    assert str(caught.value) == f"port {port}: is in use; give another with --port"


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("256.0.0.1", 8000)])
def test_an_impossible_address_is_refused(run_folder: Path, host: str, port: int) -> None:
    with pytest.raises(ConfigError, match="give"):
        serve(run_folder, host, port)


def test_a_folder_without_an_atlas_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="holds no atlas"):
        serve(tmp_path, "127.0.0.1", 0)


def test_serve_announces_its_address_and_answers(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    servers: list[uvicorn.Server] = []
    original = uvicorn.Server.__init__

    def remembered(self: uvicorn.Server, config: uvicorn.Config) -> None:
        original(self, config)
        servers.append(self)

    monkeypatch.setattr(uvicorn.Server, "__init__", remembered)
    addresses: list[str] = []
    announced = threading.Event()

    def announce(url: str) -> None:
        addresses.append(url)
        announced.set()

    arguments = (run_folder, "127.0.0.1", 0, announce)
    thread = threading.Thread(target=serve, args=arguments, daemon=True)
    thread.start()
    assert announced.wait(20)
    assert urlopen(f"{addresses[0]}/api/saes", timeout=20).status == 200
    servers[0].should_exit = True
    thread.join(20)
    assert not thread.is_alive()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("seconds", [0.01, 0.15])
def test_a_server_that_is_told_twice_to_stop_says_nothing(run_folder: Path, seconds: float) -> None:
    command = [sys.executable, "-m", "panscope", "serve", str(run_folder), "--port", "0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout and process.stderr
        address = next(word for word in process.stdout.readline().split() if "http" in word)
        assert urlopen(f"{address}/api/saes", timeout=20).status == 200
        process.send_signal(signal.SIGINT)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""


def test_a_small_answer_does_not_wait_for_an_acknowledgement() -> None:
    with _listening("127.0.0.1", 0) as listener:
        with socket.create_connection(listener.getsockname()):
            connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
