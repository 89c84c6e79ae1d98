"""Reads which of two answers a judge's reply prefers. Pure text; nothing is guessed.

A reply is one of A, B, tie, or invalid with a fault that says why.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Choice = Literal["A", "B", "tie"]
Fault = Literal["empty", "cut", "refusal", "html", "third option", "contradiction", "unclear"]

_THIRD: Literal["third option"] = "third option"
_Named = Choice | Literal["third option"]
_CHOICES: dict[str, Choice] = {"a": "A", "b": "B", "first": "A", "second": "B", "1st": "A", "2nd": "B"}


@dataclass(frozen=True)
class Reply:
    """What a judge's reply says.

    Attributes:
        choice: "A", "B" or "tie"; None for an invalid reply.
        fault: why the reply is invalid; None for a valid one.
        reason: the judge's own reason, where the reply is an object that gives one.
        place: where the choice stands in the text as it came, when it is the value of an object or the beginning of the
            text, so that its token can be found; else None.
    """

    choice: Choice | None
    fault: Fault | None = None
    reason: str | None = None
    place: int | None = None


def parse_verdict(text: str, *, cut: bool = False) -> Reply:
    r"""The verdict of a reply to "which answer is better, A or B?".

    `cut` says that the length limit ended the reply: that is invalid whatever it begins with.

    Before all: Unicode is normalised (NFKC), control characters go, `<think>...</think>` goes.

    - empty: nothing is left. html: an HTML page.
    - An object (JSON, also in a code fence or in running text) with a key "verdict" (or answer, better, choice, winner,
      preferred, preference) decides by the value of that key, read as below; its "reason" is kept and not interpreted.
      A key that stands twice with two values is a contradiction. So is, outside the object, the other letter as a
      capital at the end of a clause ("... but actually B"), unless it is only compared with or denied ("than B", "not
      B", "A and B"). Before another word it may be the article, or begin what is said of an answer.
    - A text names a choice by
        being it, or having a line that is it: "A", "(b)", "**A**", "[[A]]", "Answer A", "the second answer", "tie";
        beginning a line or a sentence with it as a label: "A) ...", "B: ...", "A.", "A, because ...";
        stating it: "the better answer is B", "verdict: A", "A is better", "B wins", "I prefer answer A",
        "the first answer is better", "it is a tie", "both are equal", "neither is better".
      A single small letter counts only where it is the whole line, in brackets or after "answer" or its synonyms:
      elsewhere it may be the article. A statement counts only when nothing before it in its sentence denies or
      conditions it ("not", "if", "whether", ...) and its sentence is no question.
    - third option: it names another letter or a number, or says only "both" or "neither".
    - contradiction: it names two different choices, whatever the words between; "A or B" is one.
    - refusal: it says that the judge cannot or will not judge, or that it cannot see, whatever else it says.
    - unclear: none of these.

    Swapping the letters (and "first" with "second") in a text swaps its class.
    """
    clean = _cleaned(text)
    objects = list(_objects(clean))
    outside = clean
    for _, (start, end) in objects:
        outside = outside[:start] + " " * (end - start) + outside[end:]
    if fault := "cut" if cut else _unusable(clean, outside):
        return Reply(None, fault)
    named = {choice for found, _ in objects for choice in found.named}
    if outside.strip(_MARKS):
        named |= _named(outside) | (_bare(outside) if named else set())
    if len(named) > 1:
        return Reply(None, "contradiction")
    if not named or any(found.unread for found, _ in objects):
        return Reply(None, "unclear")
    (choice,) = named
    if choice == _THIRD:
        return Reply(None, "third option")
    reason = next((found.reason for found, _ in objects if found.reason), None)
    return Reply(choice, None, reason, _place(text, bool(objects)))


def _unusable(clean: str, outside: str) -> Fault | None:
    """Why a reply can name nothing, whatever it says; `outside` is its text without objects."""
    if not clean.strip(_MARKS):
        return "empty"
    if _HTML.search(clean):
        return "html"
    return "refusal" if _REFUSAL.search(outside) else None


_MARKS = " \t\r\n*_`\"'“”‘’«»()[]{}<>.,:;!#|~=>-–—"
_HTML = re.compile(r"<!doctype html|<html[\s>]|<body[\s>]|<head[\s>]", re.I)
_FENCE = re.compile(r"```\w*")
_UNSEEN = ("Cc", "Cf", "Cs")
_THINKING = re.compile(r"<think>.*?</think>", re.I | re.S)
_REFUSAL = re.compile(
    r"\b(?:can(?:no|')t|can not|could(?: not|n't)|unable to|not able to|won't|will not|refuse to|decline to|"
    r"impossible to)(?: \w+){0,2}? (?:help|assist|see|view|watch|access|judge|decide|determine|compare|comply|answer|"
    r"tell|choose|provide|evaluate|assess|say|give|process|identify|continue)\b"
    r"|\bas an ai\b|\b(?:there is )?no way to (?:tell|know|say|judge)\b|\bi(?: a|')m sorry,? (?:but )?i\b",
    re.I,
)


def _cleaned(text: str) -> str:
    if text.isascii() and text.isprintable():
        return _THINKING.sub(" ", text)  # Nothing of the rest can change it.
    plain = unicodedata.normalize("NFKC", text).replace("’", "'")
    plain = "".join(c if c in "\n\t" or unicodedata.category(c) not in _UNSEEN else " " for c in plain)
    plain = plain.replace("\ufffd", " ")  # What stands for half a character, or for a control character.
    return _THINKING.sub(" ", plain)


@dataclass(frozen=True)
class _Object:
    """What an object in a reply says: the choices its verdict names, and whether that value could not be read."""

    named: frozenset[_Named]
    unread: bool
    reason: str | None


_KEYS = ("verdict", "answer", "better", "choice", "winner", "preferred", "preference")


def _objects(text: str) -> Iterator[tuple[_Object, tuple[int, int]]]:
    """The JSON objects in a text that hold a verdict, and where they stand."""
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs)
    at = text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        if found := _object(value):
            yield found, (at, end)
        at = text.find("{", end if found else at + 1)


class _Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object, those with equal keys too."""


def _object(pairs: _Pairs) -> _Object | None:
    values = [value for key, value in pairs if key.strip().casefold() in _KEYS]
    if not values:
        return None
    named = [_value(value) for value in values]
    reasons = [value for key, value in pairs if key.strip().casefold() in ("reason", "explanation", "rationale")]
    reason = next((value.strip() for value in reasons if isinstance(value, str) and value.strip()), None)
    return _Object(frozenset().union(*named), not all(named), reason)


def _value(value: Any) -> frozenset[_Named]:
    return frozenset(_named(value)) if isinstance(value, str) and not _REFUSAL.search(value) else frozenset()


# What answers are called. A letter in "letter" is any: others than A and B are a third option.
_NOUN = r"(?:answer|option|choice|response|candidate|reply)"
_WRAP = r"[*_`\"'“”‘’(\[]{0,4}"
_UNWRAP = r"[*_`\"'“”‘’)\]]{0,4}"
_ORDINAL = rf"(?:the )?(?P<ordinal>first|second|1st|2nd)(?: one| {_NOUN})"
_LETTER = r"(?<![A-Za-z0-9])(?P<letter>[A-Z]|\d)"
# With a noun before it, or in brackets, a small letter is no article.
_REFERENCE = (
    rf"(?:(?:the )?(?i:{_NOUN}) {_WRAP}(?P<noun>[A-Za-z]|\d)|{_WRAP}{_LETTER}|\((?P<bracket>[a-z])\)|(?i:{_ORDINAL}))"
    rf"{_UNWRAP}(?![\w'’])"
)
_WHOLE = re.compile(
    rf"(?:(?i:{_NOUN}) ?[:#]?\s*{_WRAP}(?<![A-Za-z])(?P<noun>[A-Za-z]|\d)|(?P<letter>[A-Za-z]|\d)|(?i:{_ORDINAL}))"
)
_LABEL = re.compile(
    rf"(?:^|(?<=[.!?;\n]))[\s#>*_`\"'“‘(\[-]{{0,12}}(?:(?i:{_NOUN}) )?"
    rf"(?:(?P<letter>[A-Z])|(?P<bracket>(?<=[(\[])[a-z]|[a-z](?=\))))"
    rf"(?:{_UNWRAP}(?:[):.|]|,(?=\s+(?:because|since|as)\b)|\s?[-–—](?=\s)|[ \t]{{0,9}}$)|[)\]\"'”*]{{1,4}}(?=\s|$))",
    re.M,
)
# After a stated letter: the end, a mark, or a word that begins the reason.
_STOP = r"(?=\s*(?:[.,;:!)\]\"'”’*_`\n–—-]|$|(?:because|since|as|for|due|by|over|than|overall)\b))"
_STATED = [
    re.compile(
        rf"\b(?i:verdict|winner|decision|preference|better|best|better one|{_NOUN}){_UNWRAP}\s?"
        rf"(?:(?i:is|must be)|[:=-]|(?i:is):){_UNWRAP}\s{{0,9}}{_REFERENCE}{_STOP}"
    ),
    re.compile(
        rf"(?<![\w'’]){_REFERENCE} (?i:is|wins|seems|looks|remains)\b(?: (?i:clearly|slightly|much|overall|far)){{0,3}}"
        rf"(?:(?<=wins)| (?:the )?(?i:better|best|preferable|preferred|superior|winner))(?![\w'’])"
    ),
    re.compile(rf"\b(?i:prefer|choose|pick|select|vote for|go with|it (?:is|must be)|it's) {_REFERENCE}{_STOP}"),
]
_TIE_WHOLE = re.compile(
    r"(?:(?:it is |it's |this is )?(?:a )?(?:tie|draw)|tied|equal|same|the same|equally good|both equal|no difference)",
    re.I,
)
_ANSWERS = r"(?:(?:answer|option|choice|response|candidate)s|replies)"
_SUBJECT = (
    rf"(?:they|both(?: of them| {_ANSWERS})?|(?:the )?(?:two )?{_ANSWERS}|the two|(?:{_ANSWERS} )?(?:A and B|B and A)|"
    rf"{_NOUN} (?:A and (?:{_NOUN} )?B|B and (?:{_NOUN} )?A))"
)
_TIES = re.compile(
    rf"\b(?:it is|it's|this is|(?:{_NOUN}|verdict|decision|result)(?: is|:)|call it) (?:a )?(?:tie|draw|tied)\b"
    rf"|\b{_SUBJECT} are (?:both )?(?:equal|equally \w+|the same|identical|tied|equivalent|of equal \w+)\b"
    rf"|\bneither(?: of them| {_NOUN})? is (?:better|preferable|superior)\b|\bthere is no difference\b",
    re.I,
)
_ONLY = re.compile(rf"(?:both|neither|none)(?: of (?:them|these|the two|the above))?(?: {_NOUN}s?)?", re.I)
_PAIR = re.compile(
    r"(?:^|(?<=[.!?;:\n]))\W{0,9}(?P<one>[A-Z])\W{0,9}(?:[,/&]|\s(?:and|or|vs\.?|versus)\s|\s)\W{0,9}(?P<two>[A-Z])"
    r"(?=\s*(?:$|[.,;/)\]])|\s+(?:and|or|[A-Z])\b)"
)
_DENIED = re.compile(
    r"\b(?:not|no|never|nor|neither|none|hardly|if|whether|unless|would|could|might|false|wrong|untrue|doubt|disagree|"
    r"ignore|cannot|\w+n't)\b|\b(?:can|don|doesn|isn|won)'t\b",
    re.I,
)
_SENTENCE = re.compile(r"[.!?;\n]")


def _named(text: str) -> set[_Named]:
    """The choices that a text without objects names."""
    named: set[_Named] = {_choice(match) for match in _LABEL.finditer(text)}
    for line in _FENCE.sub("", text).splitlines():
        bare = line.strip(_MARKS)
        if whole := _WHOLE.fullmatch(bare):
            named.add(_choice(whole))
        elif _TIE_WHOLE.fullmatch(bare):
            named.add("tie")
        elif _ONLY.fullmatch(bare):
            named.add(_THIRD)
    for pair in _PAIR.finditer(text):
        named |= {_by_letter(pair["one"]), _by_letter(pair["two"])}
    for pattern in _STATED:
        named |= {_choice(match) for match in pattern.finditer(text) if _asserted(text, match)}
    if any(_asserted(text, match) for match in _TIES.finditer(text)):
        named.add("tie")
    return named


# Beside an object, a capital letter that ends a clause, or has a word after it that no noun could be. Before other
# words it may be the article, or begins what is said of an answer.
_BARE = re.compile(
    r"(?<![\w'’.&/-])[AB](?=[*_`\"'“”‘’)\]]{0,4}(?:\s*(?:[.;:!?–—](?!\w)|$|\n|,(?=\s+(?:because|since|as|not)\b))|\s+-\s"
    r"|\s+(?:instead|actually|after all|because|since|(?:is|was)(?: actually| really| in fact)? (?:right|correct))\b))"
)
_PASSING = re.compile(
    rf"\b(?:than|over|not|nor|neither|never|\w+n't|to|in|of|by|with|from|for|against|unlike|like|and|or|both|between"
    rf"|versus|vs\.?|while|whereas|reject(?:ed|ing)?)\s+(?:the\s+)?(?:{_NOUN}s?\s+)?{_WRAP}$",
    re.I,
)


def _bare(text: str) -> set[_Named]:
    """The choices whose bare letter ends a clause beside an object; not those that are only compared with."""
    found = (match for match in _BARE.finditer(text) if not _PASSING.search(text[: match.start()][-60:]))
    return {_by_letter(match[0]) for match in found}


def _asserted(text: str, match: re.Match[str]) -> bool:
    """Whether nothing before it in its sentence denies or conditions a statement, and the sentence does not ask."""
    before = _SENTENCE.split(text[: match.start()])[-1]
    after = _SENTENCE.search(text, match.end())
    return not _DENIED.search(before) and not (after and after[0] == "?")


def _choice(match: re.Match[str]) -> _Named:
    (found,) = {value for value in match.groupdict().values() if value}
    return _by_letter(found)


def _by_letter(found: str) -> _Named:
    return _CHOICES.get(found.casefold(), _THIRD)


_OBJECT_PLACE = re.compile(rf"[\"'](?:{'|'.join(_KEYS)})[\"']\s*:\s*[\"']\s*", re.I)
_TEXT_PLACE = re.compile(r"[\s*_`\"'“‘(\[]*(?=(?:[ABab]|tie)(?:$|[^\w\s]|\s*\n))", re.I)


def _place(text: str, in_object: bool) -> int | None:
    found = _OBJECT_PLACE.search(text) if in_object else _TEXT_PLACE.match(text)
    return found.end() if found else None
