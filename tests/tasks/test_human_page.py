"""The page on which people judge, over real HTTP: nothing is lost, doubled, run or let in."""

from __future__ import annotations

import http.client
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from at_the_page import AtThePage, prefers, served
from small import keep_scenes, scenes

from models.comparisons import Comparison
from models.human_judge import HumanJudge
from storage.errors import LakeError
from storage.lake import Lake
from tasks.human_desk import Desk, desk_path
from tasks.human_page import LEASE_S, JudgingPage
from tasks.human_server import JudgingServer
from tasks.judge_human import Strips
from tasks.preferences import PreferencesConfig

VIDEOS = scenes(1)
GOOD, BAD = "it is a circle.", "it is a square."


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(desk_path(str(tmp_path / "lake")))


@pytest.fixture
def address(tmp_path: Path, desk: Desk, clock: Clock) -> Iterator[str]:
    with served(JudgingServer(JudgingPage(Lake(tmp_path / "lake"), desk, None, "ann", clock))) as address:
        yield address


@pytest.fixture
def queue(tmp_path: Path, desk: Desk) -> Queue:
    return Queue(Lake(tmp_path / "lake"), desk)


class Queue:
    """Puts pairs on the desk, as the stage does."""

    def __init__(self, lake: Lake, desk: Desk) -> None:
        config = PreferencesConfig.model_validate({"judge": "human", "frame_set": "judge_2", "narrative": False})
        self._strip = Strips(lake, keep_scenes(lake, VIDEOS).ref, config).of(next(iter(VIDEOS)))
        self._desk = desk

    def ask(self, *pairs: tuple[str, str, str]) -> None:
        """Each is a question and two answers."""
        judge = HumanJudge({}, text="Which is better?", context_text="")
        shown = [(question, judge.showings(Comparison(question, self._strip, a, b))) for question, a, b in pairs]
        self._desk.want("run", "arm", shown)

    def ask_many(self, count: int) -> None:
        self.ask(*((f"question {number}?", GOOD, BAD) for number in range(count)))


def test_an_answer_is_kept_when_the_page_moves_on(queue: Queue, desk: Desk, address: str, clock: Clock) -> None:
    queue.ask_many(2)
    person = AtThePage(address)
    clock.now += 12.5
    person.say("A", "because")
    (said,) = desk.said().values()
    assert (said.choice, said.reason, said.who, said.seconds) == ("A", "because", "ann", 12.5)
    assert said.at.endswith("+00:00")
    assert person.shown.left == "3 of 4 left"
    # A lost page: another one finds the queue as it stands, and what was shown there after a while.
    other = AtThePage(address)
    assert other.shown.hidden["key"] != person.shown.hidden["key"]
    clock.now += LEASE_S + 1
    assert other.go_on(prefers(GOOD)) == 3


def test_the_last_answer_can_be_undone(queue: Queue, desk: Desk, address: str) -> None:
    queue.ask_many(2)
    person = AtThePage(address)
    first = person.shown.question
    person.say("A")
    second = person.shown.question
    person.say("B")
    assert person.undo().question == second
    assert person.undo().question == first
    assert person.undo().question == first, "there is nothing more to undo"
    assert desk.said() == {}
    person.go_on(prefers(GOOD))
    AtThePage(address).undo()
    assert len(desk.said()) == 4, "what another page said is not its to undo"
    assert "Thank you" in person.shown.html
    assert person.undo().left == "1 of 4 left"
    assert [each.choice for each in desk.said().values()].count("tie") == 0


def test_two_pages_answer_the_same_once(queue: Queue, desk: Desk, address: str, clock: Clock) -> None:
    queue.ask(("q", GOOD, BAD))
    one, other = AtThePage(address), AtThePage(address)
    assert one.shown.hidden["key"] != other.shown.hidden["key"]
    clock.now += LEASE_S + 1
    third = AtThePage(address)
    late = next(each for each in (one, other) if each.shown.hidden["key"] == third.shown.hidden["key"])
    sent = {**third.shown.hidden, "choice": "A", "reason": ""}
    assert third.post("say", sent).status == 200
    assert third.post("say", sent).status == 200, "sent twice, counts once"
    refused = late.say("B")
    assert (refused.status, len(desk.said())) == (409, 1)
    assert "what was said first stands" in refused.html
    assert [each.choice for each in desk.said().values()] == ["A"]
    assert desk.left().waiting == 1


def test_many_pages_at_once_lose_and_double_nothing(queue: Queue, desk: Desk, address: str) -> None:
    queue.ask_many(16)

    def work(_: int) -> int:
        person, said = AtThePage(address), 0
        while not person.shown.done:
            said += person.say(*prefers(GOOD)(person.shown)).status == 200
            if person.shown.status == 409:
                person = AtThePage(address)
        return said

    with ThreadPoolExecutor(6) as people:
        counts = list(people.map(work, range(6)))
    assert len(desk.said()) == 32
    assert sum(counts) == 32, "each answer was taken from one page"
    assert desk.left().waiting == 0


