"""What AI judges are asked and what they say: two answers in, a verdict or the reason for none out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

Shown = TypeVar("Shown")
Preferred = Literal["a", "b", "tie"]


@dataclass(frozen=True)
class Comparison(Generic[Shown]):
    """Two answers to one question.

    Attributes:
        question: the question.
        frames: the frames that the judge sees, in the form that it takes: a local model their visual tokens [F, P, D],
            an endpoint their JPEG files. Comparisons that share the object share its prompts.
        answer_a: an answer.
        answer_b: another answer.
        context: the video's narrative, or None to judge without one.
    """

    question: str
    frames: Shown
    answer_a: str
    answer_b: str
    context: str | None = None

    @property
    def same(self) -> bool:
        """Whether both answers say the same but for case, spacing and a closing mark: a tie, whoever judges."""
        return normalised(self.answer_a) == normalised(self.answer_b)


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one comparison.

    Attributes:
        p_a: probability in [0, 1] that answer a is the better one.
        preferred: "a", "b", or "tie".
        score_a: log-probability of answer a (likelihood) or mean log-probability of its letter (verdict), in nats;
            None for two equal answers, which no model is asked about.
        score_b: the same of answer b.
        p_a_first: p_a when a was shown first (verdict only).
        p_a_second: p_a when a was shown second (verdict only).
        consistent: whether both orders prefer the same answer (verdict only).
        reply_first: what a judge behind an endpoint replied when a was shown first; like all below, None for others.
        reply_second: the same with a shown second.
        reason_first: the reason that it gave when a was shown first.
        reason_second: the same with a shown second.
        input_tokens: of all calls that this verdict took, both orders and replies that were asked again.
        output_tokens: the same of what it replied.
        latency_s: seconds that those calls took, one after the other.
        cost: of those calls, in the currency of the prices. Two verdicts that share a call both count it.
        answered_by: the models that the endpoint says have answered, with ", " between them; None where it does not.
    """

    p_a: float
    preferred: Preferred
    score_a: float | None = None
    score_b: float | None = None
    p_a_first: float | None = None
    p_a_second: float | None = None
    consistent: bool | None = None
    reply_first: str | None = None
    reply_second: str | None = None
    reason_first: str | None = None
    reason_second: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    latency_s: float | None = None
    cost: float | None = None
    answered_by: str | None = None


@dataclass(frozen=True)
class NoVerdict:
    """The judge gave no usable reply to a comparison, and why. Nothing is guessed in its place."""

    reason: str


EQUAL_ANSWERS = Verdict(p_a=0.5, preferred="tie")


class Judge(Protocol):
    """Compares answers."""

    def judge(self, comparisons: Sequence[Comparison[Any]]) -> list[Verdict | NoVerdict]:
        """One verdict a comparison, in order."""
        ...


def normalised(answer: str) -> str:
    """An answer without what does not change its meaning: case, spacing, closing full stops."""
    return " ".join(answer.casefold().split()).rstrip(" .")
