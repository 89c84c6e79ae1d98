"""Stage `policy`: PPO of the SFT model against one arm's reward model."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from models.monitor_limits import ALARM
from models.settings import PolicySettings, PpoSettings
from models.slots import SlotVocabulary
from storage.lake import Lake
from tasks.journal import LakeJournal
from tasks.model_ref import ModelRef
from tasks.reward_model import RewardSource
from tasks.segments import Segment
from tasks.stage import RunContext, Stage, StageResult
from tasks.training import Lazy, Questions, Trainer, Training, train

if TYPE_CHECKING:
    from models.on_policy import Truth
    from models.training import Journal
    from models.video_lm import VideoLM


logger = logging.getLogger(__name__)


class PpoConfig(BaseModel):
    """What the policy is asked and how it learns."""

    model_config = ConfigDict(extra="forbid")

    split: str = Field("rl", description="Split of the instructions to answer; their own answers are not learned from.")
    frame_set: str = Field("policy", description="Frame set that the policy is shown.")
    training: PpoSettings = Field(PpoSettings(), description="Rollouts, rates and penalties.")
    monitor: SlotVocabulary | None = Field(
        None, description="Words by which rollouts are measured against the true answers, for the curves only."
    )


@dataclass(frozen=True)
class PolicyTraining(Training):
    """On-policy training.

    Attributes:
        segment: which of its iterations.
    """

    segment: Segment


@dataclass(frozen=True)
class PpoTraining(PolicyTraining):
    """Training against a reward model."""

    reward: RewardSource


def policy(
    ctx: RunContext,
    config: PpoConfig,
    reward: RewardSource,
    instructions: StageResult,
    tokens: StageResult,
    model: ModelRef,
    arm: str,
    iterations: range | None = None,
    before: Sequence[StageResult] = (),
) -> StageResult:
    """Train the policy of an arm.

    Args:
        ctx: the run.
        config: how it learns.
        reward: the reward model.
        instructions: the questions.
        tokens: the visual tokens of `model`.
        model: the model to begin with.
        arm: what the rows are called.
        iterations: those of the training that this stage makes; None: all.
        before: the stages that made the ones before them, in order, perhaps against other reward models. It goes on
            from the last one's state.

    Raises:
        ValueError: the split holds no usable instruction.
        models.training.TrainingError: training diverged, too many answers were cut, or a canary failed.
    """
    segment = Segment.of(config.training.iterations, iterations, before)
    name = segment.name(arm)
    stage = Stage(
        name="policy",
        table="checkpoints",
        config={**learned_config(config), **segment.decisive, "arm": name},
        inputs=(*reward.inputs, instructions.ref, tokens.ref, *model.stages, *segment.inputs),
        model=model.identity,
        prompts={},
        seed=ctx.seed,
        shard_size=1,
        label=f"policy {name}",
    )
    subject = (name, model, tokens, instructions, config)
    training = PpoTraining.of(ctx, stage, "policy", *subject, segment=segment, reward=reward)
    return train_policy(ctx, stage, training, TrainPpo, config.training, arm)


def train_policy(
    ctx: RunContext, stage: Stage, training: PolicyTraining, trainer: type, settings: PolicySettings, arm: str
) -> StageResult:
    """Run the stage of an on-policy training, and say which alarms rang in it.

    The curves of all segments of an arm are shown under its name.
    """
    about = (settings.iterations, settings.save_every, training.segment, f"policy {arm}")
    result = train(ctx, stage, training, trainer, *about)
    if not result.cached:
        for row in ctx.lake.table(result.table).read(result.key, ["final", "metrics"]).to_pylist():
            for name, count in json.loads(row["metrics"]).items() if row["final"] else ():
                if name.startswith(ALARM):
                    limit = name.removeprefix(ALARM)
                    logger.warning("%s: %s was passed in %d iterations; see its curves", stage.label, limit, count)
    return result


def learned_config(
    config: BaseModel, *, unused: Sequence[str] = (), unused_training: Sequence[str] = ()
) -> dict[str, Any]:
    """What of a policy's configuration enters its key: all but what is only watched, and what its route does not read.

    Args:
        config: of the stage.
        unused: names of it that the route does not read.
        unused_training: the same of its `training`.
    """
    training = {"monitors", *unused_training}
    return config.model_dump(
        mode="json", exclude={"training": training, "monitor": True, **dict.fromkeys(unused, True)}
    )


class OnPolicyTrainer(Trainer):
    """Trains a policy on its own answers, in a worker process.

    Its configuration has split, frame_set, training and monitor. The adapter is kept only where it is seen to work:
    switched on it changes answers, and so does the video.
    """

    training: PolicyTraining

    def train(self, lake: Lake) -> tuple[int, str, dict[str, float]]:
        from models.canaries import check_adapter, check_blank
        from models.on_policy import POLICY

        training, config = self.training, self.training.config
        lm = self.model(lake)
        questions = Questions(lake, training, config.split, config.frame_set, lm)
        questions.fit(lambda _: config.training.sampling.max_new_tokens)
        probe = questions.probe(lambda row: str(row["question"]))
        self.learn(lake, lm, questions, self.journal(lake, training.segment.begun))
        self.team.gather(None)  # the first worker has committed the curves
        checks = check_adapter(lm, POLICY, probe) | check_blank(lm, probe, config.training.sampling.max_new_tokens)
        blob = self.kept(lake, lambda folder: lm.save_adapter(POLICY, folder, base=training.model.label))
        return training.segment.until, blob, checks | _worst(lake, training)

    def state_to_go_on_from(self, lake: Lake) -> str | None:
        return None if self.training.segment.is_last else LakeJournal(lake, self.training).last_state()

    @property
    def iterations(self) -> range:
        """Those of the training that this stage makes."""
        return range(self.training.segment.begin, self.training.segment.until)

    @abstractmethod
    def learn(self, lake: Lake, lm: VideoLM, questions: Questions, journal: Journal) -> None:
        """Train adapter "policy" of `lm` on the questions."""

    def truth(self, questions: Questions) -> Truth | None:
        """What the rollouts are measured by, where it is known."""
        monitor = self.training.config.monitor
        return None if monitor is None else _Truth(questions.rows, monitor)


class TrainPpo(OnPolicyTrainer):
    """PPO against a reward model."""

    training: PpoTraining

    def learn(self, lake: Lake, lm: VideoLM, questions: Questions, journal: Journal) -> None:
        from models.ppo import train_ppo

        training = self.training
        longest = training.config.training.sampling.max_new_tokens
        scorer = training.reward.scorer(lake, lm, training.model, questions, longest, self.team)
        self.learned_from = questions.rows
        prompts = Lazy(questions.rows, questions.prompt)
        how = (training.config.training, training.seed, journal, self.truth(questions), self.iterations)
        train_ppo(lm, scorer, prompts, *how, self.team)


class _Truth:
    """The share of the true answer's facts that each rollout states; questions that cannot be scored count as 0."""

    def __init__(self, rows: list[dict[str, Any]], slots: SlotVocabulary) -> None:
        self._answers = [row["answer"] for row in rows]
        self._slots = slots
        self._scorable = [bool(answer and slots.parse(answer)) for answer in self._answers]

    def __call__(self, questions: Sequence[int], responses: Sequence[str]) -> list[float]:
        return [
            self._slots.score(self._answers[question], response) if self._scorable[question] else 0.0
            for question, response in zip(questions, responses, strict=True)
        ]


def _worst(lake: Lake, training: PolicyTraining) -> dict[str, float]:
    """The largest gap between sampling and training, and the largest share of cut answers, from the first iteration."""
    keys = [*(each.key for each in training.segment.before), training.key]
    rows = [row for key in keys for row in lake.table("metrics").read(key, ["name", "value"]).to_pylist()]
    names = {"rollout_gap": "rollout_trainer_gap", "unfinished_share": "unfinished_share"}
    worst = {shown: max(row["value"] for row in rows if row["name"] == name) for name, shown in names.items()}
    return worst | {name: float(count) for name, count in _alarms(rows).items()}


def _alarms(rows: list[dict[str, Any]]) -> Counter[str]:
    """In how many iterations each alarm rang."""
    return Counter(row["name"] for row in rows if row["name"].startswith(ALARM))
