"""AI judges: which of two answers to a question about a video is better. Models alone decide; no ground truth enters.

`LikelihoodJudge` asks how likely the judge itself finds each answer; `VerdictJudge` shows it both answers and reads
which letter it would say, in both orders, because such verdicts lean to a position (https://arxiv.org/abs/2306.05685).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from models.batches import Limits, in_batches
from models.comparisons import EQUAL_ANSWERS, Comparison, NoVerdict, Preferred, Verdict
from models.parallel import ALONE, Team
from models.sequences import Prompt
from models.templates import checked
from models.video_lm import VideoLM

Reduction = Literal["sum", "mean"]

_Asked = tuple[str, str | None, int, str]


class LikelihoodJudge:
    """Prefers the answer that the judge itself would sooner give.

    p_a = sigmoid(score_a - score_b), score = sum over the answer's tokens, end token included, of their log-probability
    given video, narrative and question. Each distinct answer of a question is scored once.
    """

    def __init__(
        self,
        lm: VideoLM,
        *,
        text: str,
        context_text: str,
        tie_margin: float = 0.0,
        reduction: Reduction = "sum",
        batch_size: int = 16,
        forward_tokens: int | None = None,
        team: Team = ALONE,
    ) -> None:
        """Args:
            lm: the model that judges.
            text: what the judge is asked, with {question}.
            context_text: the same where there is a narrative, with {context} too.
            tie_margin: scores no further apart than this are a tie, nats.
            reduction: "mean" divides a score by the answer's number of tokens.
            batch_size: answers scored together.
            forward_tokens: the most tokens of a forward, padding included; None: any number.
            team: the workers that judge the same comparisons together.

        Raises:
            ValueError: a text lacks a placeholder or has an unknown one.
        """
        self._lm = lm
        self._text = checked(text, "question")
        self._context_text = checked(context_text, "context", "question")
        self._tie_margin = tie_margin
        self._reduction = reduction
        self._limits, self._team = Limits(batch_size, forward_tokens), team
        self._unsaid = set(lm.suppressed)

    def judge(self, comparisons: Sequence[Comparison]) -> list[Verdict | NoVerdict]:
        asked: dict[_Asked, tuple[Comparison, str]] = {}
        for each in comparisons:
            if not each.same:
                for answer in (each.answer_a, each.answer_b):
                    asked.setdefault(_key(each, answer), (each, answer))
        answers = {key: self._lm.response_ids(answer) for key, (_, answer) in asked.items()}
        sayable = [key for key, ids in answers.items() if self._unsaid.isdisjoint(ids)]
        prompts = self._prompts([asked[key][0] for key in sayable])
        totals = self._scores(prompts, [answers[key] for key in sayable])
        scores = dict(zip(sayable, totals, strict=True))
        return [EQUAL_ANSWERS if each.same else self._verdict(each, scores) for each in comparisons]

    def _prompts(self, comparisons: list[Comparison]) -> list[Prompt]:
        made: dict[_Asked, Prompt] = {}
        for each in comparisons:
            if (key := _key(each)) not in made:
                text = self._text if each.context is None else self._context_text
                filled = text.format(question=each.question, context=each.context)
                made[key] = self._lm.prompt(filled, each.frames)
        return [made[_key(each)] for each in comparisons]

    @torch.no_grad()
    def _scores(self, prompts: list[Prompt], answers: list[tuple[int, ...]]) -> list[float]:
        def score(batch: list[int]) -> Tensor:
            logprobs, mask = self._lm.logprobs([prompts[i] for i in batch], [answers[i] for i in batch])
            total = logprobs.double().sum(1)
            return total / mask.sum(1) if self._reduction == "mean" else total

        loads = self._lm.loads(prompts, answers)
        totals: list[float] = in_batches(score, loads, self._limits, self._team).tolist() if loads else []
        return totals

    def _verdict(self, comparison: Comparison, scores: dict[_Asked, float]) -> Verdict | NoVerdict:
        both = comparison.answer_a, comparison.answer_b
        score_a, score_b = (scores.get(_key(comparison, answer), math.nan) for answer in both)
        for answer, score in zip(both, (score_a, score_b), strict=True):
            if not math.isfinite(score):
                return NoVerdict(
                    f"the judge has no finite log-probability for the answer {answer!r}: it holds a token that the "
                    "judge cannot say, or the judge's numbers overflow"
                )
        difference = score_a - score_b
        tie = abs(difference) <= self._tie_margin
        return Verdict(_sigmoid(difference), "tie" if tie else _better(difference), score_a, score_b)


class VerdictJudge:
    """Shows the judge both answers and reads how likely it says A and how likely B as its next token, in both orders.

    p_a is the mean of both orders, each renormalised over the two letters. Orders that disagree are a tie that is
    marked inconsistent; p_a stays, so that the averaged choice can be measured too.
    """

    def __init__(
        self,
        lm: VideoLM,
        *,
        text: str,
        context_text: str,
        tie_margin: float = 0.0,
        min_choice_mass: float = 0.2,
        batch_size: int = 16,
        forward_tokens: int | None = None,
        choices: tuple[str, str] = ("A", "B"),
        team: Team = ALONE,
    ) -> None:
        """Args:
            lm: the model that judges.
            text: what the judge is asked, with {question}, {a} (shown first) and {b}.
            context_text: the same where there is a narrative, with {context} too.
            tie_margin: log-odds of p_a no larger than this are a tie, nats.
            min_choice_mass: the least that the probabilities of the two letters must sum to, in either order.
            batch_size: prompts a forward.
            forward_tokens: the most tokens of a forward, padding included; None: any number.
            choices: the replies that the texts ask for, when the answer shown first is better and when the second is.
            team: the workers that judge the same comparisons together.

        Raises:
            ValueError: a text lacks a placeholder or has an unknown one, or a choice is not one token of this model.
        """
        self._lm = lm
        self._text = checked(text, "question", "a", "b")
        self._context_text = checked(context_text, "context", "question", "a", "b")
        self._tie_share = _sigmoid(tie_margin) - 0.5
        self._min_choice_mass = min_choice_mass
        self._limits, self._team = Limits(batch_size, forward_tokens), team
        self._choices = [_choice_token(lm, word) for word in choices]
        self._words = " and ".join(choices)

    def judge(self, comparisons: Sequence[Comparison]) -> list[Verdict | NoVerdict]:
        asked = [each for each in comparisons if not each.same]
        prompts = [self._prompt(each, each.answer_a, each.answer_b) for each in asked]
        prompts += [self._prompt(each, each.answer_b, each.answer_a) for each in asked]
        letters = self._letters(prompts)
        orders = zip(letters[: len(asked)], letters[len(asked) :], strict=True)
        return [EQUAL_ANSWERS if each.same else self._verdict(*next(orders)) for each in comparisons]

    def _prompt(self, comparison: Comparison, first: str, second: str) -> Prompt:
        text = self._text if comparison.context is None else self._context_text
        filled = text.format(question=comparison.question, context=comparison.context, a=first, b=second)
        return self._lm.prompt(filled, comparison.frames)

    @torch.no_grad()
    def _letters(self, prompts: list[Prompt]) -> list[list[float]]:
        """Log-probability of either choice as the token after each prompt."""

        def read(batch: list[int]) -> Tensor:
            # The response is there only so that the state before it is the one that predicts the letter.
            hidden = self._lm.hidden([prompts[i] for i in batch], [self._choices[:1]] * len(batch))
            return self._lm.logits(hidden.before_response[:, 0]).double().log_softmax(-1)[:, self._choices]

        loads = self._lm.loads(prompts, [self._choices[:1]] * len(prompts))
        letters: list[list[float]] = in_batches(read, loads, self._limits, self._team).tolist() if loads else []
        return letters

    def _verdict(self, a_first: list[float], a_second: list[float]) -> Verdict | NoVerdict:
        masses = [math.exp(first) + math.exp(second) for first, second in (a_first, a_second)]
        if not all(mass >= self._min_choice_mass for mass in masses):  # so NaN fails too
            return NoVerdict(
                f"the judge answers nonsense: {self._words} together have probability "
                f"{min(masses):.3g} as its reply, below min_choice_mass {self._min_choice_mass:g}"
            )
        p_first, p_second = _sigmoid(a_first[0] - a_first[1]), _sigmoid(a_second[1] - a_second[0])
        p_a = (p_first + p_second) / 2
        consistent = (p_first - 0.5) * (p_second - 0.5) > 0
        tie = not consistent or abs(p_a - 0.5) <= self._tie_share
        return Verdict(
            p_a=p_a,
            preferred="tie" if tie else _better(p_a - 0.5),
            score_a=(a_first[0] + a_second[1]) / 2,
            score_b=(a_first[1] + a_second[0]) / 2,
            p_a_first=p_first,
            p_a_second=p_second,
            consistent=consistent,
        )


def _key(comparison: Comparison, answer: str = "") -> _Asked:
    return comparison.question, comparison.context, id(comparison.frames), answer


def _better(difference: float) -> Preferred:
    return "a" if difference > 0 else "b"


def _choice_token(lm: VideoLM, word: str) -> int:
    *ids, _ = lm.response_ids(word)  # with the space before it, where the model answers with one
    if len(ids) != 1 or ids[0] in lm.suppressed or ids[0] == lm.tokenizer.unk_token_id:
        raise ValueError(
            f"The choice word {word!r} is not one ordinary token of this judge (it would reply with {ids}), so a "
            "verdict cannot be read from its next token. Use method 'likelihood', or another judge."
        )
    return int(ids[0])


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
