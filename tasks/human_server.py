"""Serves the page on which people judge, on loopback only and to nobody else's pages."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, urlsplit

from storage.errors import LakeError
from tasks.human_page import JudgingPage, RefusedError, rendered

LOOPBACK = "127.0.0.1"
_NAMES = {LOOPBACK, "localhost", "::1"}
_LARGEST_FORM = 16_384  # Bytes.
_READ_AT_MOST = 1_000_000
_FORM = "application/x-www-form-urlencoded"
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'nonce-{0}'; script-src 'nonce-{0}'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


class JudgingServer(ThreadingHTTPServer):
    """The page at http://127.0.0.1:PORT/; `serve_forever` works until somebody stops it."""

    daemon_threads = True

    def __init__(self, page: JudgingPage, port: int = 0) -> None:
        """`port` 0 takes a free one. Raises OSError when another is taken."""
        super().__init__((LOOPBACK, port), _Handler)
        self.page = page

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{LOOPBACK}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: JudgingServer
    timeout = 30.0  # Seconds for a request to come in whole.
    back = "/"  # Where a refusal leads: to the page that asked, whose showing still waits there.

    def do_GET(self) -> None:
        self._guarded(self._show)

    def do_POST(self) -> None:
        self._guarded(self._take)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            try:
                work()
            except RefusedError as error:
                self._refuse(error.status, str(error))
            except LakeError as error:
                self._refuse(503, str(error))
        except OSError:
            self.close_connection = True  # The browser has gone; what it had sent whole is kept.

    def _check_host(self) -> None:
        """A name that a stranger made to point here would let his page read ours."""
        hosts = self.headers.get_all("Host") or []
        try:
            ours = len(hosts) == 1 and urlsplit(f"//{hosts[0]}").hostname in _NAMES
        except ValueError:
            ours = False
        if not ours:
            raise RefusedError(403, f"This page answers to {LOOPBACK} and localhost only.")

    def _show(self) -> None:
        self._check_host()
        parts = urlsplit(self.path)
        if parts.path != "/":
            raise RefusedError(404, "There is one page here: /.")
        page = dict(parse_qsl(parts.query)).get("page")
        if page is None:
            self._go_on(f"/?page={self.server.page.new_page()}")
            return
        nonce = secrets.token_urlsafe(12)
        self._send(200, self.server.page.html(page, nonce), nonce)

    def _take(self) -> None:
        body = self._body()
        self._check_host()
        what = {"/say": self.server.page.say, "/undo": self.server.page.undo}.get(self.path)
        if what is None:
            raise RefusedError(404, "Answers go to /say and /undo.")
        if self.headers.get_content_type() != _FORM:
            raise RefusedError(415, f"A form is sent as {_FORM}.")
        try:
            form = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="replace", max_num_fields=20))
        except ValueError:
            raise RefusedError(400, "This is no form.") from None
        self.back = f"/?page={quote(form.get('page', ''))}"
        what(form)
        self._go_on(self.back)

    def _body(self) -> bytes:
        """What was sent. It is read before anything is refused: unread, it would cut off the reply."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            raise RefusedError(411, "The length of the form is missing.")
        body = self.rfile.read(min(int(length), _READ_AT_MOST))
        if len(body) > _LARGEST_FORM:
            raise RefusedError(413, f"The form has more than {_LARGEST_FORM} bytes.")
        if len(body) < int(length):
            raise RefusedError(400, "The form did not come whole; nothing of it was kept.")
        return body

    def _go_on(self, place: str) -> None:
        self.send_response(303)
        self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _refuse(self, status: int, reason: str) -> None:
        nonce = secrets.token_urlsafe(12)
        self._send(status, rendered(nonce=nonce, refused=reason, back=self.back), nonce)

    def _send(self, status: int, html: str, nonce: str) -> None:
        data = html.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(data)),
            "Content-Security-Policy": _POLICY.format(nonce),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Says nothing: the terminal belongs to the command."""
