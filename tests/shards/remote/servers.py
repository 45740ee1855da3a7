"""Servers on loopback for the tests of URLs: S3's protocol, and plain HTTP with ranges."""

import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

BUCKET = "pictures"


class Web(ThreadingHTTPServer):
    """A folder by HTTP; answers ranges as web servers do, and counts requests."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _RangeHandler)
        self.folder = folder
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class _RangeHandler(SimpleHTTPRequestHandler):
    server: Web

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.server.folder / unquote(self.path.partition("?")[0]).lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        part = data[int(span[1]) : int(span[2]) + 1] if span else data
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {span[1]}-{span[2]}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.end_headers()
        if with_body:
            self.wfile.write(part)


def upload(port: int, folder: Path, prefix: str) -> str:
    """Puts a folder's files into the bucket; the URL of what they lie below."""
    import boto3

    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.put_object(
                Bucket=BUCKET, Key=f"{prefix}/{path.relative_to(folder).as_posix()}", Body=path.read_bytes()
            )
    return f"s3://{BUCKET}/{prefix}"


def create_bucket(port: int) -> None:
    import boto3

    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}").create_bucket(Bucket=BUCKET)
