"""On-policy learning from groups: each answer is compared with the others to its question, by rewards or by ranks.

No critic and, by ranks, no reward model: GRPO (https://arxiv.org/abs/2402.03300) and its kin where a reward model
scores, GRPO_rank (Oracle-RLAIF, https://arxiv.org/abs/2510.02561) where an oracle only orders. The KL penalty is part
of the loss.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from models.advantages import group_advantages, kl_per_token, penalised
from models.losses import policy_loss
from models.on_policy import (
    POLICY,
    Sampled,
    Truth,
    batch_of,
    lengths_and_ends,
    limits_of,
    minibatches,
    sample,
    train_on_policy,
)
from models.parallel import ALONE, Team
from models.rank_advantages import policy_ranks, rank_advantages
from models.rankings import Group, Ranker, Ranking
from models.reductions import Reduction
from models.reward_model import Scorer
from models.sequences import Prompt, Response
from models.settings import GrpoSettings
from models.training import Journal, Metrics, Trainer, TrainingError, mean_metrics
from models.video_lm import VideoLM

logger = logging.getLogger(__name__)

REFERENCE = "reference"


@dataclass(frozen=True)
class Judged:
    """What a feedback makes of N groups of G answers.

    Attributes:
        advantages: [N, G]; 0 where nothing is to be learned.
        dropped: why groups could not be judged, one reason for each; their advantages are 0.
        metrics: for the curves.
    """

    advantages: Tensor
    dropped: list[str]
    metrics: Metrics


class Feedback(Protocol):
    """Turns groups of answers into advantages."""

    def judge(
        self,
        numbers: Sequence[int],
        prompts: Sequence[Prompt],
        responses: Sequence[Response],
        logprobs: Tensor,
        seed: int,
    ) -> Judged:
        """Args:
        numbers: N questions.
        prompts: each question's prompt G times, B = N x G.
        responses: B answers, each question's side by side.
        logprobs: the answers' mean log-probabilities [N, G] under the policy.
        seed: for rankers that draw.
        """
        ...


class RewardFeedback:
    """A reward model scores the answers; what counts is the distance to the group."""

    def __init__(self, scorer: Scorer, settings: GrpoSettings, team: Team = ALONE) -> None:
        self._scorer, self._settings, self._team = scorer, settings, team

    def judge(
        self,
        numbers: Sequence[int],
        prompts: Sequence[Prompt],  # noqa: ARG002 - a reward model reads what it was trained to read
        responses: Sequence[Response],
        logprobs: Tensor,  # noqa: ARG002 - rewards do not depend on the policy
        seed: int,  # noqa: ARG002 - nothing is drawn
    ) -> Judged:
        settings = self._settings
        read = self._scorer.read(numbers, settings.samples)
        raw = self._scorer.score(read, responses, limits_of(settings), self._team)
        scores = penalised(
            raw,
            *lengths_and_ends(responses, raw.device),
            limit=settings.sampling.max_new_tokens,
            length_penalty=0.0,
            unfinished_penalty=settings.unfinished_penalty,
        ).view(len(numbers), -1)
        curves = {"reward": float(scores.mean()), "reward_raw": float(raw.mean())}
        return Judged(group_advantages(scores, settings.advantage), [], curves)


# A question's number and its answers -> what a ranker is asked, or why it cannot be.
GroupOf = Callable[[int, tuple[str, ...]], Group | str]


class RankFeedback:
    """A ranker orders the answers; nothing but their ranks is learned from.

    A group with a cut answer is dropped, since its end is not known, and so is one that the ranker gives no order of:
    a random one in its place would be noise.
    """

    def __init__(self, ranker: Ranker, group_of: GroupOf, settings: GrpoSettings) -> None:
        self._ranker, self._group_of, self._settings = ranker, group_of, settings

    def judge(
        self,
        numbers: Sequence[int],
        prompts: Sequence[Prompt],  # noqa: ARG002 - a ranker has eyes of its own
        responses: Sequence[Response],
        logprobs: Tensor,
        seed: int,
    ) -> Judged:
        size = logprobs.shape[1]
        groups = [responses[at : at + size] for at in range(0, len(responses), size)]
        asked = [self._asked(number, group) for number, group in zip(numbers, groups, strict=True)]
        told = iter(self._ranker.rank([each for each in asked if isinstance(each, Group)], seed))
        ranked = [next(told) if isinstance(each, Group) else each for each in asked]
        dropped = [each if isinstance(each, str) else each.reason for each in ranked if not isinstance(each, Ranking)]
        # A dropped group ties with itself, and so has no advantage.
        level = tuple((size - 1) / 2 for _ in range(size))
        ranks = torch.tensor(
            [each.ranks if isinstance(each, Ranking) else level for each in ranked],
            dtype=logprobs.dtype,
            device=logprobs.device,
        )
        predicted = torch.where((ranks == ranks[:, :1]).all(1, keepdim=True), ranks, policy_ranks(logprobs))
        settings = self._settings
        advantages = rank_advantages(
            ranks,
            predicted,
            mode=settings.rank_mode,
            dcg=settings.dcg,
            bound=settings.bound,
            standardise=settings.standardise,
        )
        return Judged(advantages, dropped, {"rank_error": float((ranks - predicted).abs().mean())})

    def _asked(self, number: int, group: Sequence[Response]) -> Group | str:
        if not all(response.finished for response in group):
            return "an answer was cut by the token limit"
        return self._group_of(number, tuple(response.text for response in group))


@dataclass(frozen=True)
class GroupRollout(Sampled):
    """Sampled answers with their advantages.

    Attributes:
        advantages: [B].
        taught: rows with something to learn: those of groups with any contrast.
    """

    advantages: Tensor
    taught: list[int]


class Grpo:
    """The algorithm: `rollout` samples and compares, `update` learns.

    Groups without contrast (all answers equal, say) are left out of the update: only the KL penalty would move there.
    """

    def __init__(
        self,
        lm: VideoLM,
        feedback: Feedback,
        settings: GrpoSettings,
        questions: int,
        seed: int,
        team: Team = ALONE,
    ) -> None:
        """`questions`: how many there are in all; with `reference` "epoch" each pass over them begins a new one."""
        self.lm, self.feedback, self.settings = lm, feedback, settings
        self._pass_length = questions
        self._told: set[str] = set()
        lm.add_adapter(POLICY, settings.lora, seed)
        kept = {}
        if settings.reference == "epoch":
            lm.add_adapter(REFERENCE, settings.lora, seed)  # B is zero: at first it is the model before training
            kept = {REFERENCE: lm.adapter_parameters(REFERENCE)}
        learns, rates = {POLICY: lm.adapter_parameters(POLICY)}, {POLICY: settings.rate}
        meters = {POLICY: lm.meter}
        self.trainer = Trainer(learns, rates, settings.max_norm, kept=kept, meters=meters, team=team)

    @torch.no_grad()
    def rollout(self, prompts: Sequence[Prompt], seed: int, numbers: Sequence[int]) -> tuple[GroupRollout, Metrics]:
        """Sample answers and compare each with its group.

        Raises:
            TrainingError: sampling and training disagree, too many answers were cut, or no group could be judged.
        """
        if self.settings.reference == "epoch" and self._begins_pass():
            self.lm.copy_adapter(POLICY, REFERENCE)
        held_to = REFERENCE if self.settings.reference == "epoch" else None
        sampled, metrics = sample(self.lm, numbers, prompts, self.settings, seed, held_to, self.trainer.team)
        mean_logprobs = (sampled.old.sum(1) / sampled.mask.sum(1)).view(len(prompts), -1)
        judged = self.feedback.judge(numbers, sampled.prompts, sampled.responses, mean_logprobs, seed)
        self._tell(judged.dropped)
        if len(judged.dropped) == len(prompts):
            raise TrainingError(
                f"No group of a rollout could be judged, the first because: {judged.dropped[0]}. Where answers were "
                "cut, raise training.sampling.max_new_tokens; where narratives are missing, look at the captions; else "
                "ask more prompts a rollout."
            )
        contrast = (judged.advantages != 0).any(1)
        metrics |= judged.metrics | {
            "contrast_share": float(contrast.float().mean()),
            "dropped_share": len(judged.dropped) / len(prompts),
        }
        taught = contrast.repeat_interleave(self.settings.samples).nonzero()[:, 0].tolist()
        advantages = judged.advantages.reshape(-1).to(sampled.old.dtype)
        return GroupRollout(**vars(sampled), advantages=advantages, taught=taught), metrics

    def _tell(self, dropped: Sequence[str]) -> None:
        """Logs each reason when it comes for the first time; the curve dropped_share tells how often."""
        for reason in dropped:
            if reason not in self._told:
                self._told.add(reason)
                logger.warning("a group is not learned from: %s", reason)

    def _begins_pass(self) -> bool:
        """Whether this rollout holds the first question of another pass over all of them."""
        asked = self.trainer.step * self.settings.prompts
        return self.trainer.step > 0 and -asked % self._pass_length < self.settings.prompts

    def update(self, rollout: GroupRollout, rng_seed: int) -> Metrics:
        """Several epochs of clipped steps on one rollout; nothing where no group has any contrast."""
        if not rollout.taught:
            return {"policy_loss": 0.0, "kl_loss": 0.0, "clip_fraction": 0.0, "gradient_norm": 0.0}
        chosen = minibatches(rollout.taught, self.settings, rng_seed, self.trainer.step)
        return mean_metrics([self._step(rollout, each) for each in chosen])

    def begin(self) -> None:
        """Nothing is remembered of a feedback: an answer is compared with those of its own rollout alone."""

    def _step(self, rollout: GroupRollout, chosen: list[int]) -> Metrics:
        reduction = Reduction(self.settings.reduction, length=self.settings.sampling.max_new_tokens)
        mask = rollout.mask[chosen]
        part = partial(self._part, rollout, replace(reduction, whole=reduction.count(mask)), float(mask.sum()))
        self.lm.use(POLICY)
        batch = batch_of(self.lm, chosen, self.settings.samples, rollout.prompts, rollout.responses)
        numbers = [rollout.numbers[i] for i in chosen]
        return self.trainer.update_in_parts(batch, part, limits_of(self.settings), POLICY, numbers)

    def _part(self, rollout: GroupRollout, share: Reduction, tokens: float, part: list[int]) -> tuple[Tensor, Metrics]:
        """A part's share of the loss of a step on `tokens`."""
        settings, temperature = self.settings, self.settings.sampling.temperature
        responses = [rollout.responses[i].ids for i in part]
        at = (part, slice(0, max(map(len, responses))))
        hidden = self.lm.hidden([rollout.prompts[i] for i in part], responses)
        new, mask = self.lm.logprobs_from(hidden, temperature=temperature)
        advantages = rollout.advantages[part][:, None].expand_as(new)
        surrogate, clipped = policy_loss(new, rollout.old[at], advantages, mask, settings.clip, share)
        kl = share(kl_per_token(new, rollout.reference[at], settings.kl_estimator), mask)
        loss = surrogate + settings.kl_coef * kl
        if settings.entropy_coef:
            spread = self.lm.entropies_from(hidden, temperature=temperature)
            loss = loss - settings.entropy_coef * share(spread, mask)
        weight = float(mask.sum()) / tokens
        return loss, {
            "policy_loss": surrogate.item(),
            "kl_loss": kl.item(),
            "clip_fraction": clipped.item() * weight,
        }


def train_grpo(
    lm: VideoLM,
    feedback: Feedback,
    prompts: Sequence[Prompt],
    settings: GrpoSettings,
    seed: int,
    journal: Journal,
    truth: Truth | None = None,
    iterations: range | None = None,
    team: Team = ALONE,
) -> Grpo:
    """Train adapter "policy" of `lm` on the prompts; arguments as of models.ppo.train_ppo."""
    grpo = Grpo(lm, feedback, settings, len(prompts), seed, team)
    train_on_policy(grpo, prompts, settings, seed, journal, truth, iterations)
    return grpo
