"""An HTTP proxy on loopback that spoils answers: resets, cut bodies, 503s, dribbles; and keeps a log."""

import re
import socket
import socketserver
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import NamedTuple

FAULTS = ("reset", "cut", "unavailable", "dribble")
_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_DRIBBLE_S = 0.2


class Request(NamedTuple):
    """What a client asked for; span: of a Range header, both ends included, or None."""

    method: str
    path: str
    span: tuple[int, int] | None


@dataclass
class Trouble:
    """fault: one of `FAULTS`, or None. left: requests still to be spoilt; None is all of them, for ever.

    ranged: only requests of ranges are spoilt.
    """

    fault: str | None = None
    left: int | None = 0
    ranged: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, request: Request) -> str | None:
        """The fault of this request."""
        with self.lock:
            if self.fault is None or self.left == 0 or (self.ranged and not request.span):
                return None
            self.left = None if self.left is None else self.left - 1
            return self.fault


class FaultyProxy(socketserver.ThreadingTCPServer):
    """Hands requests on to a server on this machine; `begin` says what goes wrong from now on."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, upstream_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream_port = upstream_port
        self.trouble = Trouble()
        self.log: list[Request] = []
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def begin(self, fault: str | None, requests: int | None = None, *, ranged: bool = False) -> None:
        """Spoils the next requests, all of them if None."""
        assert fault is None or fault in FAULTS
        self.trouble = Trouble(fault, requests, ranged)

    def heal(self) -> None:
        self.begin(None, 0)
        self.log.clear()

    def spans(self, ending: str) -> list[tuple[int, int]]:
        """Ranges [start, end) that were asked of the file whose path ends so, in order."""
        return [(one.span[0], one.span[1] + 1) for one in self.log if one.span and one.path.endswith(ending)]

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(socketserver.BaseRequestHandler):
    server: FaultyProxy

    def handle(self) -> None:
        try:
            request = _read_message(self.request)
            if not request:
                return
            fault = self._logged(request)
            if fault == "reset":
                self._reset()
            elif fault == "unavailable":
                self.request.sendall(_UNAVAILABLE)
            else:
                self._answer(_forwarded(request, self.server.upstream_port), fault)
        except OSError:
            return  # the client has gone, as some are meant to

    def _logged(self, request: bytes) -> str | None:
        method, path, _ = request.split(b"\r\n")[0].decode().split(" ")
        span = re.search(rb"\r\nrange: *bytes=(\d+)-(\d+)", request, re.IGNORECASE)
        ends = (int(span[1]), int(span[2])) if span else None
        asked = Request(method, path.partition("?")[0], ends)
        self.server.log.append(asked)
        return self.server.trouble.take(asked)

    def _reset(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.request.close()

    def _answer(self, answer: bytes, fault: str | None) -> None:
        head, _, body = answer.partition(b"\r\n\r\n")
        self.request.sendall(head + b"\r\n\r\n")
        if fault == "cut":
            self.request.sendall(body[: len(body) // 2])
        elif fault == "dribble":
            for byte in body:
                self.request.sendall(bytes([byte]))
                time.sleep(_DRIBBLE_S)
        else:
            self.request.sendall(body)


def _read_message(connection: socket.socket) -> bytes:
    """A request: its head, and as much body as it states."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return b""
        data += more
    stated = re.search(rb"\r\ncontent-length: *(\d+)", data, re.IGNORECASE)
    end = data.index(b"\r\n\r\n") + 4 + (int(stated[1]) if stated else 0)
    while len(data) < end:
        data += connection.recv(65536)
    return data


def _forwarded(request: bytes, port: int) -> bytes:
    """The server's whole answer, and the end of the connection announced in it."""
    head, _, body = request.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    with socket.create_connection(("127.0.0.1", port)) as server:
        server.sendall(b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body)
        answer = b""
        while more := server.recv(65536):
            answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body
