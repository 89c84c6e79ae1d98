"""An OpenAI-compatible server over real HTTP on a loopback port, for tests: it says what it is told to say."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# No proxy of the environment may come between a test, or a worker that it starts later, and the loopback.
os.environ["NO_PROXY"] = "127.0.0.1,localhost"

Body = dict[str, Any]


@dataclass
class Said:
    """One HTTP reply. `body` is sent as JSON, or as it is when it is text; `delay_s` passes before."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


@dataclass(frozen=True)
class Call:
    """A call as it came: when (monotonic seconds), its body and its headers."""

    at: float
    body: Body
    headers: dict[str, str]

    @property
    def text(self) -> str:
        """The words of the first message."""
        content = self.body["messages"][0]["content"]
        return str(next(part["text"] for part in content if part["type"] == "text"))


def completion(text: str | None, *, tokens: tuple[int, int] = (100, 10), finish: str = "stop", **more: Any) -> Body:
    """A chat completion; `more` goes into its choice."""
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}, **more}
    return {"id": "c", "object": "chat.completion", "created": 1, "choices": [choice], "usage": usage}


def verdict(choice: str, reason: str = "it is right") -> Said:
    """The reply that was asked for."""
    return Said(completion(json.dumps({"verdict": choice, "reason": reason})))


def error(status: int, message: str, **headers: str) -> Said:
    """An error as OpenAI's servers send it."""
    return Said({"error": {"message": message, "type": "error"}}, status, headers)


class FakeEndpoint:
    """Replies with the queue `script` while it lasts, then with `reply(call)`. A context manager."""

    def __init__(self, reply: Callable[[Call], Said] = lambda _: verdict("A")) -> None:
        self.reply = reply
        self.script: list[Said] = []
        self.calls: list[Call] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._server = _server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> FakeEndpoint:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, body: Body, headers: dict[str, str]) -> Said:
        """What is said to a call; it is counted."""
        call = Call(time.monotonic(), body, headers)
        with self._lock:
            self.calls.append(call)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            said = self.script.pop(0) if self.script else None
        said = said or self.reply(call)
        if isinstance(said.body, dict) and "choices" in said.body:  # Named as it was asked for, unless a test says.
            said = replace(said, body={"model": body.get("model"), **said.body})
        time.sleep(said.delay_s)
        with self._lock:
            self._at_once -= 1
        return said


def _server(endpoint: FakeEndpoint) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._send(endpoint.answer(body, {name.lower(): value for name, value in self.headers.items()}))

        def do_GET(self) -> None:
            self._send(Said({"object": "list", "data": []}))

        def _send(self, said: Said) -> None:
            page = isinstance(said.body, str)
            data = said.body.encode() if page else json.dumps(said.body).encode()
            try:
                self.send_response(said.status)
                kind = "text/html" if page else "application/json"
                for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **said.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                self.close_connection = True  # The client has gone, as a killed one does.

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

    return Server(("127.0.0.1", 0), Handler)
