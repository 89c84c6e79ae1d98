"""What rankers are asked and what they say: a group of answers in, their ranks or the reason for none out.

Ranks are average ranks: 0 is the best of a group of n, answers that tie share the mean of the ranks that they take, and
the ranks of a group sum to n (n - 1) / 2 (https://en.wikipedia.org/wiki/Ranking#Fractional_ranking). Answers that say
the same (models.comparisons.normalised) are one answer to a ranker and tie, whatever it would make of their spelling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from models.comparisons import normalised

Value = TypeVar("Value")


@dataclass(frozen=True)
class Group:
    """Answers to one question about one video.

    Attributes:
        name: what the group is called, an instruction's id; it also decides in what order a model is shown the answers.
        question: the question.
        frames: what the ranker is shown: a local model visual tokens [F, P, D], an endpoint JPEG files.
        answers: the answers, in any order.
        context: the video's narrative, or None to rank without one.
        in_order: the ranker is shown the answers as they stand; else in an order that `name` decides.
    """

    name: str
    question: str
    frames: Any
    answers: tuple[str, ...]
    context: str | None = None
    in_order: bool = False

    def distinct(self) -> list[str]:
        """One of all answers that say the same, in their commonest spelling (of several, the last by code points: small
        letters, with a closing mark). Shuffled by the group's name alone, not by the order of the answers, but where
        `in_order` keeps that.
        """
        spellings: dict[str, str] = {}
        for answer in sorted(self.answers, key=lambda answer: (self.answers.count(answer), answer)):
            spellings[normalised(answer)] = answer
        if self.in_order:
            return [spellings[said] for said in dict.fromkeys(map(normalised, self.answers))]
        return sorted(spellings.values(), key=lambda answer: hashlib.sha256(f"{self.name}\n{answer}".encode()).digest())


@dataclass(frozen=True)
class Ranking:
    """The order of one group.

    Attributes:
        ranks: each answer's average rank, 0 = best.
        scores: what was sorted by, higher is better; None where the ranker gave an order only.
        places: where each answer stood in the prompt, from 0, where they were shown together.
        reply: the order as the model wrote it, where it did.
        attempts: how often the ranker was asked; 0 where all answers are equal, so that there was nothing to ask.
        answered_by: the model that an endpoint says has answered; None where nobody says.
    """

    ranks: tuple[float, ...]
    scores: tuple[float, ...] | None = None
    places: tuple[int, ...] | None = None
    reply: str | None = None
    attempts: int = 1
    answered_by: str | None = None


@dataclass(frozen=True)
class NoRanking:
    """The ranker gave no usable order of a group, and why. Nothing is guessed in its place."""

    reason: str


class Ranker(Protocol):
    """Orders answers."""

    def rank(self, groups: Sequence[Group], seed: int = 0) -> list[Ranking | NoRanking]:
        """One ranking a group, in order. Rankers that draw nothing take no notice of `seed`."""
        ...


def average_ranks(scores: Sequence[float]) -> tuple[float, ...]:
    """The average rank of each score, 0 for the highest: those above it, and half of the others that equal it."""
    return tuple(
        sum(other > score for other in scores) + (sum(other == score for other in scores) - 1) / 2 for score in scores
    )


def ranked_by(group: Group, scores: Mapping[str, float]) -> Ranking:
    """The ranking of a group by the scores of its distinct answers."""
    each = spread(group, scores)
    return Ranking(average_ranks(each), each)


def all_equal(group: Group) -> Ranking:
    """The ranking of a group whose answers all say the same: one rank for all, which no model is asked about."""
    return Ranking(average_ranks([0.0] * len(group.answers)), attempts=0)


def spread(group: Group, values: Mapping[str, Value]) -> tuple[Value, ...]:
    """Each answer's value, from the values of the distinct answers."""
    known = {normalised(answer): value for answer, value in values.items()}
    return tuple(known[normalised(answer)] for answer in group.answers)
