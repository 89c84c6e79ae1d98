"""How TempCompass's scorers read an answer, and a judge's reply; and how to read them rightly.

Pure text. Source, by whose behaviour these functions are written: https://github.com/llyx97/TempCompass (eval_*.py,
utils/eval_utils.py); lmms-eval and VLMEvalKit have copies. A rating is 1 or 0; None where the rules find no answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LETTERS = ("A", "B", "C", "D")


def multi_choice(reply: str, answer: str) -> int | None:
    """The whole answer ("B. cooking"), a capital A to D alone, or one that begins the reply as "B." or "B)"."""
    if reply == answer:
        return 1
    if reply in _LETTERS or (reply[:1] in _LETTERS and reply[1:2] in (".", ")")):
        return int(reply[0] == answer[:1])
    return None


def yes_no(reply: str) -> str | None:
    """ "yes" or "no" where the reply begins with it in any case: so "Nothing" and "not sure" are a "no"."""
    return next((word for word in ("yes", "no") if reply.lower().startswith(word)), None)


def caption_matching(reply: str, question: str, answer: str) -> int | None:
    """An option's line, its sentence (also behind ") "), its label ("Option 2"), or what its label ends in ("2", "2.").

    The first line of the question is no option. Where several fit, later options and, of one option, later kinds count.

    Raises:
        IndexError: an option has no ": "; or the wrong one was taken, and the answer has none or a label of one word.
    """
    lines = question.split("\n")[1:]
    sentences = [line.split(": ")[1] for line in lines]
    labels = [line.split(": ")[0] for line in lines]
    short = [re.sub("Sentence |Option |Caption ", "", label) for label in labels]
    behind = reply.split(") ")[1] if ") " in reply else None
    without = reply.replace(".", "")
    fits = [line for line in lines if line == reply]
    fits += [sentence for sentence in sentences if sentence in (reply, behind)]
    fits += [label for label in (*labels, *short) if label in (reply, without)]
    if not fits:
        return None
    taken, parts = fits[-1], answer.split(": ")
    # One after the other: what the answer lacks stops the script only where it is looked at.
    if taken in (answer, answer.partition(":")[0]) or taken == parts[1]:
        return 1
    return int(taken == parts[0].split()[1])


def rating(reply: str) -> int | None:
    """A judge's "Correct" or "Incorrect": 1 where the reply begins with the first or holds it alone, 0 where it begins
    with the second or holds it; None for neither, where TempCompass asks again and VLMEvalKit takes 0.
    """
    if reply.startswith("Correct"):
        return 1
    if "Incorrect" in reply:
        return 0
    return 1 if "Correct" in reply else None


@dataclass(frozen=True, slots=True)
class Choice:
    """What is read out of a judge's reply to the multiple choice that it answers by a caption.

    Attributes:
        rating: 1 or 0; -1 where the judge gave nothing, and that is summed as it stands.
        answer: what it chose, as it wrote it.
        reasoning: why, where it says so.
    """

    rating: int
    answer: str | None
    reasoning: str | None


def captioning(reply: str, answer: str) -> Choice:
    """The last line with "Answer" in it (else the whole reply) is right where what stands before its first ". " is the
    letter of the true answer and one "A.", "B.", "C." or "D." occurs in it: so "Answer: B" alone is wrong.
    """
    if not reply or reply == "invalid_request_error":
        return Choice(-1, None, None)
    chosen, reasoning = reply, None
    for line in map(str.strip, reply.split("\n")):
        if "Reasoning" in line:
            reasoning = line.replace("Reasoning:", "").strip()
        if "Answer" in line:
            chosen = line.replace("Answer:", "").strip()
    named = sum(chosen.count(f"{letter}.") for letter in _LETTERS)
    same = chosen.partition(". ")[0] == answer.partition(". ")[0]
    return Choice(int(same and named == 1), chosen, reasoning)


def options_of(question: str) -> dict[str, str]:
    """The options of a multiple choice by letter, from the lines "A. ..." of its question."""
    lines = question.split("\n")
    return {line[0]: line[3:].strip() for line in lines if line[1:3] == ". " and "A" <= line[0] <= "Z"}


_LETTER = re.compile(
    r"(?:(?:answer|option)\s*:?\s*)?\(?(?P<letter>[A-Z])\)?(?:[.):](?:\s+(?P<text>.+))?)?", re.I | re.S
)


def strict_choice(reply: str, question: str) -> str | None:
    """The letter that a reply names as its whole: "B", "(b)", "B. the option's text", or that text alone.

    A letter that is no option stands as it is. None where the reply says more, or its text is another option's.
    """
    options, clean = options_of(question), _bare(reply)
    if texts := [letter for letter, text in options.items() if _bare(text) == clean]:
        return texts[0] if len(texts) == 1 else None
    named = _LETTER.fullmatch(reply.strip())
    if named is None:
        return None
    letter = named["letter"].upper()
    fits = named["text"] is None or _bare(named["text"]) == _bare(options.get(letter, ""))
    return letter if fits else None


def strict_yes_no(reply: str) -> str | None:
    """ "yes" or "no" where the reply begins with that word and does not hold the other."""
    words = re.findall(r"\w+", reply.casefold())
    first, said = words[:1], {"yes", "no"} & set(words)
    return first[0] if len(said) == 1 and first == [*said] else None


def strict_caption_matching(reply: str, question: str) -> str | None:
    """The line of the one option that a reply names as its whole: by its line, its sentence, or its label."""
    clean = _bare(reply)
    lines = [line for line in question.split("\n")[1:] if line.partition(": ")[0].strip() and ": " in line]
    fits = [line for line in lines if clean in _names(line)]
    return fits[0] if len(fits) == 1 else None


def _names(line: str) -> set[str]:
    label, _, sentence = line.partition(": ")
    short = label.split()[-1]
    marked = [f"{name}{mark}" for name in (label, short) for mark in ("", ")", ":")]
    with_sentence = [f"{name}{mark} {sentence}" for name in (label, short) for mark in (".", ")", ":")]
    return {_bare(name) for name in (*marked, *with_sentence, f"({short})", sentence)}


def strict_rating(reply: str) -> int | None:
    """A judge's "correct" or "incorrect", in any case; None for both, neither, or a denial ("not correct")."""
    words = set(re.findall(r"[\w']+", reply.casefold()))
    said = words & {"correct", "incorrect"}
    denied = words & {"not", "isn't", "cannot", "can't", "neither", "nor", "never", "hardly"}
    return int("correct" in said) if len(said) == 1 and not denied else None


_ANSWER = re.compile(r"^\W*answer\W*?:\W*?(?P<answer>[^\n]*\S)", re.I | re.M)
_NONE = re.compile(r"none of the (?:choices|options|above)", re.I)


def strict_captioning(reply: str, question: str) -> str | None:
    """The letter of the option that a judge chose; "" where it says that none is right; None for no verdict."""
    stated = [found["answer"] for found in _ANSWER.finditer(reply)] or [reply]
    if _NONE.search(stated[-1]):
        return ""
    letter = strict_choice(stated[-1].strip("*` "), question)
    return letter if letter in options_of(question) else None


def _bare(text: str) -> str:
    return text.strip().rstrip(".").strip().casefold()
