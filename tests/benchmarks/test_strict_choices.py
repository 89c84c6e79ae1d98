"""The strict reading of replies: what a person would take for the answer, and nothing where one could not tell."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import strict_choices
from benchmarks.strict_choices import letter_of

OPTIONS = ("A garden.", "Baseball batting.", "Golf.", "A piano.")

READ = {
    "A": "A",
    "(C)": "C",
    "b": "B",
    "a": "A",
    "B.": "B",
    "**B**": "B",
    "'C'": "C",
    "（B）": "B",
    "(A": "A",
    "B)": "B",
    "Answer: B": "B",
    "answer: c": "C",
    "ANSWER: D": "D",
    "Answer: a": "A",
    "Answer B": "B",
    "Answer:\nB": "B",
    "The answer is (D).": "D",
    "Best answer: C": "C",
    "answer is option c": "C",
    "The correct answer is **B**. Here is why: ...": "B",
    "Correct answer is A, not D.": "A",
    "The correct option is B, not C or D": "B",
    "The answer is B because C is wrong": "B",
    "The answer is D, since A, B and C are wrong": "D",
    "Answer: A. Final answer: B": "B",
    "(B) because A is wrong": "B",
    "B because A is wrong": "B",
    "B\n\nA. is a garden, which is wrong": "B",
    "c) red": "C",
    "(b) the red ball": "B",
    "A: first": "A",
    "B. Baseball batting.": "B",
    "C. Golf. The answer is C.": "C",
    "Option B": "B",
    "Option C is correct.": "C",
    "C is the correct answer": "C",
    "A is wrong. B is wrong. C is the best answer.": "C",
    "I think it's (B).": "B",
    "I would go with D": "D",
    "I choose option B.": "B",
    "It's A.": "A",
    "A man is riding a bike, so the answer is C.": "C",
    "The man swings. So, B": "B",
    "Therefore: C.": "C",
    "Definitely not A, it must be B": "B",
    "not (A) but (C)": "C",
    "<think>maybe A</think>B": "B",
    "<answer>C</answer>": "C",
    r"So \boxed{\text{D}}": "D",
    "B</s>": "B",
    "Baseball batting": "B",
    "The answer is baseball batting.": "B",
    "E": "E",  # None of four options, but it is what was said.
    "The answer is E": "E",
    "B is right, and not A": "B",
    "The one that is not shown is B.": "B",
    "A. A garden. is wrong. The answer is B.": "B",
    "I can't see a ball, so the answer is B": "B",
    "B, no doubt.": "B",
    "The answer is B. No other option fits.": "B",
    "The answer is B. Actually, A is wrong.": "B",
    "The answer is C? Yes. The answer is C.": "C",
    "The answer is B? No, C.": "C",
}
UNREAD = [
    *("", " ", "1", "I", "none of these", "I am not sure", "Vitamin C", "B-roll footage", "<think>maybe A"),
    *("Both A and B", "A or B", "A, B", "A/B", "A B C", "Between A and C", "(A) and (C)", "The answer is A or B"),
    "The answer is A. No, the answer is B.",
    "The answer is not A",
    "It is not B.",
    "A man is walking",
    "The answer is A man on a bike",
    "It's a piano",
    "Answer: a dog",
    "A. A garden.\nB. Baseball batting.\nC. Golf.\nD. A piano.",
    "A. A garden. B. Baseball batting. C. Golf.",
    "A. Baseball batting.",  # The letter of one option, the text of another.
    "The answer is A. Baseball batting",
    "Sorry, I can't help with images of people yet.",
    *(
        "B is wrong",
        "(B) is incorrect",
        "B is the least likely",
        "B isn't it",
        "B can't be right",
        "Option B is not it.",
    ),
    *("I don't think it is B", "I can't say that the answer is B", "I doubt it is C", "It is unlikely that it is B."),
    *("Is it B? I do not know.", "The answer is B. Actually C.", "B. Wait, (C)."),
    *("Option A is wrong; B", "A. A garden is wrong", "A. A garden. is not what we see"),
]


@pytest.mark.parametrize(("reply", "letter"), READ.items())
def test_a_reply_that_gives_one_answer_is_read(reply: str, letter: str) -> None:
    assert letter_of(reply, OPTIONS) == letter


@pytest.mark.parametrize("reply", UNREAD)
def test_a_reply_that_gives_no_answer_or_several_is_not_read(reply: str) -> None:
    assert letter_of(reply, OPTIONS) is None


def test_of_two_options_with_one_text_the_text_alone_names_none() -> None:
    assert letter_of("Red.", ("red", "blue", "Red")) is None
    assert letter_of("Blue.", ("red", "blue", "Red")) == "B"
    assert letter_of("(C) Red.", ("red", "blue", "Red")) == "C"


FORMS = [
    "{}",
    "({})",
    "{}.",
    "**{}**",
    "Answer: {}",
    "The answer is {}.",
    "the correct option is ({})",
    "{}) because so",
]


@given(st.sampled_from("ABCD"), st.sampled_from(FORMS), st.sampled_from(["", " ", "\n", "</s>"]))
def test_every_letter_is_read_in_every_form(letter: str, form: str, end: str) -> None:
    assert letter_of(form.format(letter) + end, OPTIONS) == letter


@given(st.sampled_from("ABCD"), st.sampled_from("ABCD"), st.sampled_from([" or ", " and ", "/", ", "]))
def test_two_letters_are_no_answer(one: str, other: str, between: str) -> None:
    said = letter_of(f"The answer is {one}{between}{other}", OPTIONS)
    assert said == (one if one == other else None)


@given(st.text(), st.lists(st.text(max_size=8), min_size=2, max_size=12))
def test_any_reply_is_read_without_an_error(reply: str, options: list[str]) -> None:
    assert letter_of(reply, options) in {*"ABCDEFGHIJKL", None}


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz ", min_size=2))
def test_words_in_small_letters_never_name_a_letter_that_is_not_theirs(reply: str) -> None:
    said = letter_of(f"x {reply} x", OPTIONS)
    assert said is None or f" {said.lower()} " in f" {reply} "


AGAINST = (
    "not", "isn't", "don’t think", "won't say", "other than", "instead of", "except", "neither", "nor", "without",
    "eliminates", "rules out", "exclude", "excludes", "doubt", "unsure", "uncertain", "unclear", "unlikely",
    "nobody says", "hardly", "cannot say", "actually", "no", "wait", "correction", "sorry", "rather", "I mean",
    "on second thought",
)  # fmt: skip
WRONG = (
    "?", "is wrong", "is incorrect", "is false", "is unlikely", "is impossible", "is the least", "is the worst",
    "is excluded", "is eliminated", "is out", "is not", "isn't", "cannot", "can’t", "does not", "doesn't",
    "would be wrong",
)  # fmt: skip
SPOKEN_AGAINST = [
    *(
        form.format(word)
        for word in AGAINST
        for form in ("{} B", "The answer is {} B.", "Answer: C. {}, A.", "I {} (B)")
    ),
    *(form.format(word) for word in WRONG for form in ("B {}", "Option B {}.", "The answer is B {}", "(B) Golf. {}")),
]


@pytest.mark.parametrize("reply", SPOKEN_AGAINST)
def test_the_quick_look_for_words_against_a_letter_changes_no_reading(
    reply: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickly = strict_choices._read.__wrapped__(reply, OPTIONS)
    monkeypatch.setattr(strict_choices, "_AGAINST", re.compile(""))
    assert strict_choices._read.__wrapped__(reply, OPTIONS) == quickly


@pytest.mark.parametrize(("option", "said"), [("İstanbul", "İstanbul"), ("5 µm", "5 μm"), ("A straße", "a Straße")])
def test_an_option_that_is_called_wrong_is_known_in_any_script_and_case(option: str, said: str) -> None:
    assert letter_of(f"The answer is B. {said} is wrong.", ("one", option, "two", "three")) is None
