"""Who says which of two answers is better: a judge, a ranker that is shown both, or a reward model that scores each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from models.endpoint_settings import JudgeEndpoint
from models.rankings import Group, NoRanking, Ranking
from storage.lake import Lake
from tasks.evaluation.config import AnswersConfig, GradingConfig, PairsBy
from tasks.evaluation.reward_ref import RewardRef
from tasks.judge_endpoint import endpoint_judge, endpoint_speaker
from tasks.model_ref import ModelRef

if TYPE_CHECKING:
    from models.comparisons import Comparison, Judge, NoVerdict, Verdict
    from models.rankings import Ranker

Comparing = ModelRef | RewardRef | JudgeEndpoint


@dataclass(frozen=True)
class Compared:
    """What was said of a pair.

    Attributes:
        preferred: probability that the first answer is better, shown first and shown second; one number where each
            answer is seen alone; NaN in an order that was not decided, and nothing where none was.
        replies: what was written, or why there is no verdict.
        answered_by: the models that an endpoint says have answered, with ", " between them; None where nobody says.
    """

    preferred: list[float]
    replies: list[str]
    answered_by: str | None = None


class Comparer(Protocol):
    """Compares pairs."""

    def compare(self, pairs: Sequence[Comparison[Any]], seed: int) -> list[Compared]:
        """One a pair, in order; `seed`: of what is drawn. Raises models.endpoint.EndpointError."""
        ...


class JudgeComparer:
    """A judge that gives verdicts, asked in both orders."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def compare(self, pairs: Sequence[Comparison[Any]], seed: int) -> list[Compared]:  # noqa: ARG002 - none drawn
        return [_by_verdict(each) for each in self._judge.judge(pairs)]


class RankerComparer:
    """A listwise ranker, shown both answers in one prompt, in both orders."""

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker

    def compare(self, pairs: Sequence[Comparison[Any]], seed: int) -> list[Compared]:
        shown = [
            Group(f"{at}", pair.question, pair.frames, _both(pair), in_order=True) for at, pair in enumerate(pairs)
        ]
        turned = [replace(group, answers=group.answers[::-1]) for group in shown]
        said = self._ranker.rank([*shown, *turned], seed)
        orders = zip(said[: len(pairs)], said[len(pairs) :], strict=True)
        return [
            Compared([_first(one), 1 - _first(other)], [_reply(one), _reply(other)], _who(one, other))
            for one, other in orders
        ]


class RewardComparer:
    """A reward model: P(first better) = sigmoid(its score - the other's), as it was trained (Bradley-Terry)."""

    def __init__(self, ranker: Ranker) -> None:
        """`ranker`: gives the reward model's scores."""
        self._ranker = ranker

    def compare(self, pairs: Sequence[Comparison[Any]], seed: int) -> list[Compared]:  # noqa: ARG002 - none drawn
        groups = [Group(f"{at}", pair.question, pair.frames, _both(pair)) for at, pair in enumerate(pairs)]
        return [_by_scores(each) for each in self._ranker.rank(groups)]


def new_comparer(
    lake: Lake, model: Comparing, by: PairsBy, answers: AnswersConfig, grading: GradingConfig, workers: int
) -> Comparer:
    """Who compares.

    Args:
        lake: holds adapters and the ledger of endpoints.
        model: who decides; a reward model scores, whatever `by` says.
        by: how others are asked.
        answers: how many go together.
        grading: what they are asked, and how they reply.
        workers: that share an endpoint.

    Raises:
        StageFailure: the endpoint.
    """
    if isinstance(model, RewardRef):
        from models.rankers import RewardRanker

        reward = model.load(lake)
        return RewardComparer(
            RewardRanker(reward, batch_size=answers.batch_size, forward_tokens=answers.forward_tokens)
        )
    if by == "listwise":
        return RankerComparer(_listwise(lake, model, answers, grading, workers))
    return JudgeComparer(_judge(lake, model, answers, grading, workers))


def attempts(model: ModelRef | JudgeEndpoint, grading: GradingConfig) -> int:
    """How often a ranker is asked until its reply is an order; at temperature 0 a model here says the same again."""
    if isinstance(model, JudgeEndpoint):
        return model.reasks + 1
    return grading.reasks + 1 if grading.sampling.temperature > 0 else 1


def _listwise(
    lake: Lake, model: ModelRef | JudgeEndpoint, answers: AnswersConfig, grading: GradingConfig, workers: int
) -> Ranker:
    from models.listwise import ListwiseRanker, LocalSpeaker, Speaker

    speaker: Speaker
    if isinstance(model, JudgeEndpoint):
        speaker = endpoint_speaker(model, lake=lake.root, workers=workers)
    else:
        speaker = LocalSpeaker(model.load(lake), grading.sampling, batch_size=answers.batch_size)
    texts = {"text": grading.ranking.listwise, "context_text": grading.ranking.listwise_context}
    return ListwiseRanker(speaker, **texts, attempts=attempts(model, grading))


def _judge(
    lake: Lake, model: ModelRef | JudgeEndpoint, answers: AnswersConfig, grading: GradingConfig, workers: int
) -> Judge:
    prompts = grading.prompts
    if isinstance(model, JudgeEndpoint):
        return endpoint_judge(
            model,
            lake=lake.root,
            workers=workers,
            text=prompts.endpoint,
            context_text=prompts.endpoint_context,
            tie_margin=0.0,
        )
    from models.judge import VerdictJudge

    return VerdictJudge(
        model.load(lake),
        text=prompts.verdict,
        context_text=prompts.verdict_context,
        batch_size=answers.batch_size,
        forward_tokens=answers.forward_tokens,
    )


def _both(pair: Comparison[Any]) -> tuple[str, str]:
    return pair.answer_a, pair.answer_b


def _by_verdict(said: Verdict | NoVerdict) -> Compared:
    from models.comparisons import NoVerdict

    if isinstance(said, NoVerdict):
        return Compared([], [said.reason])
    orders = (said.p_a_first, said.p_a_second)  # Two answers that are equal are compared by nobody.
    replies = [reply for reply in (said.reply_first, said.reply_second) if reply is not None]
    return Compared([said.p_a if order is None else order for order in orders], replies, said.answered_by)


def _first(said: Ranking | NoRanking) -> float:
    """1 where the first answer stands before the other, 0.5 for a tie, NaN for no order."""
    return math.nan if isinstance(said, NoRanking) else 1 - said.ranks[0]


def _who(*said: Ranking | NoRanking) -> str | None:
    """Who answered."""
    return (
        ", ".join(sorted({each.answered_by for each in said if isinstance(each, Ranking) and each.answered_by})) or None
    )


def _reply(said: Ranking | NoRanking) -> str:
    return said.reason if isinstance(said, NoRanking) else said.reply or ""


def _by_scores(said: Ranking | NoRanking) -> Compared:
    if isinstance(said, NoRanking):
        return Compared([], [said.reason])
    if said.scores is None:  # Two answers that are equal are scored by nobody.
        return Compared([0.5], [])
    margin = said.scores[0] - said.scores[1]
    return Compared([0.5 * (1 + math.tanh(margin / 2))], [])  # The sigmoid, and no overflow.
