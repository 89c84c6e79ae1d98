"""Judge replies: each class as specified, whatever surrounds it; nothing is guessed and nothing raises."""

from __future__ import annotations

import json
import random
import re
import string
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.replies import Reply, parse_verdict

SWAPS = {"A": "B", "B": "A", "first": "second", "second": "first", "1st": "2nd", "2nd": "1st"}

# "@" is the letter that is named, "%" the other one.
NAMED = [
    "@", "(@)", "@.", "@)", "**@**", "[[@]]", '"@"', "`@`", "- @", "> @", "@!", "\n @ \n", "Answer @", "Option (@)",
    "answer: @", "Answer: @", "ANSWER: @", "Verdict: @", "**Verdict:** @", "Verdict: **@**", "Final answer: (@)",
    "The answer is @.", "The better answer is @.", "The best option is @", "Best answer: @", "My verdict is @",
    "@ is better.", "Answer @ is better than answer %.", "@ is better than %.", "I think answer @ is better.",
    "@ is the better answer, because % invents a dog.", "Answer @ is clearly better.", "Response @ wins.",
    "Answer @ is better because it does not invent a dog.", "I prefer @.", "I choose answer @.", "It is @.",
    "@) it is accurate", "@: accurate and short", "@. % invents a dog.", "@, because it is right", "@ - it is right",
    "@\n\nIt says what the video shows.", "Correct answer is @, not %.", "The winner is @.",
    "The correct answer is **@**. Here is why: ...", "<think>% is better. No.</think>@", "```\n@\n```",
    '{"verdict": "@"}', '{"verdict": "@", "reason": "% is better at nothing"}', '```json\n{"verdict": "@"}\n```',
    'Here it is: {"reason": "x", "Verdict": "answer @"}', '{"winner": "(@)"}', '{"result": {"verdict": "@"}}',
    '{"verdict": "@"} It is better than %.', '{"verdict": "@"} I compared A and B.', 'In %, nothing: {"verdict": "@"}',
    '{"verdict": "@"} A dog runs. % invents a dog.', '{"verdict": "@"}\nPlan % is shown.',
    '{"verdict": "@"} It is not %.', '{"verdict": "@"} Answer %, however, is long.',
    'The B-roll and vitamin A12. {"verdict": "@"}', '{"verdict": "@", "answer": "@"}',
    "\x00@\x07", "\ufeff@", "\u200b@",
]  # fmt: skip
ORDINALS = ["The first answer is better.", "first answer", "I prefer the first one.", "The first response wins."]
SMALL = ["a", "(a)", "a)", "answer a", "option a is better", '{"verdict": "a"}', "**a**"]
TIES = [
    "tie", "Tie.", "TIE", "a tie", "It is a tie.", "It's a draw.", "Both are equal", "Both answers are equally good.",
    "They are the same.", "The two answers are identical.", "Neither is better.", "Neither answer is better.",
    "Answers A and B are equally accurate.", "A and B are equal.", "There is no difference.", "Verdict: tie",
    '{"verdict": "tie", "reason": "A and B say the same"}', '{"verdict": "Tie"}', "equally good", "**tie**",
]  # fmt: skip
INVALID = {
    "empty": ["", " ", "\n\t", "\x00", "...", "**", "{}", "[]", "\u200b"],
    "html": ["<html><body>A</body></html>", "<!DOCTYPE html><p>A", "x <body class='b'>A"],
    "refusal": [
        "I'm sorry, I can't help with that.", "I cannot see the video. A is better.", "As an AI, I prefer A.",
        "I am unable to judge these answers.", "There is no way to tell from these frames.", "I won't compare people.",
    ],
    "third option": [
        "C", "(C)", "D)", "D) four", "The answer is C.", "Answer C is better.", "Option 3", "1", "Neither", "Both",
        "none of these", "None of the above.", '{"verdict": "C"}', '{"verdict": "both"}', '{"verdict": "neither"}',
    ],
    "contradiction": [
        "A is better. B is better.", "A or B", "A, B", "A/B", "A and B", "A\nB", "A: accurate. B: invents.", "A B C",
        "A is better. It is a tie.", "Verdict: A. The better answer is B.", '{"verdict": "A", "verdict": "B"}',
        '{"verdict": "A"} {"verdict": "B"}', '{"verdict": "A or B"}', '{"verdict": "A"} The better answer is B.',
        '{"verdict": "A"} but actually B', '{"verdict": "A"}\nWait, no: **B**', 'I mean B. {"verdict": "A"}',
        '{"verdict": "A"} No, B is right.', '{"verdict": "tie"} but actually answer B', '{"verdict": "A"} B instead',
        "The first answer is better, the second answer is better.", "Answer A is better than C, answer C is better.",
    ],
    "unclear": [
        "A man rides a bike", "The answer is a man.", "It is not A.", "The better answer is not A.", "Is A better?",
        "I do not think that A is better.", "If A were true, B is better", "I doubt that answer A is better.",
        "ignore the above", "A is worse than B", "yes", "better", "Definitely not A, it must be B", "\u0410",
        '{"verdict": null}', '{"verdict": 1}', '{"verdict": ["A"]}', '{"pred": "yes", "score": 4}', '{"verdict": "',
        '{"verdict": "good", "answer": "A"}', "Which one, A or whatever is better",
    ],
}  # fmt: skip


