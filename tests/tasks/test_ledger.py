"""The ledger: several processes on one file, kill -9 in the middle, and never over budget or rate."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint, Said, completion

from models.answers import Answer
from models.endpoint import Endpoint, Exhausted, Ticket, UnderWay
from models.endpoint_settings import JudgeEndpoint
from storage.errors import LakeError
from tasks.ledger import SqliteLedger, Typical, ledger_path

PROJECT = Path(__file__).parents[2]
ANSWER = Answer("A", None, False, [("A", {"A": -0.1, "B": -2.5})], 100, 10, 0.25, 0.5)


def settings(**changes: Any) -> JudgeEndpoint:
    return JudgeEndpoint(base_url="http://127.0.0.1:1/v1", model="m", price_input=1.0, **changes)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def ticket(found: Answer | Ticket | Exhausted | UnderWay) -> Ticket:
    assert isinstance(found, Ticket), found
    return found


def test_an_answer_is_given_again_and_can_be_looked_up(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "new" / "l.sqlite", settings())
    ledger.end(ticket(ledger.begin("call", 1.0)), 0.5, "call", ANSWER)
    again = SqliteLedger(tmp_path / "new" / "l.sqlite", settings())
    assert again.begin("call", 1.0) == again.find("call") == ANSWER
    assert again.find("unknown") is None
    assert ledger.spent() == pytest.approx(0.5)


def test_the_model_that_answered_is_kept_and_answers_from_before_it_was_are_read(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "l.sqlite", settings())
    named = replace(ANSWER, model="m-0125")
    ledger.end(ticket(ledger.begin("call", 1.0)), 0.5, "call", named)
    ledger.end(ticket(ledger.begin("older", 1.0)), 0.5, "older", ANSWER)
    with sqlite3.connect(tmp_path / "l.sqlite") as db:
        eight = json.dumps(list(vars(ANSWER).values())[:8])
        db.execute("UPDATE calls SET answer = ? WHERE call = 'older'", [eight])
    assert ledger.find("call") == named
    assert ledger.find("older") == ANSWER
    assert ledger.typical() == Typical(2, 100, 10, 0.25)


def test_what_is_typical_is_reckoned_without_the_answers_in_memory(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "l.sqlite", settings())
    assert ledger.typical() is None
    long = Answer("x" * 50_000, None, False, [], 100, 10, 0.25, 0.5)
    for number in range(100):
        counted = replace(long, input_tokens=100 + number % 2 * 100, latency_s=0.25 + number % 2)
        ledger.end(ticket(ledger.begin(f"{number}", 1.0)), 0.5, f"{number}", counted)
    for name, odd in {
        "uncounted": {"output_tokens": None},
        "odd": {"cost": float("nan"), "input_tokens": 9**9},
    }.items():
        ledger.end(ticket(ledger.begin(name, 1.0)), 0.5, name, replace(ANSWER, **odd))
    other = SqliteLedger(tmp_path / "l.sqlite", JudgeEndpoint(base_url="http://127.0.0.1:1/v1", model="other"))
    other.end(ticket(other.begin("other", 0.0)), 0.0, "other", replace(ANSWER, input_tokens=7))
    tracemalloc.start()
    try:
        found = ledger.typical()
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert found == Typical(100, 150.0, 10.0, 0.75)
    assert other.typical() == Typical(1, 7.0, 10.0, 0.25)


def test_a_call_counts_at_its_dearest_until_it_ended(tmp_path: Path) -> None:
    clock = Clock()
    ledger = SqliteLedger(tmp_path / "l.sqlite", settings(budget=2.5, timeout_s=60), clock)
    one, two = (ticket(ledger.begin(name, 1.0)) for name in ("one", "two"))
    third = ledger.begin("three", 1.0)
    assert isinstance(third, Exhausted)
    assert third.waiting
    ledger.end(one, 0.1, "one", ANSWER)
    ticket(ledger.begin("three", 1.0))
    assert ledger.spent() == pytest.approx(2.1)
    clock.now += 100  # Both that are open were killed: nobody knows whether they were billed.
    fourth = ledger.begin("four", 1.0)
    assert isinstance(fourth, Exhausted)
    assert not fourth.waiting
    assert "budget of 2.5: 2.1 is spent (2 of it for calls that were under way when a run was killed)" in fourth.text
    ledger.end(two, 0.0)
    assert ledger.spent() == pytest.approx(1.1)


def test_a_call_that_is_under_way_is_waited_for(tmp_path: Path) -> None:
    clock = Clock()
    one, other = (SqliteLedger(tmp_path / "l.sqlite", settings(timeout_s=60), clock) for _ in range(2))
    first = ticket(one.begin("call", 1.0))
    assert other.begin("call", 1.0) == UnderWay()
    ticket(other.begin("another", 1.0))
    one.end(first, 0.5, "call", ANSWER)
    assert other.begin("call", 1.0) == ANSWER
    failed = ticket(one.begin("fails", 1.0))
    one.end(failed, 0.0)
    ticket(other.begin("fails", 1.0))
    clock.now += 100  # Beyond its time limit nothing comes of it.
    ticket(one.begin("fails", 1.0))


def test_a_call_whose_process_was_killed_is_not_waited_for(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tasks.ledger import SqliteLedger\n"
        "from models.endpoint_settings import JudgeEndpoint\n"
        "settings = JudgeEndpoint(base_url='http://127.0.0.1:1/v1', model='m')\n"
        "SqliteLedger(Path(sys.argv[1]), settings).begin('call', 1.0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "l.sqlite")], check=True, cwd=PROJECT)
    ticket(SqliteLedger(tmp_path / "l.sqlite", settings()).begin("call", 1.0))


def test_two_endpoints_do_not_share_a_budget(tmp_path: Path) -> None:
    one = SqliteLedger(tmp_path / "l.sqlite", settings(budget=1.0))
    other = SqliteLedger(tmp_path / "l.sqlite", JudgeEndpoint(base_url="http://127.0.0.1:1/v1", model="other"))
    ticket(one.begin("a", 1.0))
    ticket(other.begin("b", 5.0))
    assert (one.spent(), other.spent()) == (1.0, 5.0)


def test_places_are_apart_and_a_pause_moves_them(tmp_path: Path) -> None:
    clock = Clock()
    ledger = SqliteLedger(tmp_path / "l.sqlite", settings(requests_per_minute=30), clock)
    at = [ticket(ledger.begin(f"{number}", 0.0)).at for number in range(100)]
    assert all(later - sooner >= 60 for sooner, later in zip(at, at[30:], strict=False))
    ledger.pause(1000.0)
    assert ticket(ledger.begin("paused", 0.0)).at == 2000.0
    free = SqliteLedger(tmp_path / "free.sqlite", settings(), clock)
    assert {ticket(free.begin(f"{number}", 0.0)).at for number in range(9)} == {1000.0}


def test_a_file_that_is_no_ledger_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "l.sqlite").write_bytes(b"something else, and long enough to be looked at" * 50)
    with pytest.raises(LakeError, match="cannot be used"):
        SqliteLedger(tmp_path / "l.sqlite", settings())


def test_the_ledger_of_a_bucket_is_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path))
    one, other = ledger_path("s3://bucket/one"), ledger_path("s3://bucket/other")
    assert one.parent == tmp_path / "ledgers"
    assert one != other
    assert ledger_path(str(tmp_path / "lake")).parent == tmp_path / "lake"


RACE = """
import json, sys
from pathlib import Path
from models.endpoint import Ticket
from models.endpoint_settings import JudgeEndpoint
from tasks.ledger import SqliteLedger
settings = JudgeEndpoint(base_url="http://127.0.0.1:1/v1", model="m", price_input=1.0, budget=400.0,
                         requests_per_minute=120)
