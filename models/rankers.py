"""Rankers that sort: by a reward model's scores, and by the wins of a tournament that a judge decides.

Oracle-RLAIF trains on ranks; how its oracle makes them is not published, so these and models.listwise stand behind one
Protocol (models.rankings.Ranker). Models alone decide; no ground truth enters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from models.batches import Limits
from models.comparisons import Comparison, Judge, NoVerdict, Verdict
from models.rankings import Group, NoRanking, Ranking, all_equal, ranked_by
from models.reward_model import RewardModel, RewardPrompt


class RewardRanker:
    """Sorts by a reward model's scores. It reads question, frames and narrative as in its training."""

    def __init__(self, reward: RewardModel, *, batch_size: int = 16, forward_tokens: int | None = None) -> None:
        """`batch_size`, `forward_tokens`: the most answers, and the most tokens, scored together."""
        self._reward = reward
        self._limits = Limits(batch_size, forward_tokens)

    def rank(self, groups: Sequence[Group], seed: int = 0) -> list[Ranking | NoRanking]:  # noqa: ARG002 - none drawn
        known = [self._without_model(group) for group in groups]
        scores = iter(self._scores([group for group, each in zip(groups, known, strict=True) if each is None]))
        return [each or _by_reward(group, next(scores)) for group, each in zip(groups, known, strict=True)]

    def _without_model(self, group: Group) -> Ranking | NoRanking | None:
        distinct = group.distinct()
        if len(distinct) < 2:
            return all_equal(group)
        if group.context is None and self._reward.form.rm_context == "narrative":
            return NoRanking("the reward model reads the narrative of the video, and was handed none")
        unsaid = set(self._reward.lm.suppressed)
        for answer in distinct:
            if not unsaid.isdisjoint(self._reward.lm.response_ids(answer)):
                return NoRanking(f"the answer {answer!r} holds a token that the reward model's base cannot say")
        return None

    def _scores(self, groups: list[Group]) -> list[dict[str, float]]:
        prompts: list[RewardPrompt] = []
        responses: list[tuple[int, ...]] = []
        for group in groups:
            answers = [self._reward.lm.response_ids(answer) for answer in group.distinct()]
            prompts += [self._reward.prompt(group.question, group.frames, group.context)] * len(answers)
            responses += answers
        scores = iter(self._reward.score_all(prompts, responses, self._limits).tolist() if groups else [])
        return [{answer: next(scores) for answer in group.distinct()} for group in groups]


def _by_reward(group: Group, scores: dict[str, float]) -> Ranking | NoRanking:
    for answer, score in scores.items():
        if not math.isfinite(score):
            return NoRanking(f"the reward of the answer {answer!r} is {score}: the reward model's numbers overflow")
    return ranked_by(group, scores)


class TournamentRanker:
    """Every two different answers meet once before a judge: score = wins + half the ties (Copeland's method).

    A cycle (a beats b beats c beats a) gives equal scores, and so a tie. An answer that was sampled twice plays once.
    https://en.wikipedia.org/wiki/Copeland%27s_method
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def rank(self, groups: Sequence[Group], seed: int = 0) -> list[Ranking | NoRanking]:  # noqa: ARG002 - none drawn
        pairs = [list(combinations(group.distinct(), 2)) for group in groups]
        asked = [
            Comparison(group.question, group.frames, a, b, group.context)
            for group, of_group in zip(groups, pairs, strict=True)
            for a, b in of_group
        ]
        verdicts = iter(self._judge.judge(asked))
        return [
            _by_wins(group, {pair: next(verdicts) for pair in of_group})
            for group, of_group in zip(groups, pairs, strict=True)
        ]


def _by_wins(group: Group, verdicts: dict[tuple[str, str], Verdict | NoVerdict]) -> Ranking | NoRanking:
    if not verdicts:
        return all_equal(group)
    scores = dict.fromkeys(group.distinct(), 0.0)
    for (a, b), verdict in verdicts.items():
        if isinstance(verdict, NoVerdict):
            return NoRanking(f"answers {a!r} and {b!r}: {verdict.reason}")
        if verdict.preferred == "tie":
            scores[a] += 0.5
            scores[b] += 0.5
        else:
            scores[a if verdict.preferred == "a" else b] += 1
    return ranked_by(group, scores)