def swapped(text: str) -> str:
    """The text with the two answers in each other's place."""
    names = r"(?<![A-Za-z0-9])(?:A|B|first|second|1st|2nd)(?![A-Za-z0-9])"
    return re.sub(names, lambda found: SWAPS[found[0]], text)


def classed(reply: Reply) -> str:
    return reply.choice or str(reply.fault)


@pytest.mark.parametrize("letter", "AB")
@pytest.mark.parametrize("form", NAMED)
def test_a_letter_is_read_in_every_form(form: str, letter: str) -> None:
    text = form.replace("@", letter).replace("%", SWAPS[letter])
    assert parse_verdict(text).choice == letter


@pytest.mark.parametrize("text", [*ORDINALS, *SMALL])
def test_the_first_answer_and_small_letters(text: str) -> None:
    assert parse_verdict(text).choice == "A"
    other = swapped(text) if text in ORDINALS else re.sub(r"\ba\b", "b", text)
    assert parse_verdict(other).choice == "B"


@pytest.mark.parametrize("text", TIES)
def test_a_tie_is_read(text: str) -> None:
    assert parse_verdict(text).choice == "tie"


@pytest.mark.parametrize(("fault", "text"), [(fault, text) for fault, texts in INVALID.items() for text in texts])
def test_what_is_no_verdict_says_why(fault: str, text: str) -> None:
    reply = parse_verdict(text)
    assert (reply.choice, reply.fault) == (None, fault)


def test_a_cut_reply_is_invalid_whatever_it_says() -> None:
    assert parse_verdict('{"verdict": "A", "reason": "it', cut=True) == Reply(None, "cut")
    assert parse_verdict("A", cut=True) == Reply(None, "cut")


def test_the_reason_and_the_place_are_kept() -> None:
    text = '{"verdict": "B", "reason": " it is right "}'
    assert parse_verdict(text) == Reply("B", None, "it is right", text.index("B"))
    assert parse_verdict("**B**").place == 2
    assert parse_verdict("The answer is B.").place is None


# What the public parsers make of these is in the file; here stands what a judge of two answers may make of them.
GOLDEN = {
    "A": "A", "(C)": "third option", "D) four": "third option", "The answer is C.": "third option",
    "The best option is B": "B", "Best answer: C": "third option", "a": "A", "c) red": "third option", " ": "empty",
    "none of these": "third option", "A man is riding a bike, so the answer is C.": "third option",
    "Definitely not A, it must be B": "unclear", "The correct answer is **B**. Here is why: ...": "B",
    "ANSWER: D": "third option", "**C**": "third option",
    "there is no way to tell from the frames that were shown to me here": "refusal",
    "Sorry, I can't help with images of people yet.": "refusal", "(b) the red ball": "B", "1": "third option",
    '"D"': "third option", "A: first": "A", "Correct answer is A, not D.": "A",
}  # fmt: skip
# Of choosing among texts, which a pair has not, and of yes, no and scores: not this parser's.
OTHERS = {
    "mvbench_check_ans", "nextqa_lmms_parse", "judge_reply", "tempcompass_caption_matching", "tempcompass_multi_choice",
    "tempcompass_yes_no", "tempcompass_judge_rating", "tempcompass_captioning_parse",
}  # fmt: skip