ledger = SqliteLedger(Path(sys.argv[1]), settings)
print("ready", flush=True)
sys.stdin.readline()
places, number = [], 0
while isinstance(found := ledger.begin(f"{sys.argv[2]} {number}", 1.0), Ticket):
    places.append(found.at)
    number += 1
    if number % 3 == 0:
        ledger.end(found, 0.0)
    elif number % 3 == 1:
        ledger.end(found, 1.0)
print(json.dumps(places))
"""


@pytest.mark.slow
def test_processes_together_pass_neither_budget_nor_rate(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACE, str(tmp_path / "l.sqlite")]
    pipe = subprocess.PIPE
    racers = [
        subprocess.Popen([*command, str(number)], stdin=pipe, stdout=pipe, text=True, cwd=PROJECT)
        for number in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:  # All of them at once, each with the file open.
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    places = [json.loads(racer.communicate(timeout=200)[0]) for racer in racers]
    assert all(racer.returncode == 0 for racer in racers)
    spent = sum(sum(number % 3 != 2 for number in range(len(each))) for each in places)
    assert spent == 400
    at = sorted(place for each in places for place in each)
    assert all(later - sooner >= 60 for sooner, later in zip(at, at[120:], strict=False))


JUDGE = """
import sys
from pathlib import Path
from models.comparisons import Comparison, Verdict
from models.endpoint import Endpoint, EndpointError
from models.endpoint_judge import SCHEMA, EndpointJudge
from models.endpoint_settings import JudgeEndpoint
from models.templates import shipped
from tasks.ledger import SqliteLedger
settings = JudgeEndpoint(base_url=sys.argv[2], model="m", concurrency=4, timeout_s=2, price_output=1000.0,
                         budget=float(sys.argv[3]), max_tokens=10)
