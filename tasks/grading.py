"""How an answer is graded against the true one."""

from __future__ import annotations

from dataclasses import dataclass

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
