"""An S3 server for the tests of a module, reached through a proxy that can spoil its answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from tests.shards.remote.faulty_proxy import FaultyProxy
from tests.shards.remote.servers import Web, create_bucket

QUICK = {
    "tries": 4,
    "first_wait_s": 0.01,
    "longest_wait_s": 0.02,
    "request_s": 0.6,
    "least_bytes_per_s": 1 << 20,
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own cache stays as it is."""
    monkeypatch.setenv("VIEWMILL_CACHE", str(tmp_path / "default_cache"))


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        _, port = server.get_host_and_port()
        create_bucket(port)
        yield port
        server.stop()


@pytest.fixture(scope="module")
def shared_proxy(s3_port: int) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(s3_port)
    with pytest.MonkeyPatch.context() as patch:
        # s3fs and the workers of a conversion take the address from here.
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()  # those of another module have another address
        yield proxy
    proxy.close()


@pytest.fixture
def proxy(shared_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> FaultyProxy:
    """The proxy, healed, and a client that does not wait long."""
    from viewmill.shards.storage import remote
    from viewmill.shards.storage.retry import Patience

    monkeypatch.setattr(remote, "PATIENCE", Patience(**QUICK))
    shared_proxy.heal()
    return shared_proxy


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    (tmp_path / "web").mkdir()
    server = Web(tmp_path / "web")
    yield server
    server.shutdown()
    server.server_close()
