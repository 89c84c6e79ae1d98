"""Stage `sft`: supervised fine-tuning of an adapter on instructions with answers; later stages merge it in."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from models.settings import SftSettings
from storage.lake import Lake
from tasks.model_ref import ModelRef
from tasks.stage import RunContext, Stage, StageResult
from tasks.training import Lazy, Questions, Trainer, Training, train


class SftConfig(BaseModel):
    """What is learned and how."""

    model_config = ConfigDict(extra="forbid")

    split: str = Field("sft", description="Split of the instructions to learn from; each needs an answer.")
    frame_set: str = Field("policy", description="Frame set that the model is shown.")
    training: SftSettings = Field(SftSettings(), description="Adapter, steps and rates.")


def sft(
    ctx: RunContext, config: SftConfig, instructions: StageResult, tokens: StageResult, model: ModelRef
) -> StageResult:
    """Train a LoRA adapter on the answers of a split.

    Raises:
        ValueError: an instruction of the split has no answer, or there is none.
        models.training.TrainingError: training diverged or a canary failed.
    """
    stage = Stage(
        name="sft",
        table="checkpoints",
        config=config.model_dump(mode="json"),
        inputs=(instructions.ref, tokens.ref, *model.stages),
        model=model.identity,
        prompts={},
        seed=ctx.seed,
        shard_size=1,
    )
    training = Training.of(ctx, stage, "sft", None, model, tokens, instructions, config)
    settings = config.training
    return train(ctx, stage, training, TrainSft, settings.steps, settings.save_every)


class TrainSft(Trainer):
    """Trains in a worker process."""

    def train(self, lake: Lake) -> tuple[int, str, dict[str, float]]:
        from models.canaries import check_adapter, check_blank
        from models.sft import ADAPTER, Example, train_sft

        training, config = self.training, self.training.config
        lm = self.model(lake)
        questions = Questions(lake, training, config.split, config.frame_set, lm)
        silent = [row["item_id"] for row in questions.rows if row["answer"] is None]
        if silent:
            raise ValueError(f"{len(silent)} instructions of split {config.split!r} have no answer, first {silent[0]}.")
        questions.fit(lambda row: len(lm.response_ids(row["answer"])))
        probe = questions.probe(lambda row: str(row["answer"]))
        examples = Lazy(questions.rows, lambda row: Example(questions.prompt(row), lm.response_ids(row["answer"])))
        self.learned_from = questions.rows
        loss = train_sft(lm, examples, config.training, training.seed, self.journal(lake), self.team)
        longest = max(map(len, probe.responses))
        checks = check_adapter(lm, ADAPTER, probe) | check_blank(lm, probe, longest)
        blob = self.kept(lake, lambda folder: lm.save_adapter(ADAPTER, folder, base=training.model.label))
        return config.training.steps, blob, {"loss": loss, **checks}
