"""The letter that a reply to a multiple choice means, or none: the strict reading, made here.

A letter counts where the reply gives it as its answer; a reply that gives several, or none, is not read. Nothing is
guessed, and a letter that happens to stand in the text (an article, an option spoken against) is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from benchmarks.choices import LETTERS

# What a model thinks is no answer; nor are the marks that end its turn.
_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.IGNORECASE | re.DOTALL)
_ENDINGS = re.compile(r"(?:\s*(?:</s>|<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|<eos>))+\s*\Z")
_WORDS = re.compile(r"\w+")
_BLANKS, _BREAKS = re.compile(r"[^\S\n]{2,}|[^\S\n ]"), re.compile(r"\s*\n\s*")
_LONE = re.compile(r"[^\w<]*([A-Ha-h])[^\w<]*")
_SCOPES = (
    re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL),
    re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}"),
)
_LATEX = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")

# Brackets, quotes and emphasis around a letter; a run of them is taken whole, so that no reply takes long to read.
_OPEN, _CLOSE = r"[\s(\[{\"'“‘*_`$]*+", r"[\s)\]}\"'”’*_`$]*+"
# What may follow a letter that is meant: the end, a mark, or a word that goes on from it. Not "A man", not "A-frame".
_ON = (
    r"(?:because|as|since|for|and|but|not|or|is|due|which|given|from|based|rather|instead|with|according|would|seems)\b"
)
_ALTERNATIVE = re.compile(
    rf"{_CLOSE}(?:,|/|&|\+|\bor\b|\band\b|\band/or\b|\.?\s+or\b){_OPEN}(?:option\s+|choice\s+)?([A-Z])(?![\w'’])"
)
# In front of a letter that is no answer: the word that denies it, or in the same clause that nobody would say so.
_NOT = (
    r"(?:\bnot|n['’]t|\bthan|\binstead of|\bexcept|\bneither|\bnor|\bwithout|\beliminates?|\brules? out|\bexcludes?)"
    r"(?:\s+(?:be|is|option|choice|answer|the))*"
)
_UNSAID = (
    r"(?:(?:\b(?:do|does|did|could|would)\s*(?:not|n['’]t)|\bcan(?:not|['’]t)|\bwon['’]t)\s+(?:\w+\s+)?"
    r"(?:think|believe|say|see|know|tell)|\bdoubt|\b(?:not\s|un)(?:sure|certain|clear|likely)|\bnobody|\bhardly)"
    r"\b[^.,;:!?\n]{0,60}"
)
_DENIED = re.compile(rf"(?:{_NOT}|{_UNSAID})[\s(\[\"'“*_]*\Z", re.IGNORECASE)
# Behind one: it is called wrong, or was only asked.
_WRONG = (
    r"(?:(?:is|was|are|seems|looks|(?:would|must|can|could) be)(?:\s+(?:also|clearly|definitely|probably))?"
    r"(?:\s+not\b|n['’]t\b|\s+(?:(?:a|an|the)\s+)?"
    r"(?:wrong|incorrect|false|unlikely|impossible|least|worst|excluded|eliminated|out)\b)"
    r"|cannot\b|can['’]t\b|(?:does|do)\s*(?:not|n['’]t)\b)"
)
_REFUSED = re.compile(rf"{_CLOSE}(?:\?|[.:,]?\s*{_WRONG})", re.IGNORECASE)
# Any word of these, of `_NOT`, `_UNSAID` and `_CORRECTED`: most replies have none, and are read sooner for it.
_AGAINST = re.compile(
    r"\?|not|n['’]t|than|instead|except|neither|\bnor|without|eliminat|\brules?\b|exclude|doubt|unsure|uncertain|unclear"
    r"|unlikely|nobody|hardly|wrong|incorrect|false|impossible|least|worst|\bout\b|actually|\bno\b|\bwait\b|correction|sorry"
    r"|rather|\bi mean\b|second thought",
    re.IGNORECASE,
)
# A later letter that takes the place of an earlier one.
_CORRECTED = re.compile(
    r"\b(?:actually|no|wait|correction|sorry|rather|i mean|on second thoughts?)\b[\s,:.!–—-]*+"
    r"(?:(?:it|that|the answer)(?:['’]s|\s+is)\s+|i\s+(?:choose|pick|say)\s+)?"
    rf"{_OPEN}(?-i:([A-Z]))(?=[\s)\]}}\"'”’*_`$]*+(?:[.!,;]|\Z))",
    re.IGNORECASE,
)
_AFFIRMING = ("correct", "right", "best", "answer", "most")
_TRAILING = " \n)]}\"'”’*_`$.!"  # what may stand behind a letter at the end
_STATING = re.compile(r"\A\W*(?:the\s+)?(?:\w+\s+)?(?:answer|option|choice)(?:\s+is\b|\s*:)", re.IGNORECASE)


@lru_cache
def _forms(last: str) -> dict[str, re.Pattern[str]]:
    """The forms in which a reply can give one of the letters A to `last`, the surest first; each has one group."""
    big = f"[A-{last}]"
    any_case = f"[A-{last}a-{last.lower()}]"
    # A letter in any case, not a part of a word; "a" and "i" are words where another word follows.
    meant = rf"(?P<letter>{any_case})(?!['’\w]|-\w|\.\w)(?!(?<=[AaIi])\s+(?!{_ON})[a-zA-Z])"
    noun = r"(?:answer|option|choice|response|letter)"
    return {
        "final": re.compile(
            rf"\bfinal\s+{noun}{_CLOSE}(?:is|:|=)?{_CLOSE}:?{_OPEN}(?:option\s+)?{meant}", re.IGNORECASE
        ),
        "stated": re.compile(
            rf"(?:\b{noun}{_CLOSE}(?:(?:is|would be|must be|should be|will be)(?=\W){_CLOSE}:?|:|=|->|→)"
            rf"|\b(?:it|this|that)(?:['’]s|\s+(?:is|must be|should be|would be|has to be))(?=\W)"
            rf"|\b(?:choose|select|pick|go(?:ing)?\s+with|opt\s+for)(?=\W))"
            rf"{_OPEN}(?:(?:clearly|definitely|probably|likely|most likely|therefore)\s+)?(?:the\s+)?"
            rf"(?:(?:option|choice|letter)\b\s*:?)?{_OPEN}{meant}",
            re.IGNORECASE,
        ),
        "affirmed": re.compile(
            rf"(?:\b(?:option|choice|answer)\s+|[(\[*]|\A|(?<=\n)|(?<=\.\s)){_OPEN}(?P<letter>{big})[)\]}}\"'”’*_`]*+[.:]?\s+"
            r"(?:is|seems|must be|would be)\s+(?:clearly\s+|most\s+likely\s+|probably\s+)?(?:the\s+)?"
            r"(?:correct|right|best|answer|most)\b"
        ),
        "alone": re.compile(
            rf"^[>\s]*(?:option|choice|answer)?{_OPEN}(?P<letter>{any_case})[^\w\n]*+$",
            re.IGNORECASE | re.MULTILINE,
        ),
        "leading": re.compile(
            rf"^[>\s]*{_OPEN}(?:option\s+|choice\s+)?"
            rf"(?:(?P<marked>{any_case})[\"'”*_`]*[)\].:](?!\w)|(?P<bare>{big})(?=\s*[,;–—]|\s+-|\s+{_ON}|[\"'”*_`]))",
            re.MULTILINE,
        ),
        "marked": re.compile(
            rf"(?:\((?P<round>{any_case})\)|\*\*\(?(?P<bold>{big})[.:)]?\*\*|\b(?:[Oo]ption|[Cc]hoice)\s+(?P<named>{big}))(?!\w)"
        ),
        "last": re.compile(
            rf"(?:[:=>→,]|\b(?i:so|therefore|thus|hence|be|is|say|definitely|clearly|probably)\b){_OPEN}(?P<letter>{big}){_CLOSE}[.!]*{_CLOSE}\Z"
        ),
    }


@lru_cache
def _markers(last: str) -> re.Pattern[str]:
    """A letter that is set in front of a text, and the text."""
    return re.compile(rf"(?<!\w)\(?(?P<letter>[A-{last}])[).:](?=\s*(?P<text>[^\n]{{0,200}}))")


def letter_of(reply: str, options: Sequence[str]) -> str | None:
    """The letter that a reply means; None where it gives none or several. It can lie outside the options: "E" of four.

    The surest form that the reply has decides: a last tag or box, a final answer, a stated one ("the answer is B"), a
    line of nothing but the letter, a letter that leads ("(B) because ..."), one in brackets, one at the end, and at
    last a reply that is, word for word, one option's text. Two letters in the same form are no answer, nor are
    alternatives ("A or B"), nor a list of the options, nor a letter in front of another option's text, nor one that is
    denied, only asked, or taken back.

    Args:
        reply: what the model said.
        options: their texts in order, without letters.
    """
    return _read(reply, tuple(options))


# A reply is read where its file is, and by each protocol that reads it so.
@lru_cache(maxsize=1 << 17)
def _read(reply: str, options: tuple[str, ...]) -> str | None:
    lone = _LONE.fullmatch(reply)
    if lone:
        return lone[1].upper()
    text = _said(reply)
    last = LETTERS[min(max(len(options), 8), 26) - 1]
    for name, form in _forms(last).items():
        if not _possible(name, text, last) or not form.search(text):  # Most replies have few of the forms.
            continue
        letters = set(_letters(form, text, options))
        if letters:
            return _agreed(letters, _markers(last), text, options, listed=name in ("leading", "marked"))
    return _by_text(text, options)


def _possible(name: str, text: str, last: str) -> bool:
    """Whether a text can have a form at all: sooner said than the form is searched for."""
    if name == "final":
        return "nal" in text.lower()  # Not "final": a dotted I is another letter in small, but the same to the form.
    if name == "affirmed":
        return any(word in text for word in _AFFIRMING)
    return name != "last" or "A" <= text.rstrip(_TRAILING)[-1:] <= last


def _said(reply: str) -> str:
    """The part of a reply that is its answer, without thoughts, tags and marks; one blank, one line break at a time."""
    text = _ENDINGS.sub("", _THOUGHTS.sub(" ", reply)) if "<" in reply else reply
    text = _BREAKS.sub("\n", _BLANKS.sub(" ", text)).strip()
    if "<" in text or "\\" in text:
        for scope in _SCOPES:
            inside = scope.findall(text)
            text = inside[-1].strip() if inside else text
        text = _LATEX.sub(r"\1", text)
    return text


def _letters(form: re.Pattern[str], text: str, options: Sequence[str]) -> Iterator[str]:
    """Every letter that `text` gives in this form, but those it denies; "" for each alternative to one."""
    against = _AGAINST.search(text) is not None
    for found in form.finditer(text):
        letter, place = found[found.lastindex or 0].upper(), found.start(found.lastindex or 0)
        if against and (_denied(text, place) or _refused(text, place + 1, letter, options)):
            continue
        yield letter
        other = _ALTERNATIVE.match(text, place + 1) or (_CORRECTED.search(text, place + 1) if against else None)
        if other and other[1] != letter:
            yield ""


def _denied(text: str, place: int) -> bool:
    """Whether what stands in front of the letter at a place denies it."""
    return _DENIED.search(text, max(0, place - 100), place) is not None


def _refused(text: str, end: int, letter: str, options: Sequence[str]) -> bool:
    """Whether the letter that ends there is spoken against, with its option's text behind it or without."""
    if _REFUSED.match(text, end):
        return True
    number = LETTERS.index(letter)
    behind = _behind(text, end, options[number]) if number < len(options) else end
    return behind != end and _REFUSED.match(text, behind) is not None


