"""A person as a judge: each pair is shown in both orders, and what was said of both makes the verdict."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from models.comparisons import EQUAL_ANSWERS, Comparison, NoVerdict, Preferred, Verdict

HumanChoice = Literal["A", "B", "tie", "cannot"]

_P_FIRST: dict[HumanChoice, float] = {"A": 1.0, "tie": 0.5, "B": 0.0}


@dataclass(frozen=True)
class Person:
    """In the place of a model where people judge. Who they are is no part of what makes the labels."""

    identity: str = "human"


@dataclass(frozen=True)
class Strip:
    """Frames as a person is shown them.

    Attributes:
        digest: hash of their files, in hex.
        place: where whoever shows them finds them; no part of what was shown.
    """

    digest: str
    place: str


@dataclass(frozen=True)
class Showing:
    """Two answers in one order, with all that a person is shown beside them.

    Attributes:
        text: what they are asked.
        question: the question of the video.
        frames: its frames.
        first: the answer shown as A.
        second: the answer shown as B.
        context: the narrative, or None to judge without one.
    """

    text: str
    question: str
    frames: Strip
    first: str
    second: str
    context: str | None = None

    @cached_property
    def key(self) -> str:
        """Hash of what was shown, 64 hex digits: what was said of it once holds wherever the same is shown."""
        shown = [self.text, self.question, self.frames.digest, self.first, self.second, self.context]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


@dataclass(frozen=True)
class Said:
    """What a person said of a showing.

    Attributes:
        choice: "A", "B", "tie", or "cannot": that they cannot tell.
        reason: theirs, or "".
        who: the name they gave, or "".
        at: when, ISO 8601 in UTC.
        seconds: how long the showing was before them; None where nobody knows.
    """

    choice: HumanChoice
    reason: str
    who: str
    at: str
    seconds: float | None


@dataclass(frozen=True)
class Unsaid(NoVerdict):
    """A person has still to be asked."""

    reason: str = "a person has still to be asked"


class HumanJudge:
    """Reads verdicts from what people said; orders that disagree are a tie that is marked inconsistent."""

    def __init__(self, said: Mapping[str, Said], *, text: str, context_text: str) -> None:
        """Args:
        said: what was said, by the key of the showing.
        text: what a person is asked.
        context_text: the same where there is a narrative.
        """
        self._said = said
        self._text = text
        self._context_text = context_text

    def showings(self, comparison: Comparison[Strip]) -> tuple[Showing, Showing]:
        """The comparison with answer a first, and with answer b first."""
        text = self._text if comparison.context is None else self._context_text
        a, b = comparison.answer_a, comparison.answer_b
        shared = (text, comparison.question, comparison.frames)
        return Showing(*shared, a, b, comparison.context), Showing(*shared, b, a, comparison.context)

    def judge(self, comparisons: Sequence[Comparison[Strip]]) -> list[Verdict | NoVerdict]:
        """One verdict a comparison, in order; `Unsaid` where nobody has said enough, and nothing is waited for."""
        return [self._judged(each) for each in comparisons]

    def _judged(self, comparison: Comparison[Strip]) -> Verdict | NoVerdict:
        if comparison.same:
            return EQUAL_ANSWERS
        a_first, a_second = (self._said.get(each.key) for each in self.showings(comparison))
        for said in (a_first, a_second):
            if said is not None and said.choice == "cannot":
                return NoVerdict(f"a person was asked and could not tell: {said.reason}")
        if a_first is None or a_second is None:
            return Unsaid()
        return _verdict(a_first, a_second)


def _verdict(a_first: Said, a_second: Said) -> Verdict:
    p_first, p_second = _P_FIRST[a_first.choice], 1 - _P_FIRST[a_second.choice]
    consistent = p_first == p_second
    sides: dict[float, Preferred] = {1.0: "a", 0.0: "b"}
    times = (a_first.seconds, a_second.seconds)
    return Verdict(
        p_a=(p_first + p_second) / 2,
        preferred=sides.get(p_first, "tie") if consistent else "tie",
        p_a_first=p_first,
        p_a_second=p_second,
        consistent=consistent,
        reply_first=a_first.choice,
        reply_second=a_second.choice,
        reason_first=a_first.reason or None,
        reason_second=a_second.reason or None,
        latency_s=None if None in times else sum(each for each in times if each is not None),
    )
