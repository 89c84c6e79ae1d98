"""Answers of few words compared with replies, in any script, signs that mean something kept."""

from __future__ import annotations

import re

# Marks around a text that do not change what it says. Signs that do, such as + - # % & $ = / < >, are none of them.
_AROUND = " \t.,;:!?…\"'`*_()[]{}“”‘’«»¿¡。，、！？；：「」『』（）"
_BULLET = re.compile(r"[-–—•]\s+")
_MINUS = str.maketrans("−", "-")

# Scripts without blanks between words, each character a word of its own, marks on it included: Thai, Lao, Tibetan,
# Burmese, Khmer; Japanese and Chinese.
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
    "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = rf"(?:(?![{_UNSPACED}])\w)"
_WORDS = re.compile(
    rf"(?<![\w)\]])-?\d+(?:\.\d+)+(?!{_WORD})"  # 3.5, -0.5
    rf"|(?<![\w)\]])-\d+(?!{_WORD})"  # -5; in 3-5 and (3)-5 no minus
    rf"|{_WORD}+(?:(?:\+\+?|\#)(?!\w))?"  # words; C++, C#, A+
    rf"|[{_UNSPACED}]"
)


def plain(text: str) -> str:
    """A text in one case, one blank at a time, without marks around it; "" where it is nothing but marks."""
    text = " ".join(text.casefold().translate(_MINUS).split())
    return _BULLET.sub("", text, count=1).strip(_AROUND) if _BULLET.match(text) else text.strip(_AROUND)


def contains(reply: str, answer: str) -> bool:
    """Whether an answer's words follow each other in a reply; where it has none, such as "+", whether it stands there.

    In scripts without blanks between words the answer may be a part of a longer word.
    """
    said, right = _words(reply), _words(answer)
    if not right:
        return plain(answer) in reply
    return any(said[at : at + len(right)] == right for at in range(len(said)))


def _words(text: str) -> list[str]:
    return _WORDS.findall(text.casefold().translate(_MINUS))