def _behind(text: str, start: int, option: str) -> int:
    """Where an option's text ends that stands at a place; the place itself where it does not stand there."""
    place = start
    for word in _WORDS.findall(option):
        found = _WORDS.search(text, place)
        if not found or found[0].casefold() != word.casefold():
            return start
        place = found.end()
    return place


def _agreed(
    letters: set[str], marker: re.Pattern[str], text: str, options: Sequence[str], *, listed: bool
) -> str | None:
    """The one letter, unless the reply speaks against it by the texts that it puts behind letters."""
    if len(letters) != 1 or "" in letters:
        return None
    letter = letters.pop()
    for found in marker.finditer(text):
        behind, named = _plain(found["text"]), LETTERS.index(found["letter"])
        own = _plain(options[named]) if named < len(options) else ""
        if found["letter"] == letter and behind and behind != own and behind in map(_plain, options):
            return None
        if listed and found["letter"] != letter and own and behind.startswith(own):
            return None
    return letter


def _by_text(text: str, options: Sequence[str]) -> str | None:
    said = _plain(_STATING.sub("", text))
    there = [place for place, option in enumerate(options) if said and _plain(option) == said]
    return LETTERS[there[0]] if len(there) == 1 else None


@lru_cache(maxsize=1 << 16)
def _plain(text: str) -> str:
    """Lower case, words alone."""
    return " ".join(_WORDS.findall(text.lower()))
