"""What AI judges are asked and what they say: two answers in, a verdict or the reason for none out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Preferred = Literal["a", "b", "tie"]


@dataclass(frozen=True)
class Comparison:
    """Two answers to one question.

    Attributes:
        question: the question.
        frames: visual tokens [F, P, D] of the frames that the judge sees. Comparisons that share the tensor share its
            prompts.
        answer_a: an answer.
        answer_b: another answer.
        context: the video's narrative, or None to judge without one.
    """

    question: str
    frames: Tensor
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
    """

    p_a: float
    preferred: Preferred
    score_a: float | None = None
    score_b: float | None = None
    p_a_first: float | None = None
    p_a_second: float | None = None
    consistent: bool | None = None


@dataclass(frozen=True)
class NoVerdict:
    """The judge gave no usable reply to a comparison, and why. Nothing is guessed in its place."""

    reason: str


EQUAL_ANSWERS = Verdict(p_a=0.5, preferred="tie")


class Judge(Protocol):
    """Compares answers."""

    def judge(self, comparisons: Sequence[Comparison]) -> list[Verdict | NoVerdict]:
        """One verdict a comparison, in order."""
        ...


def normalised(answer: str) -> str:
    """An answer without what does not change its meaning: case, spacing, closing full stops."""
    return " ".join(answer.casefold().split()).rstrip(" .")
