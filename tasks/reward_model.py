"""Stage `reward_model`: a reward adapter and head on the SFT model, trained on one arm's preferences."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from models.settings import RewardSettings
from storage.lake import Lake
from tasks.decided import by_content, pairs_to_learn
from tasks.model_ref import ModelRef
from tasks.stage import RunContext, Stage, StageRef, StageResult
from tasks.training import LakeJournal, Questions, Trainer, Training, train


class RewardConfig(BaseModel):
    """What the reward model sees and how it learns."""

    model_config = ConfigDict(extra="forbid")

    frame_set: str = Field("policy", description="Frame set that the reward model is shown.")
    split: str = Field("rl", description="Split of the instructions that the preferences are about.")
    training: RewardSettings = Field(RewardSettings(), description="Form of the reward, adapter, steps and rates.")


@dataclass(frozen=True)
class RewardTraining(Training):
    """Training on preferences."""

    preferences: StageRef


def reward_model(
    ctx: RunContext,
    config: RewardConfig,
    preferences: StageResult,
    instructions: StageResult,
    tokens: StageResult,
    model: ModelRef,
    arm: str,
) -> StageResult:
    """Train a reward model on the preferences of an arm; ties teach it nothing and are left out.

    The stage is named by the decided labels and not by who gave them: where a new judge or prompt moved no label, the
    model that was trained on the same labels is used.

    Raises:
        ValueError: there is no decided preference.
        models.training.TrainingError: training diverged or a canary failed.
    """
    stage = Stage(
        name="reward_model",
        table="checkpoints",
        config={**config.model_dump(mode="json"), "arm": arm},
        inputs=(by_content(ctx.lake, preferences.ref), instructions.ref, tokens.ref, *model.stages),
        model=model.identity,
        prompts={"reward": config.training.form.prompt},
        seed=ctx.seed,
        shard_size=1,
        label=f"reward_model {arm}",
    )
    subject = (arm, model, tokens, instructions, config)
    training = RewardTraining.of(ctx, stage, "reward", *subject, preferences=preferences.ref)
    settings = config.training
    return train(ctx, stage, training, TrainRewardModel, settings.steps, settings.save_every)


class TrainRewardModel(Trainer):
    """Trains in a worker process."""

    training: RewardTraining

    def train(self, lake: Lake) -> tuple[int, str, dict[str, float]]:
        from models.canaries import check_adapter
        from models.reward_model import ADAPTER, train_reward_model

        training, config = self.training, self.training.config
        lm = training.model.load(lake)
        probe = Questions(lake, training, config.split, config.frame_set, lm).probe(lambda row: str(row["question"]))
        kept, held = pairs_to_learn(lake, training, training.preferences, config.training.held_out, lm)
        reward, metrics = train_reward_model(
            lm, kept, held, config.training, training.seed, LakeJournal(lake, training)
        )
        checks = check_adapter(lm, ADAPTER, probe)
        blob = self.kept(lake, lambda folder: reward.save(folder, base=training.model.label))
        return config.training.steps, blob, {"pairs": float(len(kept)), **metrics, **checks}
