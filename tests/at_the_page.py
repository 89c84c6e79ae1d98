"""A person at the page of `rlaif judge`, over real HTTP: reads what is shown and presses buttons."""

from __future__ import annotations

import base64
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from threading import Thread
from urllib.parse import urlencode

from tasks.human_server import JudgingServer

Opinion = Callable[["Shown"], tuple[str, str]]


@dataclass
class Shown:
    """What a page shows: its texts by their place, its forms' hidden fields, its pictures."""

    html: str
    status: int
    texts: dict[str, str] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    pictures: list[bytes] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    @property
    def answers(self) -> tuple[str, str]:
        return self.texts["answer-a"], self.texts["answer-b"]

    @property
    def question(self) -> str:
        return self.texts["question"]

    @property
    def left(self) -> str:
        return self.texts.get("small", "")

    @property
    def done(self) -> bool:
        return "key" not in self.hidden


class _Reader(HTMLParser):
    def __init__(self, shown: Shown) -> None:
        super().__init__()
        self.shown = shown
        self.place: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.shown.tags.append(tag)
        self.place = given.get("id") or given.get("class") or tag
        if given.get("type") == "hidden":
            self.shown.hidden[given["name"]] = given["value"]
        if tag == "img":
            self.shown.pictures.append(base64.b64decode(given["src"].removeprefix("data:image/jpeg;base64,")))
            self.shown.captions.append(given["alt"])

    def handle_data(self, data: str) -> None:
        if self.place is not None:
            self.shown.texts.setdefault(self.place, data)
        self.place = None


class AtThePage:
    """One page, opened anew. It follows redirections as a browser does."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.shown = self._get("")

    def say(self, choice: str, reason: str = "") -> Shown:
        """Presses a button, with a reason; what comes then, which may be a refusal."""
        self.shown = self.post("say", {**self.shown.hidden, "choice": choice, "reason": reason})
        return self.shown

    def undo(self) -> Shown:
        self.shown = self.post("undo", self.shown.hidden)
        return self.shown

    def go_on(self, opinion: Opinion, most: int | None = None) -> int:
        """Answers until nothing is left, or `most` times; how often."""
        said = 0
        while not self.shown.done and said != most:
            assert self.say(*opinion(self.shown)).status == 200, self.shown.html
            said += 1
        return said

    def post(self, what: str, form: dict[str, str], **headers: str) -> Shown:
        return self._asked(urllib.request.Request(self.address + what, urlencode(form).encode(), headers))

    def _get(self, path: str) -> Shown:
        return self._asked(urllib.request.Request(self.address + path))

    def _asked(self, request: urllib.request.Request) -> Shown:
        # No proxy of the environment may come between the test and the loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as reply:
                shown = Shown(reply.read().decode(), reply.status)
        except urllib.error.HTTPError as error:
            shown = Shown(error.read().decode(), error.code)
        _Reader(shown).feed(shown.html)
        return shown


def prefers(answer: str) -> Opinion:
    """Whoever finds that answer better wherever it stands; others are equally good."""

    def opinion(shown: Shown) -> tuple[str, str]:
        places = [letter for letter, each in zip("AB", shown.answers, strict=True) if each == answer]
        return (places[0] if places else "tie"), "it is right"

    return opinion


@contextmanager
def served(server: JudgingServer) -> Iterator[str]:
    """The address of a server at work."""
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.address
    finally:
        server.shutdown()
        server.server_close()
