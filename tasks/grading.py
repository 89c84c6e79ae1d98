"""How an answer is graded against the true one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from models.slots import SlotVocabulary, exact


class UnscorableError(ValueError):
    """The true answer is missing, or gives nothing to score by."""


@dataclass(frozen=True)
class Grade:
    """How right a response is.

    Attributes:
        exact: 1 for the same words in the same order, else 0.
        slot: share of the true answer's facts that it states; None where no slots are configured.
    """

    exact: float
    slot: float | None

    @property
    def best(self) -> float:
        """The slot score where there is one: it also tells wrong answers apart."""
        return self.exact if self.slot is None else self.slot


class Grader:
    """Grades responses, by slots too where they are configured."""

    def __init__(self, slots: SlotVocabulary | None) -> None:
        self._slots = slots

    def grade(self, answer: str | None, response: str) -> Grade:
        """The response's grade.

        Raises:
            UnscorableError: there is no answer, or none of its words fills a slot.
        """
        if not answer:
            raise UnscorableError(
                "the instruction has no answer to score against; add one, or leave it out of the split"
            )
        try:
            slot = self._slots.score(answer, response) if self._slots else None
        except ValueError as error:
            raise UnscorableError(str(error)) from error
        return Grade(float(exact(answer, response)), slot)


class Truths:
    """The true answers, by which pairs of answers are graded."""

    def __init__(self, instructions: Iterable[Mapping[str, Any]], slots: SlotVocabulary | None) -> None:
        """`instructions`: rows of that table with item_id, status and answer."""
        self._grader = Grader(slots)
        self._answers = {row["item_id"]: row["answer"] for row in instructions if row["status"] == "ok"}
        self._known: dict[tuple[str, str], float | None] = {}

    def grades(self, instruction: str, answers: tuple[str, str]) -> tuple[float, float] | None:
        """How right either answer is; None where there is no true answer that says it."""
        first, second = (self._grade(instruction, each) for each in answers)
        return None if first is None or second is None else (first, second)

    def _grade(self, instruction: str, response: str) -> float | None:
        if (instruction, response) not in self._known:  # An answer stands in several pairs, and in many versions.
            try:
                grade = self._grader.grade(self._answers.get(instruction), response).best
            except UnscorableError:
                grade = None
            self._known[instruction, response] = grade
        return self._known[instruction, response]

    def better(self, instruction: str, answers: tuple[str, str]) -> str | None:
        """Which is truly better: "a", "b" or "tie" (graded alike); None where nobody knows."""
        grades = self.grades(instruction, answers)
        if grades is None:
            return None
        return "tie" if grades[0] == grades[1] else "a" if grades[0] > grades[1] else "b"
