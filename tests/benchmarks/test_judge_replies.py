"""What each published scorer reads in a judge's reply, and what a reply says, read rightly."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import judge_replies as replies
from benchmarks.judge_replies import Said

TEXTS = st.one_of(st.text(), st.text(alphabet="{}'\":,. predscoryno0123456789\n", max_size=60))


@pytest.fixture(scope="module")
def golden(test_data: Path) -> list[dict[str, Any]]:
    file = test_data / "annotations" / "golden_replies.json"
    found: list[dict[str, Any]] = json.loads(file.read_text())["judge_reply"]
    return found


def recorded(read: replies.Reading, endings: dict[str, str], *, verdict: bool) -> dict[str, Any]:
    """A reading as the golden file writes it."""
    if read.stage != "ok":
        return {"stage": read.stage, "result": f"!{read.error}{endings.get(read.stage, '')}"}
    return {"stage": "ok", "score": read.score} | ({"verdict": read.verdict} if verdict else {})


def test_every_golden_reply_gives_the_recorded_result(golden: list[dict[str, Any]]) -> None:
    assert len(golden) >= 16
    endings = {"parse": " -> no file written, retried for ever", "aggregate": " -> the whole script stops"}
    for case in golden:
        reply = case["input"]
        qa, score = replies.video_chatgpt_qa(reply), replies.video_chatgpt_score(reply)
        assert recorded(qa, endings, verdict=True) == case["video_chatgpt_activitynet_semantics"], reply
        assert recorded(score, {}, verdict=False) == case["video_chatgpt_benchmark_semantics"], reply
        lmms = replies.lmms_activitynet(reply)
        assert (None if lmms is None else list(lmms)) == case["lmms_activitynet_parse_score"], reply
        assert replies.lmms_videochatgpt(reply) == case["lmms_videochatgpt_parse_score"], reply
        assert replies.hound_extract_score(reply) == case["hound_extract_score"], reply
        assert replies.hound_get_score(reply) == case["hound_get_score"], reply


@pytest.mark.parametrize(
    ("reply", "stage", "score", "verdict", "error"),
    [
        ("{'pred': 'not sure', 'score': 2}", "ok", 2, "no", ""),
        ("{'pred': 'maybe', 'score': 2}", "ok", 2, None, ""),
        ("{'pred': 'Yes, no doubt', 'score': '4'}", "ok", 4, "yes", ""),
        ("{'pred': 'yes', 'score': True}", "ok", 1, "yes", ""),
        ("{'pred': None, 'score': 4}", "aggregate", 4, None, "AttributeError"),
        ("{'pred': 'yes'}", "aggregate", None, None, "KeyError"),
        ("{'pred': 'yes', 'score': 1e999}", "aggregate", None, None, "OverflowError"),
        ("{'yes', 4}", "aggregate", None, None, "TypeError"),
        ("4", "aggregate", None, None, "TypeError"),
        ("['yes', 4]", "aggregate", None, None, "TypeError"),
        ("", "parse", None, None, "SyntaxError"),
        ("```python\n{'pred': 'yes', 'score': 4}\n```", "parse", None, None, "SyntaxError"),
        ("yes", "parse", None, None, "ValueError"),
    ],
)
def test_video_chatgpts_script(reply: str, stage: str, score: int | None, verdict: str | None, error: str) -> None:
    read = replies.video_chatgpt_qa(reply)
    assert (read.stage, read.score, read.verdict, read.error) == (stage, score, verdict, error)


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("```\n{'pred': 'No', 'score': 1}\n```", ("no", 1)),
        ("{'pred': 'Maybe', 'score': 1}", ("Maybe", 1)),
        ("{{'pred': 'yes', 'score': 1}}", None),
        ("no braces", None),
        ("{'pred': 'yes', 'score': 4", ("yes", 4)),
        ("{'pred': 3, 'score': 4}", None),
    ],
)
def test_lmms_evals_activitynetqa(reply: str, read: tuple[str, int] | None) -> None:
    assert replies.lmms_activitynet(reply) == read


@pytest.mark.parametrize(
    ("reply", "score"),
    [("{'pred': 'yes'}", 0), ("[4]", 0), ("{'score': 1e999}", 0), ("{'score': '3'}", 3), ("{'score': -2.9}", -2)],
)
def test_lmms_evals_videochatgpt_takes_0_for_every_failure(reply: str, score: int) -> None:
    assert replies.lmms_videochatgpt(reply) == score


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("2 and 4 of 4", 4.0),
        ("2 or 3", 2.5),
        ("score: 4", 4.0),
        ("Score: 3, not Score: 5", 3.0),
        ("Score: high, 2", 2.0),
        ("", 1),
    ],
)
def test_llava_hounds_own_score(reply: str, score: float) -> None:
    assert replies.hound_get_score(reply) == score


@given(st.lists(st.integers(0, 12), min_size=1, max_size=12))
def test_without_a_stated_score_the_commonest_number_counts_or_the_mean_of_several(numbers: list[int]) -> None:
    counts = Counter(numbers)
    most = max(counts.values())
    said = " and ".join(map(str, numbers))
    assert replies.hound_get_score(said) == pytest.approx(fmean(n for n, count in counts.items() if count == most))


@given(TEXTS)
def test_no_text_makes_a_reader_fail(text: str) -> None:
    assert replies.video_chatgpt_qa(text).stage in ("ok", "parse", "aggregate")
    assert replies.video_chatgpt_score(text).stage in ("ok", "parse", "aggregate")
    replies.lmms_activitynet(text)
    assert isinstance(replies.lmms_videochatgpt(text), int)
    replies.hound_extract_score(text)
    assert replies.hound_get_score(text) >= 0
    for strict in (replies.strict_qa, replies.strict_score, replies.strict_explained):
        said = strict(text)
        assert (said.score is None) <= (said.fault == "no verdict")


def test_a_reply_of_absurd_size_makes_no_reader_fail() -> None:
    for text in (
        "9" * 5000,
        "{'pred': 'yes', 'score': " + "9" * 5000 + "}",
        "(" * 5000,
        "-" * 20000 + "1",
        "{" * 20000,
    ):
        replies.video_chatgpt_qa(text)
        replies.lmms_activitynet(text)
        replies.lmms_videochatgpt(text)
        replies.hound_extract_score(text)
        replies.hound_get_score(text)
        assert replies.strict_qa(text).fault == "no verdict"


PROSE = st.text(alphabet="abc yes no 1234.,!?\n`*", max_size=30)
QUOTES = st.sampled_from("'\"")
SCORES = st.one_of(st.integers(-3, 9), st.floats(-3, 9).map(lambda score: round(score, 2)))


@given(st.booleans(), SCORES, QUOTES, st.sampled_from(["json", "python", "bare"]), st.booleans(), PROSE, PROSE)
def test_strict_reads_a_dictionary_however_it_is_written(
    yes: bool, score: float, quote: str, writing: str, fenced: bool, before: str, after: str
) -> None:
    pred = {"json": str(yes).lower(), "python": str(yes), "bare": f"{quote}{'Yes' if yes else 'no'}.{quote}"}[writing]
    body = f"{{{quote}pred{quote}: {pred}, {quote}score{quote}: {score}}}"
    reply = before + (f"\n```json\n{body}\n```\n" if fenced else body) + after
    fault: Literal["", "out of range"] = "" if 0 <= score <= 5 else "out of range"
    assert replies.strict_qa(reply) == Said(fault, score, "yes" if yes else "no")
    assert replies.strict_score(reply) == Said(fault, score)


@given(st.integers(0, 5), st.integers(0, 5))
def test_dictionaries_that_differ_are_no_verdict_and_equal_ones_are_one(first: int, second: int) -> None:
    reply = f"At first {{'pred': 'yes', 'score': {first}}}, then {{'pred': 'yes', 'score': {second}}}."
    assert (replies.strict_qa(reply).fault == "") == (first == second)
    assert (replies.strict_score(reply).fault == "") == (first == second)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("{'pred': 'not sure', 'score': 2}", Said("no verdict", 2.0)),
        ("{'pred': 'yes', 'score': None}", Said("no verdict", None, "yes")),
        ("{'pred': 'yes', 'score': 'four'}", Said("no verdict", None, "yes")),
        ("{'pred': 'yes', 'pred': 'no', 'score': 4}", Said("no verdict", 4.0)),
        ("{'score': 3}", Said("no verdict")),
        ("yes, 4", Said("no verdict")),
        ("", Said("no verdict")),
        ("{'pred': 'yes', 'score': 4, 'reason': 'a {b} c'}", Said("", 4.0, "yes")),
        ('{"result": {"pred": "yes", "score": 4}}', Said("", 4.0, "yes")),
        ("{''pred'': 'yes', ''score'': 4.8,}", Said("", 4.8, "yes")),
        ("<think>{'pred': 'no', 'score': 0}</think>{'pred': 'yes', 'score': 4}", Said("", 4.0, "yes")),
    ],
)
def test_strict_guesses_nothing(reply: str, said: Said) -> None:
    assert replies.strict_qa(reply) == said


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Explanation: 2 of 3 points right\nScore: 3.5", Said("", 3.5)),
        ("Explanation: good\n**Score:** 4/5", Said("", 4.0)),
        ("score: 4 out of 5.", Said("", 4.0)),
        ("Score: 0", Said("out of range", 0.0)),
        ("Score: 3\nScore: 4", Said("no verdict")),
        ("I give 4 points", Said("no verdict")),
    ],
)
def test_strict_reads_a_stated_score(reply: str, said: Said) -> None:
    assert replies.strict_explained(reply) == said
