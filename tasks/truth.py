"""A ranker that knows the true answers: the upper bound to measure others against, never a label to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.rankings import Group, NoRanking, Ranking, all_equal, ranked_by
from tasks.grading import Grader, UnscorableError


class TruthRanker:
    """Sorts by how right each answer is: by its facts where slots are configured, else by exact match."""

    def __init__(self, grader: Grader, answers: Mapping[str, str | None]) -> None:
        """`answers`: the true answer by the group's name."""
        self._grader = grader
        self._answers = answers

    def rank(self, groups: Sequence[Group], seed: int = 0) -> list[Ranking | NoRanking]:  # noqa: ARG002 - none drawn
        return [self._rank(group) for group in groups]

    def _rank(self, group: Group) -> Ranking | NoRanking:
        truth, different = self._answers.get(group.name), group.distinct()
        if len(different) < 2:
            return all_equal(group)
        try:
            return ranked_by(group, {answer: self._grader.grade(truth, answer).best for answer in different})
        except UnscorableError as error:
            return NoRanking(str(error))