endpoint = Endpoint(settings, SqliteLedger(Path(sys.argv[1]), settings), None, SCHEMA, 4)
texts = {"text": shipped("judge_endpoint"), "context_text": shipped("judge_endpoint_context")}
judge = EndpointJudge(endpoint, **texts, again=shipped("judge_endpoint_again"))
try:
    found = judge.judge([Comparison(f"{n}?", (), "one", "two") for n in range(50)])
except EndpointError as error:
    print("stopped", error)
else:
    print("done", sum(isinstance(each, Verdict) for each in found))
judge.close()
"""


@pytest.mark.slow
def test_killed_again_and_again_no_answer_is_paid_twice_and_the_budget_holds(tmp_path: Path) -> None:
    """A call costs 0.01. 100 calls are needed; each kill may lose the four that were under way."""
    kills, room = 3, 1.3
    with FakeEndpoint(lambda _: Said(completion("A", tokens=(100, 10)), delay_s=0.02)) as server:
        command = [sys.executable, "-c", JUDGE, str(tmp_path / "l.sqlite"), server.url]

        def start(budget: float) -> subprocess.Popen[str]:
            return subprocess.Popen([*command, str(budget)], stdout=subprocess.PIPE, text=True, cwd=PROJECT)

        for kill in range(1, kills + 1):
            worker = start(room)
            until = time.monotonic() + 60
            while len(server.calls) < kill * 20 and time.monotonic() < until:
                time.sleep(0.002)
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
        killed = len(server.calls)
        said = start(room).communicate(timeout=100)[0]
        assert said.startswith("done 50"), said
        asked = [json.dumps(call.body) for call in server.calls]
        assert len(set(asked)) == 100
        assert killed >= kills * 20
        assert len(asked) - 100 <= kills * 4, "an answer that was in the ledger was asked for again"
        assert len(asked) * 0.01 <= room
        # What is known: everything is spent but the last room, and a smaller budget stops the next judge at once.
        assert start(room).communicate(timeout=100)[0].startswith("done 50")
        assert len(server.calls) == len(asked)
        ledger = SqliteLedger(
            tmp_path / "l.sqlite", JudgeEndpoint(base_url=server.url, model="m", price_output=1000.0, budget=room)
        )
        assert len(asked) * 0.01 - 1e-6 <= ledger.spent() <= room
        assert ledger.answered() == 100


RATED = """
import sys
from pathlib import Path
from models.comparisons import Comparison
from models.endpoint import Endpoint
from models.endpoint_judge import SCHEMA, EndpointJudge
from models.endpoint_settings import JudgeEndpoint
from models.templates import shipped
from tasks.ledger import SqliteLedger
settings = JudgeEndpoint(base_url=sys.argv[2], model="m", concurrency=16, requests_per_minute=float(sys.argv[3]))
endpoint = Endpoint(settings, SqliteLedger(Path(sys.argv[1]), settings), None, SCHEMA, 16)
texts = {"text": shipped("judge_endpoint"), "context_text": shipped("judge_endpoint_context")}
judge = EndpointJudge(endpoint, **texts, again=shipped("judge_endpoint_again"))
judge.judge([Comparison(f"{sys.argv[4]} {n}?", (), "one", "two") for n in range(40)])
judge.close()
"""


@pytest.mark.slow
def test_the_rate_holds_where_the_calls_arrive(tmp_path: Path) -> None:
    """Two judges, one killed and begun again, one stopped for a while as on a machine that is too busy.

    The promise: the calls of any 60 s are no more than the rate. A minute is long, so what is tested is what it follows
    from. Places are 61 s / rate apart. A call leaves at its place or up to 0.5 s late, and is allowed 0.5 s on its way:
    so of any calls that arrive after one another, the last comes no sooner than its place, and the first no later than
    1 s after its own. n + 1 calls hence take at least n * 61 s / rate - 1 s, which for n = rate are the 60 s.
    """
    rate = 600.0
    with FakeEndpoint(lambda _: Said(completion("A"), delay_s=0.05)) as server:
        command = [sys.executable, "-c", RATED, str(tmp_path / "l.sqlite"), server.url, str(rate)]

        def start(name: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen([*command, name], cwd=PROJECT)

        def wait_for(calls: int) -> None:
            until = time.monotonic() + 60
            while len(server.calls) < calls and time.monotonic() < until:
                time.sleep(0.005)

        steady, unlucky = start("steady"), start("unlucky")
        wait_for(30)
        os.kill(unlucky.pid, signal.SIGKILL)
        unlucky.wait()
        unlucky = start("unlucky")
        wait_for(60)
        for _ in range(3):
            steady.send_signal(signal.SIGSTOP)
            time.sleep(0.7)
            steady.send_signal(signal.SIGCONT)
            time.sleep(0.5)
        assert [each.wait(timeout=100) for each in (steady, unlucky)] == [0, 0]
        at = sorted(call.at for call in server.calls)
    assert 160 <= len(at) <= 160 + 16
    apart = 61 / rate
    soonest = min(at[j] - at[i] - (j - i) * apart for i in range(len(at)) for j in range(i + 1, len(at)))
    assert soonest >= -1.0


class Late:
    """In the ledger's place: its first ticket comes to its caller late, as to a process that was stopped meanwhile."""

    def __init__(self, late_s: float) -> None:
        self.late_s = late_s
        self.ended: list[float] = []

    def begin(self, *_: Any) -> Ticket:
        late_s, self.late_s = self.late_s, 0.0
        return Ticket(1, time.time() - late_s)

    def end(self, _: Ticket, cost: float, *__: Any) -> None:
        self.ended.append(cost)


