"""Letters out of replies as the published scorers of multiple choice read them, their faults included.

Restated from what the public functions do, one function each; `benchmarks.strict_choices` is ours, for right numbers.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

LETTERS = string.ascii_uppercase

# Two pairs are glued, as a missing comma leaves them in the scripts: so four prefixes are never taken away.
_GLUED = ("The best option isThe correct option is", "Best answer:Best option:")
_OFFICIAL = ("The best answer is", "The correct answer is", "The answer is", "The answer", *_GLUED)
_VLMEVALKIT = (*_OFFICIAL, "Answer:", "Option:")

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_STATED = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)

_PHRASES = (
    *("the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is"),
    *("best answer is", "the correct option is", "correct option is", "the best option is", "best option is"),
    *("the choice is", "choice is", "the correct choice is", "correct choice is", "i choose", "i select", "i pick"),
    *("my answer is", "my choice is", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)

_DOTTED = re.compile(r"^([A-E])\.\s*(.+)$", re.IGNORECASE)
_LONE = re.compile(r"\b([A-E])\b", re.IGNORECASE)
_PUNCTUATION = (*';/[]"{}()=+\\_-><@`,?!',)


def videomme_official(reply: str) -> str:
    """Video-MME's own script (BradyFU/Video-MME@4e7566d, eval_your_results.py): the first capital A to D anywhere,
    known prefixes taken out; "" where there is none. So "Answer: B" is A.
    """
    return _first_capital(reply, _OFFICIAL)


def videomme_vlmevalkit(reply: str) -> str:
    """VLMEvalKit's for Video-MME (dataset/utils/videomme.py): the official one, that knows two more prefixes."""
    return _first_capital(reply, _VLMEVALKIT)


def _first_capital(reply: str, prefixes: Sequence[str]) -> str:
    # The scripts return "" for long replies without a capital A to D: as they do for short ones.
    reply = reply.strip()
    for prefix in prefixes:
        reply = reply.replace(prefix, "")
    found = re.search("[ABCD]", reply)
    return found[0] if found else ""


def lmms_eval(reply: str, letters: str = "ABCD") -> str:
    """lmms-eval's extract_mcq_answer (75571cfe, _task_utils/mcq_extract.py): the letter in the likeliest form; within
    one form the last. "" where no letter occurs.
    """
    text = reply.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    text = f" {text} "
    core, lower = text.strip(), text.lower()
    found: list[tuple[int, int, str]] = []  # How likely the form is, place, letter.
    for letter in letters:
        if core.startswith(letter) and not core[1:2].isalpha():
            found.append((10, 0, letter))
        if core.endswith(letter) and not core[-2:-1].isalpha():
            found.append((9, len(text) - 1, letter))
        for rank, form in (
            (6, f"({letter})"),
            (5, f"{letter}."),
            (4, f"{letter}:"),
            (3, f"{letter})"),
            (2, f"{letter} "),
        ):
            found.append((rank, text.rfind(form), letter))
    for phrase in _PHRASES:
        if phrase in lower:
            after = lower.index(phrase) + len(phrase)
            found.extend((7, text.find(letter, after), letter) for letter in letters)
    found = [each for each in found if each[1] >= 0] or [(0, text.rfind(letter), letter) for letter in letters]
    rank, place, letter = max(found, key=lambda each: each[:2])
    return letter if place >= 0 else ""


def can_infer(reply: str, options: Mapping[str, str]) -> str | None:
    """VLMEvalKit's can_infer (e8e78f05, utils/matching_util.py): the one letter that stands among the last four words,
    or follows "answer is"; else the one option whose text occurs. "Z" for a refusal, None where it cannot tell.

    Args:
        reply: what the model said.
        options: their texts by letter.
    """
    return _infer_letter(reply, options) or _infer_text(reply, options)


