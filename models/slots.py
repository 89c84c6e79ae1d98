"""Scores an answer by the facts in it, not by the place of its words.

A closed world has few facts to get right: the colour, the shape and the action of each event. A `SlotVocabulary` lists
the words that name them. An answer is split into parts at a separator word ("then"), and a slot of a part holds a value
when exactly one of the slot's words stands in that part. Scoring by word position instead counts every fact after a
longer first action as wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from annotated_types import MinLen

Slot = tuple[int, str]


@dataclass(frozen=True)
class SlotVocabulary:
    """The words that name facts."""

    __pydantic_config__ = {"use_attribute_docstrings": True, "extra": "forbid"}

    values: Annotated[dict[str, tuple[str, ...]], MinLen(1)]
    """For each slot the words that can fill it. A word belongs to one slot."""
    separator: str = "then"
    """The word between two parts of an answer (two events)."""

    def parse(self, text: str) -> dict[Slot, str | None]:
        """The facts that a text states.

        Returns:
            (part, slot name) -> its word; None where two different or repeated words of one slot contradict each other.
            Slots that no word fills are absent.
        """
        facts: dict[Slot, str | None] = {}
        part = 0
        for word in re.findall(r"\w+", text.lower()):
            if word == self.separator:
                part += 1
                continue
            for name, values in self.values.items():
                if word in values:
                    facts[(part, name)] = None if (part, name) in facts else word
        return facts

    def score(self, answer: str, response: str) -> float:
        """The share of the answer's facts that the response states, between 0 and 1.

        Args:
            answer: the true answer.
            response: what the model said.

        Raises:
            ValueError: the answer holds no slot at all, so nothing can be scored.
        """
        truth = self.parse(answer)
        if not truth:
            raise ValueError(
                f"The answer {answer!r} holds none of the slot words; list its words under the benchmark's slots."
            )
        said = self.parse(response)
        return sum(said.get(slot) == value for slot, value in truth.items()) / len(truth)


def exact(answer: str, response: str) -> bool:
    """Whether both texts are the same words in the same order; case, punctuation and spacing do not count."""
    return re.findall(r"\w+", answer.lower()) == re.findall(r"\w+", response.lower())
