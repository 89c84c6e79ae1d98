"""How the published scorers read replies: the recorded results of the public functions, and what follows from them."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import choices

# Options for which the recorded results of VLMEvalKit hold; for lmms-eval, the first question of NExT-QA's validation.
COLOURS = {"A": "blue", "B": "ball", "C": "red", "D": "four"}
INSTRUMENT = dict(
    zip(
        "ABCDE",
        ["roll the handle", "tap their feet", "strum the string", "hit with sticks", "pat with hand"],
        strict=True,
    )
)


@pytest.fixture(scope="module")
def golden(test_data: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((test_data / "annotations" / "golden_replies.json").read_text())
    return found


def test_letters_are_read_as_the_public_functions_read_them(golden: dict[str, Any]) -> None:
    assert len(golden["mcq_letter"]) > 20
    for case in golden["mcq_letter"]:
        reply = case["input"]
        assert choices.videomme_official(reply) == case["videomme_official"], reply
        assert choices.videomme_vlmevalkit(reply) == case["vlmevalkit_videomme"], reply
        assert choices.lmms_eval(reply) == case["lmms_extract_mcq_answer_ABCD"], reply
        assert (choices.can_infer(reply, COLOURS) or False) == case["vlmevalkit_can_infer"], reply


def test_mvbench_is_checked_as_the_public_functions_check_it(golden: dict[str, Any]) -> None:
    assert len(golden["mvbench_check_ans"]) > 40
    for case in golden["mvbench_check_ans"]:
        reply, truth = case["pred"], case["gt"]
        assert choices.check_ans(reply, truth) == case["ask_anything"], case
        assert choices.check_ans_vlmevalkit(reply, truth) == case["vlmevalkit_check_ans"], case
        assert choices.mcq_acc(truth, reply) == case["lmms_mcq_acc"], case


def test_nextqa_is_read_as_lmms_eval_reads_it(golden: dict[str, Any]) -> None:
    assert golden["nextqa_lmms_parse"]
    for case in golden["nextqa_lmms_parse"]:
        assert choices.parse_multi_choice_response(case["input"], INSTRUMENT, Random(0)).letter == case["out"], case


@pytest.mark.parametrize(
    ("reply", "official", "vlmevalkit"),
    [
        ("Answer: B", "A", "B"),  # The capital of "Answer"; VLMEvalKit takes the prefix out.
        ("Best answer: C", "B", "B"),  # Two prefixes are glued: neither matches.
        ("The best option is C", "C", "C"),
        ("The best option isThe correct option isD", "D", "D"),
        ("The answer A", "A", "A"),
        ("Definitely not A, it must be B", "D", "D"),
        ("b", "", ""),
        ("one two three four five six seven eight nine ten eleven", "", ""),
        ("E", "", ""),
    ],
)
def test_video_mme_takes_the_first_capital(reply: str, official: str, vlmevalkit: str) -> None:
    assert choices.videomme_official(reply) == official
    assert choices.videomme_vlmevalkit(reply) == vlmevalkit


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("A. no, B. yes", "A"),  # The start counts most.
        ("It is (B), not C", "C"),  # The end counts more than brackets.
        ("x (A) y (B) z", "B"),  # Of one form, the last.
        ("The answer is A or D, I think so", "D"),  # The last letter after a phrase.
        ("So answer is B. Well, the answer is A then, you see", "A"),
        ("the BC thing here", "C"),  # "C " before a blank.
        ("xDx", "D"),
        ("none", ""),
        ("", ""),
    ],
)
def test_lmms_eval_ranks_forms(reply: str, letter: str) -> None:
    assert choices.lmms_eval(reply) == letter


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B is what I would say to this question", None),  # Not among the last four words.
        ("The answer is B in spite of all that was said before", "B"),
        ("the answer is a thing of which nobody can know", "A"),  # The pattern takes the article.
        ("Failed to obtain answer via API: D", None),
        ("Cannot determine the answer, but B", "Z"),
        ("Z", "Z"),
        ("the red one", "C"),
        ("the red ball", None),
        ("red " * 20, None),  # Longer than twice all options.
    ],
)
def test_vlmevalkit_infers(reply: str, letter: str | None) -> None:
    assert choices.can_infer(reply, COLOURS) == letter


def test_mvbench_takes_an_empty_reply_for_right() -> None:
    for reply in ("", "(", " (B)", ")", "a."):
        assert choices.check_ans(reply, "(A) Ate.")
    for reply in ("The answer is (A)", "Option A", "Ate.", "(A)Ate"[:2] + "B)"):
        assert not choices.check_ans(reply, "(A) Ate.")
    assert choices.check_ans("(A)Ate", "(A) Ate.")
    with pytest.raises(IndexError):
        choices.check_ans("A", "(A)")


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("B. red", True),
        ("b", True),
        ("the B one", True),
        ("A B", False),
        ("a ball, B", False),
        ("(b)", True),
        ("", False),
    ],
)
def test_lmms_eval_s_mvbench_takes_the_first_lone_letter(reply: str, right: bool) -> None:
    assert choices.mcq_acc("B", reply) is right


def test_a_reply_that_names_nothing_is_drawn_and_says_so() -> None:
    drawn = choices.parse_multi_choice_response("no idea", INSTRUMENT, Random("item"))
    assert drawn.guessed
    assert drawn == choices.parse_multi_choice_response("no idea", INSTRUMENT, Random("item"))
    letters = {choices.parse_multi_choice_response("", INSTRUMENT, Random(seed)).letter for seed in range(60)}
    assert letters == set("ABCDE")
    assert not choices.parse_multi_choice_response("B.", INSTRUMENT, Random(0)).guessed
    # Texts of options are looked for in more than five words only.
    assert choices.parse_multi_choice_response("tap their feet", INSTRUMENT, Random(0)).guessed
    said = choices.parse_multi_choice_response(
        "first they tap their feet, then strum the string", INSTRUMENT, Random(0)
    )
    assert said == choices.Picked("C")


@given(st.text(), st.lists(st.text(max_size=6), min_size=2, max_size=5))
def test_any_reply_is_read_without_an_error(reply: str, options: list[str]) -> None:
    texts = dict(zip("ABCDE", options, strict=False))
    assert choices.videomme_official(reply) in {*"ABCD", ""}
    assert choices.videomme_vlmevalkit(reply) in {*"ABCD", ""}
    assert choices.lmms_eval(reply) in {*"ABCD", ""}
    assert choices.can_infer(reply, texts) in {*texts, "Z", None}
    assert choices.parse_multi_choice_response(reply, texts, Random(0)).letter in texts
    assert choices.mcq_acc(reply, reply)


@given(st.sampled_from("ABCD"), st.sampled_from("ABCD"), st.sampled_from(["{}", "({})", "{}.", "The answer is {}."]))
def test_plain_letters_are_read_alike_by_all(said: str, right: str, form: str) -> None:
    reply = form.format(said)
    assert choices.videomme_official(reply) == choices.lmms_eval(reply) == choices.can_infer(reply, COLOURS) == said
    assert choices.parse_multi_choice_response(reply, INSTRUMENT, Random(0)) == choices.Picked(said)
    assert choices.mcq_acc(right, reply) is (said == right)