def test_hostile_texts_are_shown_as_they_are_and_never_run(queue: Queue, address: str) -> None:
    script = '</p><script>alert(1)</script><img src=x onerror="alert(2)">'
    leaving = "'\"></textarea><form action=//evil><button autofocus>"
    queue.ask(("<!-- {{ token }} {% raw %} --> ?", script, leaving))
    shown = AtThePage(address).shown
    assert shown.question == "<!-- {{ token }} {% raw %} --> ?"
    assert {*shown.answers} == {script, leaving}
    assert (shown.tags.count("script"), shown.tags.count("form"), shown.tags.count("img")) == (1, 2, 2)
    assert "<script>alert" not in shown.html


def test_the_page_loads_nothing_from_elsewhere_and_says_so(queue: Queue, address: str) -> None:
    queue.ask_many(1)
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.request("GET", f"/?page={AtThePage(address).shown.hidden['page']}")
    reply = connection.getresponse()
    html = reply.read().decode()
    policy = reply.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http://" not in html
    assert "https://" not in html


@pytest.mark.parametrize(
    ("changes", "headers", "status", "words"),
    [
        ({"token": "wrong"}, {}, 403, "is not ours"),
        ({"token": "wröng"}, {}, 403, "is not ours"),
        ({}, {"Host": "evil.example:80"}, 403, "answers to 127.0.0.1 and localhost only"),
        ({}, {"Host": "127.0.0.1.evil.example"}, 403, "answers to 127.0.0.1"),
        ({}, {"Host": "[::"}, 403, "answers to 127.0.0.1"),
        ({"choice": "C"}, {}, 400, "one of the buttons"),
        ({"choice": "cannot"}, {}, 400, "why you cannot tell"),
        ({"choice": "cannot", "reason": " \n "}, {}, 400, "why you cannot tell"),
        ({"reason": "x" * 501}, {}, 400, "more than 500 characters"),
        ({"reason": "x" * 20_000}, {}, 413, "more than 16384 bytes"),
        ({"key": "0" * 64}, {}, 400, "Nothing of this kind waits here"),
        ({"page": "../../etc"}, {}, 400, "The page has no name"),
        ({}, {"Content-Type": "application/json"}, 415, "A form is sent as"),
        ({f"more{n}": "" for n in range(30)}, {}, 400, "no form"),
    ],
)
def test_what_is_wrong_is_refused_with_a_reason_and_nothing_is_kept(
    queue: Queue, desk: Desk, address: str, changes: dict[str, str], headers: dict[str, str], status: int, words: str
) -> None:
    queue.ask_many(1)
    person = AtThePage(address)
    form = {**person.shown.hidden, "choice": "A", "reason": "", **changes}
    refused = person.post("say", form, **headers)
    assert (refused.status, words in refused.html) == (status, True), refused.html[-700:]
    assert desk.said() == {}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {"Host": "evil.example"}, 403),
        ("GET", "/etc/passwd", {}, 404),
        ("GET", "/?page=<script>", {}, 400),
        ("POST", "/", {}, 404),
        ("POST", "/say", {"Content-Length": "-1"}, 411),
        ("POST", "/say", {"Content-Length": "10"}, 400),
        ("PUT", "/say", {}, 501),
    ],
)
def test_other_requests_are_refused(address: str, method: str, path: str, headers: dict[str, str], status: int) -> None:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for name, value in {"Host": urlsplit(address).netloc, "Content-Length": "0", **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    if connection.sock is not None and headers.get("Content-Length") == "10":
        connection.sock.sendall(b"half")
        connection.sock.shutdown(1)
    reply = connection.getresponse()
    assert reply.status == status
    assert "<script>" not in reply.read().decode()


def test_a_form_in_another_language_keeps_its_letters(queue: Queue, desk: Desk, address: str) -> None:
    queue.ask(("wer läuft?", "größer\nals 图", BAD))
    person = AtThePage(address)
    assert "größer\nals 图" in person.shown.answers
    body = urlencode({**person.shown.hidden, "choice": "B", "reason": "näher 图"})
    assert "%C3%A4" in body
    person.say("B", "näher 图")
    assert [each.reason for each in desk.said().values()] == ["näher 图"]


def test_a_desk_that_is_no_desk_says_which_file(tmp_path: Path) -> None:
    path = tmp_path / "human_desk.sqlite"
    path.write_bytes(b"no database at all, but long enough" * 100)
    with pytest.raises(LakeError, match=r"human_desk\.sqlite, cannot be used"):
        Desk(path)


def test_the_desk_is_beside_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path))
    assert desk_path("s3://bucket/one") != desk_path("s3://bucket/two")
    assert desk_path("s3://bucket/one").is_relative_to(tmp_path)
    path = desk_path(str(tmp_path / "lake"))
    Desk(path)
    assert path.parent == tmp_path / "lake"
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM said").fetchone() == (0,)
