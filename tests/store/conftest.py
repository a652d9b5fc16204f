"""A server that speaks S3, on this machine alone."""

from collections.abc import Iterator
from uuid import uuid4

import fsspec
import pytest

BUCKET = "activations"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_url(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a folder that is not there yet, in a bucket of that server."""
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.makedirs(BUCKET, exist_ok=True)
    return f"s3://{BUCKET}/{uuid4().hex}/store"


@pytest.fixture(params=["file", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that is not there yet, at each kind of place."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3_url"))
    if request.param == "memory":
        return f"memory://{uuid4().hex}/store"
    return f"file://{tmp_path_factory.mktemp('place')}/store"
