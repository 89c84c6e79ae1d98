"""Stage `policy` by groups: the SFT model learns from how its answers to one question compare with each other.

Route `grpo` compares them by an arm's reward model. Route `grpo_rank` (Oracle-RLAIF) lets a ranker order them while the
policy learns: no reward model, no critic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.rankings import Group
from models.settings import GrpoSettings
from models.slots import SlotVocabulary
from storage.lake import Lake
from tasks.judge_prompts import RankPrompts
from tasks.model_ref import ModelRef
from tasks.narratives import Narratives
from tasks.policy import OnPolicyTrainer, PolicyTraining, learned_config, train_policy
from tasks.preferences import PreferencesConfig
from tasks.rankings import RankingsConfig, RankSettings, new_ranker
from tasks.reward_model import RewardSource
from tasks.segments import Segment
from tasks.stage import RunContext, Stage, StageRef, StageResult
from tasks.tokens import MissingTokensError, VisualTokens
from tasks.training import Lazy, Questions

if TYPE_CHECKING:
    from models.grpo import Feedback
    from models.training import Journal
    from models.video_lm import VideoLM


class GrpoConfig(BaseModel):
    """What the policy is asked and how it learns from groups of its answers."""

    model_config = ConfigDict(extra="forbid")

    split: str = Field(
        default="rl", description="Split of the instructions to answer; their own answers are not learned from."
    )
    frame_set: str = Field(default="policy", description="Frame set that the policy is shown.")
    training: GrpoSettings = Field(default=GrpoSettings(), description="Rollouts, rates and what an advantage is.")
    ranker: Literal["tournament", "listwise", "truth"] = Field(
        default="tournament",
        description="Route grpo_rank: tournament: the arm's judge compares every two answers; listwise: the judge's "
        "model orders them in one prompt; truth: the true answers, an upper bound and no AI feedback.",
    )
    prompts: RankPrompts = Field(default=RankPrompts(), description="Ranker listwise: what the labeler is asked.")
    monitor: SlotVocabulary | None = Field(
        default=None,
        description="Words by which rollouts are measured against the true answers, for the curves; also what "
        "ranker truth goes by (null: exact match).",
    )

    def ranking(self, judging: PreferencesConfig) -> RankingsConfig:
        """How answers are put in order by the judge of an arm."""
        seen: dict[str, Any] = (
            {} if self.ranker == "truth" else {"frame_set": judging.frame_set, "narrative": judging.narrative}
        )
        return RankingsConfig(method=self.ranker, judging=judging, prompts=self.prompts, slots=self.monitor, **seen)


@dataclass(frozen=True)
class GroupTraining(PolicyTraining):
    """Training on groups.

    Attributes:
        reward: the reward model that scores them, or None.
        ranking: who orders them, or None.
        captions: the narratives that the ranker reads, or None.
    """

    reward: RewardSource | None = None
    ranking: RankSettings | None = None
    captions: StageRef | None = None


def policy_by_rewards(
    ctx: RunContext,
    config: GrpoConfig,
    reward: RewardSource,
    instructions: StageResult,
    tokens: StageResult,
    model: ModelRef,
    arm: str,
    iterations: range | None = None,
    before: Sequence[StageResult] = (),
) -> StageResult:
    """Train the policy of an arm with GRPO against its reward model. Arguments and errors as of tasks.policy.policy."""
    segment = Segment.of(config.training.iterations, iterations, before)
    name, decisive = segment.name(arm), {"route": "grpo", **segment.decisive}
    inputs = (*reward.inputs, *segment.inputs)
    stage = _stage(ctx, config, decisive, inputs, instructions, tokens, model, name)
    subject = (name, model, tokens, instructions, config)
    training = GroupTraining.of(ctx, stage, "policy", *subject, segment=segment, reward=reward)
    return train_policy(ctx, stage, training, TrainGroups, config.training, arm)


def policy_by_ranks(
    ctx: RunContext,
    config: GrpoConfig,
    judging: PreferencesConfig,
    labeler: ModelRef,
    shown: StageResult,
    captions: StageResult,
    instructions: StageResult,
    tokens: StageResult,
    model: ModelRef,
    arm: str,
) -> StageResult:
    """Train the policy of an arm with GRPO_rank: `labeler` orders its answers as the arm's `judging` says.

    Args:
        ctx: the run.
        config: how it learns.
        judging: how the arm judges; its frame set and whether it reads the narrative hold for the ranker.
        labeler: the model that orders.
        shown: the labeler's visual tokens.
        captions: the narratives.
        instructions: the questions.
        tokens: the visual tokens of `model`.
        model: the model to begin with.
        arm: what the rows are called.

    Raises:
        ValueError: the split holds no usable instruction.
        models.training.TrainingError: training diverged, no group could be ranked, or a canary failed.
    """
    ranking, by_truth = config.ranking(judging), config.ranker == "truth"
    narrated = captions.ref if ranking.narrative else None
    inputs = () if by_truth else (shown.ref, *([narrated] if narrated else []))
    decisive = {
        "route": "grpo_rank",
        "ranking": ranking.decisive(),
        "ranked_by": None if by_truth else labeler.identity,
    }
    stage = _stage(ctx, config, decisive, inputs, instructions, tokens, model, arm, ranking.asked())
    settings = RankSettings(
        ctx.lake_root,
        shown.ref,
        None if by_truth else labeler,
        ranking,
        arm,
        truth=instructions.ref if by_truth else None,
    )
    subject = (arm, model, tokens, instructions, config)
    segment = Segment.of(config.training.iterations)
    training = GroupTraining.of(ctx, stage, "policy", *subject, segment=segment, ranking=settings, captions=narrated)
    return train_policy(ctx, stage, training, TrainGroups, config.training, arm)


def _stage(
    ctx: RunContext,
    config: GrpoConfig,
    decisive: dict[str, Any],
    inputs: Sequence[StageRef],
    instructions: StageResult,
    tokens: StageResult,
    model: ModelRef,
    arm: str,
    prompts: dict[str, str] | None = None,
) -> Stage:
    # What the ranker is asked, and which, stands in `decisive` and in the prompts, where it is used at all.
    by_ranks = ("rank_mode", "dcg", "bound", "standardise")
    other_route = ("advantage", "unfinished_penalty") if decisive["route"] == "grpo_rank" else by_ranks
    own = learned_config(config, unused=("ranker", "prompts"), unused_training=other_route)
    return Stage(
        name="policy",
        table="checkpoints",
        config={**own, **decisive, "arm": arm},
        inputs=(*inputs, instructions.ref, tokens.ref, *model.stages),
        model=model.identity,
        prompts=prompts or {},
        seed=ctx.seed,
        shard_size=1,
        label=f"policy {arm}",
    )


class TrainGroups(OnPolicyTrainer):
    """GRPO by a reward model, or by a ranker."""

    training: GroupTraining

    def learn(self, lake: Lake, lm: VideoLM, questions: Questions, journal: Journal) -> None:
        from models.grpo import train_grpo

        training = self.training
        feedback = self._feedback(lake, lm, questions)
        self.learned_from = questions.rows
        prompts = Lazy(questions.rows, questions.prompt)
        how = (training.config.training, training.seed, journal, self.truth(questions), self.iterations)
        train_grpo(lm, feedback, prompts, *how, self.team)

    def _feedback(self, lake: Lake, lm: VideoLM, questions: Questions) -> Feedback:
        from models.grpo import RankFeedback, RewardFeedback

        training, settings = self.training, self.training.config.training
        if training.ranking is not None:
            groups = Groups(lake, questions.rows, training.ranking, training.captions)
            return RankFeedback(new_ranker(lake, training.ranking, self.team), groups.of, settings)
        assert training.reward is not None
        longest = settings.sampling.max_new_tokens
        scorer = training.reward.scorer(lake, lm, training.model, questions, longest, self.team)
        return RewardFeedback(scorer, settings, self.team)


class Groups:
    """What the ranker is asked about the answers to a question."""

    def __init__(
        self, lake: Lake, questions: Sequence[dict[str, Any]], ranking: RankSettings, captions: StageRef | None
    ) -> None:
        """Args:
        lake: the run's.
        questions: item_id, video and question of each, by their numbers.
        ranking: who orders.
        captions: the narratives that it reads; None: it reads none.
        """
        self._questions = questions
        self._frame_set = ranking.config.frame_set
        self._shown = None if ranking.truth else VisualTokens(lake, ranking.shown)
        self._narratives = None if captions is None else Narratives(lake, captions)

    def of(self, number: int, answers: tuple[str, ...]) -> Group | str:
        """The group of a question's answers, or why it cannot be asked about."""
        asked = self._questions[number]
        narrative = None
        if self._narratives is not None:
            narrative, fault = self._narratives.of(asked["item_id"], asked["video"])
            if narrative is None:
                return f"no narrative of video {asked['video']} for the ranker: {fault}"
        try:
            frames = self._shown and self._shown.frames(asked["video"], self._frame_set)
        except MissingTokensError as error:
            return str(error)
        return Group(asked["item_id"], asked["question"], frames, answers, narrative)
