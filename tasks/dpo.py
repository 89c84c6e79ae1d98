"""Stage `policy` by DPO: it learns straight from one arm's preferences, without a reward model."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.settings import DpoSettings
from storage.lake import Lake
from tasks.candidates import CandidatesConfig
from tasks.captions import CaptionsConfig
from tasks.decided import by_content, decided, longer_answer, pairs_to_learn
from tasks.fanout import derive_seed
from tasks.fitting import without_faults
from tasks.model_ref import ModelRef
from tasks.stage import RunContext, Stage, StageRef, StageResult
from tasks.training import PROBED, Questions, Trainer, Training, train


class DpoConfig(BaseModel):
    """What the policy is shown and how it learns."""

    model_config = ConfigDict(extra="forbid")

    frame_set: str = Field(default="policy", description="Frame set that the policy is shown.")
    split: str = Field(default="rl", description="Split of the instructions that the preferences are about.")
    training: DpoSettings = Field(default=DpoSettings(), description="Adapter, steps and rates.")


class SelfDpoConfig(DpoConfig):
    """Self-retrospective DPO (https://arxiv.org/abs/2406.11280): rounds in which the policy judges its own answers."""

    rounds: int = Field(
        default=3, ge=1, description="Rounds; each goes on from the policy of the one before. Published: 9."
    )
    n: int | None = Field(
        default=None,
        ge=2,
        description="Answers sampled to each instruction in a round; null: candidates.n, and the first round then "
        "takes the answers that the other arms are judged by.",
    )
    narrative: CaptionsConfig = Field(
        default=CaptionsConfig(frame_set="policy"),
        description="How the policy writes the narrative that it judges by; from the second round on with "
        "prompts.refine (prompts.question_refine), which shows it the narrative of the round before.",
    )

    @field_validator("narrative")
    @classmethod
    def _each_clip_by_itself(cls, narrative: CaptionsConfig) -> CaptionsConfig:
        if narrative.mode != "independent":
            raise ValueError("mode must be independent: what a clip's caption depends on is the round before")
        return narrative

    def candidates(self, config: CandidatesConfig) -> CandidatesConfig:
        """How a round samples its answers, where the run samples by `config`."""
        return config if self.n is None else config.model_copy(update={"n": self.n})

    def learning(self) -> DpoConfig:
        """What decides the training of one round."""
        return DpoConfig(frame_set=self.frame_set, split=self.split, training=self.training)


def round_name(arm: str, number: int) -> str:
    """What a round of an arm is called in tables, in the way of an arm of its own."""
    return f"{arm}_round_{number}"


@dataclass(frozen=True)
class DpoTraining(Training):
    """Training of the policy on preferences."""

    preferences: StageRef


def policy_by_pairs(
    ctx: RunContext,
    config: DpoConfig,
    preferences: StageResult,
    instructions: StageResult,
    tokens: StageResult,
    model: ModelRef,
    arm: str,
) -> StageResult:
    """Train the policy of an arm on its decided preferences; `model` is where it starts and what it is held to.

    Like the reward model's, the stage is named by the decided labels and not by who gave them. Its seed depends on how
    many adapters are merged into the model, so that one training after the other does not begin in the same subspace.

    Raises:
        ValueError: there is no decided preference.
        models.training.TrainingError: training diverged or a canary failed.
    """
    seed = derive_seed(ctx.seed, "dpo", len(model.merged))
    stage = Stage(
        name="policy",
        table="checkpoints",
        config={**config.model_dump(mode="json"), "route": "dpo", "arm": arm},
        inputs=(by_content(ctx.lake, preferences.ref), instructions.ref, tokens.ref, *model.stages),
        model=model.identity,
        prompts={},
        seed=seed,
        shard_size=1,
        label=f"policy {arm}",
    )
    subject = (arm, model, tokens, instructions, config)
    training = DpoTraining.of(ctx, stage, "policy", *subject, preferences=preferences.ref)
    settings = config.training
    return train(ctx, stage, training, TrainDpo, settings.steps, settings.save_every)


class TrainDpo(Trainer):
    """Trains in a worker process."""

    training: DpoTraining

    def train(self, lake: Lake) -> tuple[int, str, dict[str, float]]:
        from models.canaries import check_adapter, check_blank
        from models.dpo import train_dpo
        from models.on_policy import POLICY

        training, config = self.training, self.training.config
        lm = self.model(lake)
        questions = Questions(lake, training, config.split, config.frame_set, lm)
        fit = questions.fit(lambda _: 1)  # For the canaries, whose answers take what room there is.
        probe = questions.probe(lambda row: str(row["question"]))
        pairs = without_faults(
            decided(lake, training.preferences),
            lambda pair: fit.fault(pair["question"], pair["video"], longer_answer(lm, pair)),
            "pairs",
        )
        kept, held = pairs_to_learn(pairs, config.training.held_out, lm, questions.prompt)
        self.learned_from = kept.rows
        metrics = train_dpo(lm, kept, held, config.training, training.seed, self.journal(lake), self.team)
        longest = max(len(kept[i].chosen) for i in range(min(PROBED, len(kept))))
        checks = check_adapter(lm, POLICY, probe) | check_blank(lm, probe, longest)
        blob = self.kept(lake, lambda folder: lm.save_adapter(POLICY, folder, base=training.model.label))
        return config.training.steps, blob, {"pairs": float(len(kept)), **metrics, **checks}
