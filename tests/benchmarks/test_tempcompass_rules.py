"""How TempCompass's rules read answers and judges, and how strict does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import tempcompass_rules as rules

MATCH = "Which fits?\nOption 1: A man runs.\nOption 2: A man sits."
CHOICE = "What is he doing?\nA. running\nB. sitting\nC. standing"


@pytest.fixture(scope="module")
def golden(test_data: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((test_data / "annotations" / "golden_replies.json").read_text())
    return found


def test_golden_caption_matching(golden: dict[str, Any]) -> None:
    about = golden["tempcompass_caption_matching"]
    for case in about["cases"]:
        rating = rules.caption_matching(case["pred"], about["question"], about["answer"])
        assert ("fail" if rating is None else rating) == case["out"], case


def test_golden_multi_choice(golden: dict[str, Any]) -> None:
    about = golden["tempcompass_multi_choice"]
    for case in about["cases"]:
        rating = rules.multi_choice(case["pred"], about["answer"])
        assert ("fail" if rating is None else rating) == case["out"], case


def test_golden_yes_no_and_judges(golden: dict[str, Any]) -> None:
    for case in golden["tempcompass_yes_no"]:
        assert (rules.yes_no(case["pred"]) or False) == case["out"], case
    for case in golden["tempcompass_judge_rating"]:
        rating = rules.rating(case["reply"])
        assert ("!AssertionError" if rating is None else rating) == case["out"], case
        assert (rating or 0) == case["vlmevalkit"], case


def test_golden_captioning(golden: dict[str, Any]) -> None:
    about = golden["tempcompass_captioning_parse"]
    for case in about["cases"]:
        read = rules.captioning(case["reply"], about["gt"])
        said = {"chatgpt-answer": read.answer, "chatgpt-reasoning": read.reasoning, "rating": read.rating}
        assert said == case["out"], case


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Correct, though Incorrect at first", 1),
        ("It is Incorrect, not Correct", 0),
        ("I say Correct", 1),
        ("INCORRECT", None),
    ],
)
def test_ratings(reply: str, rating: int | None) -> None:
    assert rules.rating(reply) == rating


def test_a_later_option_counts_where_two_fit_and_options_without_a_label_stop_the_script() -> None:
    twice = "Which?\nOption 1: It is so.\nOption 2: It is so."
    assert rules.caption_matching("It is so.", twice, "Option 1: It is so.") == 1
    with pytest.raises(IndexError):
        rules.caption_matching("x", "Which?\nno label", "no label")
    short = "Which?\nA: It is so.\nB: It is not."
    assert rules.caption_matching("It is so.", short, "A: It is so.") == 1
    with pytest.raises(IndexError):
        rules.caption_matching("It is not.", short, "A: It is so.")
    assert rules.strict_caption_matching("It is so.", twice) is None
    assert rules.strict_caption_matching("x", "Which?\nno label\n: nothing") is None


def test_captioning_without_a_reply_rates_minus_one() -> None:
    assert rules.captioning("", "B. sitting").rating == -1
    assert rules.captioning("invalid_request_error", "B. sitting").rating == -1


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("B.", "B"),
        ("B. sitting.", "B"),
        ("Answer: B) Sitting", "B"),
        ("sitting", "B"),
        ("D.", "D"),
        ("B. running", None),
        ("It is B", None),
        ("A man sits", None),
        ("", None),
    ],
)
def test_strict_choice(reply: str, letter: str | None) -> None:
    assert rules.strict_choice(reply, CHOICE) == letter


@pytest.mark.parametrize(
    ("reply", "said"),
    [("Yes.", "yes"), ("no", "no"), ("No, he sits", "no"), ("Nothing", None), ("not sure", None), ("Yes and no", None)],
)
def test_strict_yes_no(reply: str, said: str | None) -> None:
    assert rules.strict_yes_no(reply) == said


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("2", 2),
        ("option 2:", 2),
        ("(2)", 2),
        ("2. A man sits.", 2),
        ("A man runs", 1),
        ("Option 1: A man sits.", None),
        ("", None),
    ],
)
def test_strict_caption_matching(reply: str, number: int | None) -> None:
    line = None if number is None else MATCH.split("\n")[number]
    assert rules.strict_caption_matching(reply, MATCH) == line


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("correct", 1),
        ("The prediction is incorrect.", 0),
        ("not correct", None),
        ("Correct or incorrect?", None),
        ("yes", None),
    ],
)
def test_strict_rating(reply: str, rating: int | None) -> None:
    assert rules.strict_rating(reply) == rating


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("Reasoning: he sits\nAnswer: B. sitting", "B"),
        ("**Answer:** B", "B"),
        ("B. sitting", "B"),
        ("Answer: None of the choices are correct", ""),
        ("Answer: B. running", None),
        ("Answer: D", None),
        ("I cannot say", None),
    ],
)
def test_strict_captioning(reply: str, letter: str | None) -> None:
    assert rules.strict_captioning(reply, CHOICE) == letter


@given(st.one_of(st.text(), st.text(alphabet="AaBbCcD.) (:12\nOptionyesnocorrectAnswer", max_size=40)))
def test_no_text_makes_a_reader_fail_and_strict_never_names_two_options(text: str) -> None:
    assert rules.multi_choice(text, "B. sitting") in (0, 1, None)
    assert rules.caption_matching(text, MATCH, "Option 2: A man sits.") in (0, 1, None)
    assert rules.yes_no(text) in ("yes", "no", None)
    assert rules.rating(text) in (0, 1, None)
    assert rules.captioning(text, "B. sitting").rating in (-1, 0, 1)
    assert rules.strict_yes_no(text) in ("yes", "no", None)
    assert rules.strict_rating(text) in (0, 1, None)
    assert rules.strict_captioning(text, CHOICE) in ("A", "B", "C", "", None)
    assert rules.strict_caption_matching(text, MATCH) in (*MATCH.split("\n")[1:], None)
    letter = rules.strict_choice(text, CHOICE)
    assert letter is None or len(letter) == 1


@given(st.sampled_from("ABC"), st.sampled_from(["{}", "{}.", "{})", "{}. {}", "{}) {}"]))
def test_what_the_published_rule_takes_from_a_well_formed_answer_strict_takes_too(letter: str, form: str) -> None:
    reply = form.format(letter, rules.options_of(CHOICE)[letter])
    assert rules.multi_choice(reply, "B. sitting") == int(letter == "B")
    assert rules.strict_choice(reply, CHOICE) == letter
