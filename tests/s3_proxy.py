"""A proxy between a client and an S3 server that misbehaves: seeded faults, and headers that it takes away."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>made by the proxy</Message></Error>"
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}


@dataclass(frozen=True)
class Faults:
    """What goes wrong, as shares of the requests.

    Attributes:
        refused: answered with 500 or 503; half of these after the server has done what was asked.
        cut: connection closed half-way: in the middle of the request's body, or of the answer.
        delayed: held up for `delay_s` seconds (a range) and then served.
        dropped: headers that never reach the server.
        seed: of the draws.
    """

    refused: float = 0.0
    cut: float = 0.0
    delayed: float = 0.0
    delay_s: tuple[float, float] = (1.0, 3.0)
    dropped: tuple[str, ...] = ()
    seed: int = 0


class Proxy:
    """A running proxy.

    Attributes:
        url: where clients connect.
        counts: requests by what became of them: served, refused, refused_late, cut_request, cut_answer, delayed.
    """

    def __init__(self, server: str, faults: Faults) -> None:
        self.faults = faults
        self.counts: Counter[str] = Counter()
        self.target = urlsplit(server)
        self._random = random.Random(faults.seed)
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def draw(self) -> tuple[str, float]:
        """What becomes of the next request, and for how long it is held up."""
        with self._lock:
            luck, half, wait = self._random.random(), self._random.random(), self._random.uniform(*self.faults.delay_s)
            fate = "served"
            if luck < self.faults.refused:
                fate = "refused" if half < 0.5 else "refused_late"
            elif luck < self.faults.refused + self.faults.cut:
                fate = "cut_request" if half < 0.5 else "cut_answer"
            elif luck < self.faults.refused + self.faults.cut + self.faults.delayed:
                fate = "delayed"
            self.counts[fate] += 1
        return fate, wait if fate == "delayed" else 0.0

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def proxy(server: str, faults: Faults) -> Iterator[Proxy]:
    """A proxy in front of `server`, for as long as the block runs."""
    running = Proxy(server, faults)
    try:
        yield running
    finally:
        running.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, *_: object) -> None: ...

    def handle_expect_100(self) -> bool:
        return super().handle_expect_100()

    def serve(self) -> None:
        fate, wait = self.proxy.draw()
        time.sleep(wait)
        length = int(self.headers.get("Content-Length") or 0)
        if fate == "cut_request":
            self.rfile.read(length // 2)
            return self._hang_up()
        body = self.rfile.read(length)
        if fate == "refused":
            return self._refuse()
        status, headers, answer = self._forward(body)
        if fate == "refused_late":
            return self._refuse()
        self._begin(status, headers, len(answer))
        if fate == "cut_answer":
            if self.command != "HEAD" and len(answer) > 1:
                self.end_headers()
                self.wfile.write(answer[: len(answer) // 2])
                self.wfile.flush()
            return self._hang_up()
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)
        return None

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        target = self.proxy.target
        connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=60)
        dropped = {name.lower() for name in self.proxy.faults.dropped} | _HOP | {"host"}
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", target.netloc)
        for name, value in self.headers.items():
            if name.lower() not in dropped:
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in _HOP]
        if self.command == "HEAD":
            headers += [("Content-Length", value) for value in [response.getheader("Content-Length")] if value]
        answer = response.read()
        connection.close()
        return response.status, headers, answer

    def _begin(self, status: int, headers: list[tuple[str, str]], length: int) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(length))

    def _refuse(self) -> None:
        status, code = (500, b"InternalError") if length_is_even(self.path) else (503, b"ServiceUnavailable")
        body = ERROR % code
        self._begin(status, [("Content-Type", "application/xml")], len(body))
        if self.command == "HEAD":
            self.send_header("Content-Length", "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def length_is_even(text: str) -> bool:
    return len(text) % 2 == 0