def _infer_letter(reply: str, options: Mapping[str, str]) -> str | None:
    if "Failed to obtain answer via API" in reply:
        return None
    if any(refusal in reply for refusal in _REFUSALS):
        return "Z"
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", reply).split()
    there = [letter for letter in options if letter in words]
    if len(there) == 1 and words.index(there[0]) > len(words) - 5:
        return there[0]
    if not there and "Z" in words:
        return "Z"
    stated = _STATED.search(reply)
    return stated[1].upper() if stated and stated[1].upper() in options else None


def _infer_text(reply: str, options: Mapping[str, str]) -> str | None:
    reply = reply.lower()
    if len(reply) > 2 * sum(map(len, options.values())):
        return None
    there = [letter for letter, text in options.items() if text.lower() in reply]
    return there[0] if len(there) == 1 else None


def check_ans(reply: str, truth: str) -> bool:
    """MVBench's own check (OpenGVLab/Ask-Anything, video_chat2/mvbench.ipynb): whether the first word of the reply is
    a part of "(a)" or has it as a part. So an empty reply, or one that begins with a blank, is right for every truth.

    Args:
        reply: as the notebook keeps it, with the "(" that it puts in front.
        truth: "(A) text of the right option".

    Raises:
        IndexError: the right option has no text; the notebook stops there too.
    """
    first = reply.lower().split(" ")[0]
    letter, _, text = truth.lower().partition(" ")
    if not text:
        raise IndexError(f"MVBench's check needs a text behind the letter of the right option, not {truth!r}.")
    return first.replace(".", "") in letter or letter in first


def check_ans_vlmevalkit(reply: str, truth: str) -> bool:
    """VLMEvalKit's copy of `check_ans` (dataset/utils/mvbench.py): blanks at the ends do not count."""
    return check_ans(reply.strip(), truth.strip())


def mcq_acc(truth: str, reply: str) -> bool:
    """lmms-eval's for MVBench (tasks/mvbench/utils.py): equal after both were brought to a letter A to E that stands
    alone (an article "a" is one), or to plain lower-case text.
    """
    return _plain(reply) == _plain(truth)


def _plain(text: str) -> str:
    dotted = _DOTTED.match(text.strip())
    if dotted:
        return dotted[1].upper()
    text = _without_punctuation(re.sub("[\n\t]", " ", text).strip())
    for mark in "'\")(":
        text = text.strip(mark)
    text = text.strip().lower()
    lone = _LONE.search(text)
    return lone[1].upper() if lone else text


def _without_punctuation(text: str) -> str:
    """Without its marks: each is taken out where any of its kind touches a blank or a number has a comma, else it
    becomes a blank.
    """
    plain, number = text, re.search(r"\d,\d", text)
    for mark in _PUNCTUATION:
        plain = plain.replace(mark, "" if number or f"{mark} " in text or f" {mark}" in text else " ")
    # The public function gives re.UNICODE, which is 32, where the number of replacements belongs.
    return re.sub(r"\.(?!\d)", "", plain, count=int(re.UNICODE))


@dataclass(frozen=True, slots=True)
class Picked:
    """The letter that lmms-eval takes for a reply; `guessed` where it drew it, as the reply names none."""

    letter: str
    guessed: bool = False


def parse_multi_choice_response(reply: str, options: Mapping[str, str], random: Random) -> Picked:
    """lmms-eval's for NExT-QA (tasks/nextqa/utils.py, from MMMU): "(A)", else "A ", else "A.", else, in more than five
    words, the text of an option; of several the one that comes last; of none **a random one**.

    Args:
        reply: what the model said.
        options: their texts by letter.
        random: draws where the reply names none.
    """
    for mark in ",.!?;:'":
        reply = reply.strip(mark)
    reply = f" {reply} "
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        there = [letter for letter in options if form.format(letter) in reply]
        if there:
            # Of equal places, such as none at all, the first letter is taken.
            return Picked(max(there, key=lambda letter: reply.rfind(place.format(letter))))
    there = [letter for letter, text in options.items() if text.lower() in reply.lower()]
    if there and len(reply.split()) > 5:
        return Picked(max(there, key=lambda letter: reply.lower().rfind(options[letter].lower())))
    return Picked(random.choice(list(options)), guessed=True)
