"""Stage `reward_model`: a reward adapter and head on the SFT model, trained on one arm's preferences."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from models.settings import RewardSettings
from storage.lake import Lake
from tasks.model_ref import ModelRef
from tasks.stage import RunContext, Stage, StageRef, StageResult
from tasks.tokens import VisualTokens
from tasks.training import LakeJournal, Lazy, Questions, Trainer, Training, train

if TYPE_CHECKING:
    from models.reward_model import Pair
    from models.video_lm import VideoLM


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
    labels = replace(preferences.ref, content=_digest(decided(ctx.lake, preferences.ref)))
    stage = Stage(
        name="reward_model",
        table="checkpoints",
        config={**config.model_dump(mode="json"), "arm": arm},
        inputs=(labels, instructions.ref, tokens.ref, *model.stages),
        model=model.identity,
        prompts={"reward": config.training.form.prompt},
        seed=ctx.seed,
        shard_size=1,
        label=f"reward_model {arm}",
    )
    training = RewardTraining(
        ctx.lake_root,
        ctx.run,
        stage.key,
        "reward",
        arm,
        model,
        tokens.ref,
        instructions.ref,
        config,
        ctx.seed,
        preferences.ref,
    )
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
        rows = decided(lake, training.preferences)
        probe = Questions(lake, training, config.split, config.frame_set, lm).probe(lambda row: str(row["question"]))
        kept = [row for row in rows if not is_held_out(row["video"], config.training.held_out)]
        held = [row for row in rows if is_held_out(row["video"], config.training.held_out)]
        if not kept:
            raise ValueError("No decided preference is left to train on; look at ties and quarantines of preferences.")
        tokens = VisualTokens(lake, training.tokens)
        reward, metrics = train_reward_model(
            lm,
            Lazy(kept, partial(_pair, lm, tokens, config.frame_set)),
            Lazy(held, partial(_pair, lm, tokens, config.frame_set)),
            config.training,
            training.seed,
            LakeJournal(lake, training),
        )
        checks = check_adapter(lm, ADAPTER, probe)
        with tempfile.TemporaryDirectory() as folder:
            reward.save(Path(folder), base=training.model.label)
            blob = lake.blobs.put_folder(Path(folder))
        return config.training.steps, blob, {"pairs": float(len(kept)), **metrics, **checks}


def decided(lake: Lake, preferences: StageRef) -> list[dict[str, Any]]:
    """The preferences that are not ties, in a fixed order."""
    columns = ["status", "video", "question", "preferred", "answer_a", "answer_b"]
    rows = lake.table(preferences.table).read(preferences.key, columns=columns).to_pylist()
    return [row for row in rows if row["status"] == "ok" and row["preferred"] in ("a", "b")]


def _digest(labels: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(labels, sort_keys=True).encode()).hexdigest()[:16]


def is_held_out(video: str, fraction: float) -> bool:
    """Whether a video's pairs are kept for measuring: by a hash of its name, so that new videos move no old one."""
    return int(hashlib.sha256(video.encode()).hexdigest()[:8], 16) < fraction * 16**8


def _pair(lm: VideoLM, tokens: VisualTokens, frame_set: str, row: dict[str, Any]) -> Pair:
    from models.reward_model import Pair

    answers = {"a": lm.response_ids(row["answer_a"]), "b": lm.response_ids(row["answer_b"])}
    other = "b" if row["preferred"] == "a" else "a"
    prompt = lm.prompt(row["question"], tokens.frames(row["video"], frame_set))
    return Pair(prompt, answers[row["preferred"]], answers[other])