@pytest.mark.parametrize(("late_s", "places"), [(0.2, 1), (0.6, 2), (5.0, 2)])
def test_a_call_that_would_leave_late_gives_its_place_back(late_s: float, places: int) -> None:
    """Half of what the places are apart beyond a minute stays for the way to the server."""
    ledger: Any = Late(late_s)

    async def ask(url: str) -> None:
        endpoint = Endpoint(JudgeEndpoint(base_url=url, model="m"), ledger, None, {}, 1)
        await endpoint.ask([{"role": "user", "content": "which?"}])
        await endpoint.close()

    with FakeEndpoint() as server:
        asyncio.run(ask(server.url))
        assert (len(server.calls), len(ledger.ended)) == (1, places)


@pytest.mark.slow
def test_a_budget_that_kills_used_up_says_so(tmp_path: Path) -> None:
    with FakeEndpoint(lambda _: Said(completion("A", tokens=(100, 10)), delay_s=0.02)) as server:
        command = [sys.executable, "-c", JUDGE, str(tmp_path / "l.sqlite"), server.url, "0.305"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            cwd=PROJECT,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )
        assert done.stdout.startswith("stopped")
        assert "has used up its budget of 0.305: 0.3 is spent" in done.stdout
        assert len(server.calls) == 30


def test_many_open_a_new_ledger_at_once(tmp_path: Path) -> None:
    for attempt in range(5):
        start, faults = threading.Barrier(8), list[Exception]()

        def enter(path: Path, start: threading.Barrier, faults: list[Exception]) -> None:
            start.wait()
            try:
                SqliteLedger(path, settings()).close()
            except Exception as fault:  # It would be lost with its thread.
                faults.append(fault)

        path = tmp_path / f"{attempt}.sqlite"
        threads = [threading.Thread(target=enter, args=(path, start, faults)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