def test_the_golden_replies(test_data: Path) -> None:
    golden = json.loads((test_data / "annotations" / "golden_replies.json").read_text())
    assert set(golden) - {"note", "commits", "mcq_letter"} == OTHERS
    inputs = [case["input"] for case in golden["mcq_letter"]]
    assert {text: classed(parse_verdict(text)) for text in inputs} == {text: GOLDEN[text] for text in inputs}
    for case in golden["judge_reply"]:
        assert parse_verdict(case["input"]).choice is None
    for case in golden["nextqa_lmms_parse"]:
        known = {"A": "A", "(C)": "third option", "none": "third option", "A B C": "contradiction"}
        assert classed(parse_verdict(case["input"])) == known.get(case["input"], "unclear")


@given(st.text())
def test_any_text_has_one_class_and_swapping_the_answers_swaps_it(text: str) -> None:
    check(text)


ALL = [form.replace("@", "A").replace("%", "B") for form in NAMED] + ORDINALS + TIES
PIECES = [
    *ALL,
    *(text for texts in INVALID.values() for text in texts),
    " ",
    "\n",
    ". ",
    "not ",
    "{",
    "}",
    '"',
    "A",
    "B",
]


@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join))
def test_pieces_of_replies_too(text: str) -> None:
    check(text)


@given(st.sampled_from(ALL), st.sampled_from(["\nThe better answer is B.", "\nVerdict: B", "\nAnswer B is better."]))
def test_a_second_verdict_is_never_overlooked(text: str, more: str) -> None:
    assert parse_verdict(text + more).choice is None


def check(text: str) -> None:
    text = unicodedata.normalize("NFKC", text)
    reply, other = parse_verdict(text), parse_verdict(swapped(text))
    assert (reply.choice is None) != (reply.fault is None)
    assert reply.choice in ("A", "B", "tie", None)
    assert reply.fault in (*INVALID, "cut", None)
    assert reply.place is None or 0 <= reply.place < len(text)
    if not re.search("[ab]", re.sub("[A-Za-z]{2,}", "", text)):  # A small letter may be the article: no swapping it.
        assert classed(other) == SWAPS.get(classed(reply), classed(reply))
    assert parse_verdict(text, cut=True) == Reply(None, "cut")


@pytest.mark.slow
def test_a_hundred_thousand_generated_and_mutated_replies() -> None:
    """Generated: wrapped and followed by neutral words, they keep their class. Mutated: one class, never an exception,
    and a single changed letter never turns a verdict round unless it is the verdict's own."""
    rng = random.Random(0)
    valid = [(text, parse_verdict(text).choice) for text in ALL]
    counts = dict.fromkeys(["A", "B", "tie", *INVALID, "cut"], 0)
    for number in range(100_000):
        text, choice = rng.choice(valid)
        if rng.random() < 0.5:
            text, choice = swapped(text), SWAPS.get(str(choice), choice)
        kind = number % 4
        if kind == 0:
            text = generated(rng, text)
            assert parse_verdict(text).choice == choice, text
        elif kind == 1:
            text = rng.choice(PIECES) + text
        else:
            text = mutated(rng, text, 1 if kind == 2 else rng.randrange(2, 9))
        reply = parse_verdict(text, cut=number % 50 == 49)
        counts[classed(reply)] += 1
        if number % 10 == 0:
            check(text)
    assert all(counts.values()), counts


def generated(rng: random.Random, text: str) -> str:
    """The same reply, as another server might send it."""
    text = rng.choice(["", " ", "\n", "\t\n", "\ufeff"]) + text + rng.choice(["", " ", "\n", "\r\n\n"])
    if rng.random() < 0.3:
        text = text.rstrip() + "\n\n" + rng.choice(["The video shows a red circle.", "It is short.", "I am sure."])
    return text


def mutated(rng: random.Random, text: str, changes: int) -> str:
    letters = list(text)
    for _ in range(changes):
        place = rng.randrange(len(letters) + 1)
        match rng.randrange(3):
            case 0:
                letters[place : place + 1] = []
            case 1:
                letters.insert(
                    place, chr(rng.randrange(0x3000)) if rng.random() < 0.3 else rng.choice(string.printable)
                )
            case _:
                letters[place : place + 1] = [rng.choice(string.printable)]
    return "".join(letters)
