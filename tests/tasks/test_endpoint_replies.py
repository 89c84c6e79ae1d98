"""Replies that no server should send: none stops a labelling, and no call is left open in the ledger."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Call, FakeEndpoint, Said, completion, error
from over_http import KEY, Judges, fair, judged, logprobs, pair, refused, settings

from models.answers import storable
from models.comparisons import NoVerdict

HALF, WHOLE = "\ud83d", "\U0001f600"
HALF_ESCAPED = "\\ud83d"


@pytest.fixture(autouse=True)
def _quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.endpoint._BACKOFF_S", 0.01)


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(fair) as server:
        yield server


@pytest.fixture
def judges(tmp_path: Path) -> Iterator[Judges]:
    made = Judges(tmp_path)
    yield made
    made.close()


def still_open(judges: Judges) -> int:
    """Calls of the ledger that nobody ended."""
    with sqlite3.connect(judges.path) as db:
        return int(db.execute("SELECT count(*) FROM calls WHERE ends IS NOT NULL").fetchone()[0])


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("plain \u00e9\n\t.", "plain \u00e9\n\t."),
        (f"x{HALF}y", "x\ufffdy"),
        (HALF, "\ufffd"),
        ("\ude00" + HALF, "\ufffd\ufffd"),
        ("\ud83d" + "\ude00", WHOLE),
        ("\x00\x1b[31m\x85", "\ufffd\ufffd[31m\ufffd"),
    ],
    ids=ascii,
)
def test_what_no_table_takes_is_replaced(text: str, kept: str) -> None:
    assert storable(text) == kept
    kept.encode()


ODD = [
    (Said(completion(f"C {HALF}\x00")), "third option, its last reply: 'C \ufffd\ufffd'"),
    (Said(completion(None, message={"content": None, "refusal": f"no {HALF}"})), "a refusal (no \ufffd)"),
    (Said({"error": {"message": f"broken {HALF}"}}), "an error (broken \ufffd)"),
    (error(400, f"bad {HALF} \x1b[2J"), "HTTP 400: bad \ufffd \ufffd[2J"),
    (error(500, f"bad {HALF}"), "HTTP 500: bad \ufffd, 3 times"),
    (Said("[" * 100_000), "no JSON object"),
    (Said('{"choices": ' + "[" * 100_000), "no JSON object"),
    (Said('{"usage": ' + "9" * 5000 + "}"), "no JSON object"),
]


@pytest.mark.parametrize(("said", "reason"), ODD)
def test_an_odd_reply_costs_only_its_own_pair(server: FakeEndpoint, judges: Judges, said: Said, reason: str) -> None:
    """A reply that is asked again goes back to the server: that, too, must be text."""
    server.reply = lambda call: said if "strange" in call.text else fair(call)
    fine, strange = judges(settings(server)).judge([pair(), pair(question="strange?")])
    assert not isinstance(fine, NoVerdict)
    assert isinstance(strange, NoVerdict)
    assert reason in strange.reason
    strange.reason.encode()
    assert still_open(judges) == 0


@pytest.mark.parametrize(("half", "reason"), [(HALF, "good"), (HALF_ESCAPED, "good \ufffd")])
def test_half_a_character_in_a_reason_is_replaced(server: FakeEndpoint, judges: Judges, half: str, reason: str) -> None:
    """Escaped in the reply's own JSON, or once more in the judge's object within."""
    server.reply = lambda _: Said(completion(f'{{"verdict": "A", "reason": "good {half}"}}'))
    (found,) = judged(judges(settings(server)), pair())
    assert found.reason_first == found.reason_second == reason
    (found.reply_first or "").encode()


def test_a_ledger_from_before_with_half_a_character_does_no_harm(server: FakeEndpoint, judges: Judges) -> None:
    """Such replies stand in the ledgers of earlier versions, and are given again."""
    chosen = settings(server)
    server.reply = lambda _: Said(completion("C #"))
    assert "third option" in refused(judges(chosen), pair())
    with sqlite3.connect(judges.path) as db:
        db.execute("UPDATE calls SET answer = replace(answer, '#', ?)", [HALF_ESCAPED])
    assert "third option, its last reply: 'C \ufffd'" in refused(judges(chosen), pair())


def with_usage(**usage: Any) -> Said:
    return Said({**completion('{"verdict": "A", "reason": "x"}'), "usage": usage})


@pytest.mark.parametrize("count", [10**30, 10**12, -1, True, 3.5, "100", None, [100]])
def test_a_count_of_tokens_that_cannot_be_one_is_unknown(server: FakeEndpoint, judges: Judges, count: Any) -> None:
    """And costs what the call could cost at most."""
    chosen = settings(server, price_input=1.0, budget=100.0)
    server.reply = lambda _: with_usage(prompt_tokens=count, completion_tokens=10)
    (found,) = judged(judges(chosen), pair())
    assert (found.input_tokens, found.output_tokens) == (0, 20)
    ledger = judges.ledger(chosen)
    assert 2 * 2 * 1500 / 1e6 < ledger.spent() == pytest.approx(found.cost)
    assert (ledger.answered(), still_open(judges)) == (2, 0)


@pytest.mark.parametrize(
    "odd",
    [1000, 0.5, True, float("nan"), float("inf"), float("-inf"), 10**400, -(10**400), "0"],
    ids=lambda odd: str(odd)[:5],
)
def test_a_log_probability_that_is_none_is_left_out(server: FakeEndpoint, judges: Judges, odd: Any) -> None:
    """`B` has no sound one, and so the letter that was said counts alone."""

    def reply(_: Call) -> Said:
        body = completion("A", **logprobs(("A", {"A": 0.5, "B": 0.5})))
        place = body["choices"][0]["logprobs"]["content"][0]
        place["top_logprobs"][1]["logprob"] = odd
        return Said(body)

    server.reply = reply
    (found,) = judged(judges(settings(server)), pair())
    assert (found.p_a_first, found.p_a_second, found.preferred) == (1.0, 0.0, "tie")
    assert still_open(judges) == 0


def test_whatever_is_raised_after_the_sending_the_call_is_ended(
    server: FakeEndpoint, judges: Judges, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("models.endpoint.read_answer", broken)
    chosen = settings(server, price_input=1.0)
    with pytest.raises(ZeroDivisionError):
        judges(chosen).judge([pair()])
    assert still_open(judges) == 0
    assert judges.ledger(chosen).spent() > 0


@pytest.mark.parametrize("before", [280, 290, 299, 300])
def test_a_key_across_the_place_where_a_message_is_cut_is_hidden(
    server: FakeEndpoint, judges: Judges, before: int
) -> None:
    """Each way in which a server's words are cut."""
    words = "x" * before + KEY
    ways = [
        error(400, words),
        Said(completion(None, message={"content": None, "refusal": words})),
        Said({"error": {"message": words}}),
    ]
    for number, said in enumerate(ways):
        server.reply = lambda _, said=said: said
        reason = refused(judges(settings(server, api_key_env="JUDGE_KEY"), KEY), pair(question=f"{number} {before}"))
        assert "x" * 200 in reason
        assert KEY[:4] not in reason


def test_a_key_that_is_spelt_in_escapes_is_hidden_too(server: FakeEndpoint, judges: Judges) -> None:
    """The bytes of a reply need not hold the key as it is: some servers escape what others do not."""
    reply = json.dumps(completion(json.dumps({"verdict": "A", "reason": f"your key is {KEY}"})))
    server.reply = lambda _: Said(reply.replace("-never", "\\u002dnever"))
    (found,) = judged(judges(settings(server, api_key_env="JUDGE_KEY"), KEY), pair())
    assert found.reason_first == "your key is ***"
    for file in judges.path.parent.iterdir():
        assert KEY.encode() not in file.read_bytes()
