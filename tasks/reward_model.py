"""Stage `reward_model`: a reward adapter and head on a frozen base, trained on one arm's preferences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from models.settings import RewardSettings
from models.slots import SlotVocabulary
from storage.lake import Lake
from tasks.decided import by_content, decided, in_order, longer_answer, pairs_to_learn
from tasks.fitting import Fit, without_faults
from tasks.grading import Grader, UnscorableError
from tasks.model_ref import ModelRef
from tasks.narratives import Narratives
from tasks.stage import RunContext, Stage, StageRef, StageResult
from tasks.tokens import VisualTokens
from tasks.training import Lazy, Questions, Trainer, Training, final_adapter, train

if TYPE_CHECKING:
    from models.batches import Limits
    from models.parallel import Team
    from models.reward_model import RewardModel, RewardPrompt, Scorer
    from models.video_lm import VideoLM


class RewardConfig(BaseModel):
    """What the reward model sees and how it learns."""

    model_config = ConfigDict(extra="forbid")

    frame_set: str = Field("policy", description="Frame set that the reward model is shown.")
    split: str = Field("rl", description="Split of the instructions that the preferences are about.")
    training: RewardSettings = Field(RewardSettings(), description="Form of the reward, adapter, steps and rates.")
    refresh_every: int = Field(
        0,
        ge=0,
        description="Iterations of the policy after which the reward model is trained anew, with labels of the "
        "policy's own answers added; 0: never. Routes ppo and grpo.",
    )
    monitor: SlotVocabulary | None = Field(
        None, description="Words by which held-out pairs are measured against the true answers, for the figures only."
    )

    @property
    def reads_narrative(self) -> bool:
        return self.training.form.rm_context == "narrative"

    def without_narrative(self) -> RewardConfig:
        """The same for an arm whose judge reads no narrative: its reward model then reads none either."""
        form = replace(self.training.form, rm_context="none")
        return self.model_copy(update={"training": replace(self.training, form=form)})


@dataclass(frozen=True)
class RewardTraining(Training):
    """Training on preferences.

    Attributes:
        preferences: the labels, all versions together.
        captions: the narratives that the reward model reads, or None.
    """

    preferences: tuple[StageRef, ...]
    captions: StageRef | None


def reward_model(
    ctx: RunContext,
    config: RewardConfig,
    preferences: Sequence[StageResult],
    captions: StageResult | None,
    instructions: StageResult,
    tokens: StageResult,
    model: ModelRef,
    arm: str,
) -> StageResult:
    """Train a reward model on the preferences of an arm; ties teach it nothing and are left out.

    The stage is named by the decided labels and not by who gave them: where a new judge or prompt moved no label, the
    model that was trained on the same labels is used.

    Args:
        ctx: the run.
        config: how it learns.
        preferences: the labels; of several versions all pairs are learned from, those that come twice twice.
        captions: the narratives; only a reward model that reads them needs them.
        instructions: the questions.
        tokens: visual tokens of `model`.
        model: the base.
        arm: what the rows are called.

    Raises:
        ValueError: there is no decided preference, or the narratives are missing.
        models.training.TrainingError: training diverged or a canary failed.
    """
    told = narratives_for(config, captions)
    stage = Stage(
        name="reward_model",
        table="checkpoints",
        config={**config.model_dump(mode="json", exclude={"monitor", "refresh_every"}), "arm": arm},
        inputs=(
            *(by_content(ctx.lake, each.ref) for each in preferences),
            *([told] if told else []),
            instructions.ref,
            tokens.ref,
            *model.stages,
        ),
        model=model.identity,
        prompts={"reward": config.training.form.prompt},
        seed=ctx.seed,
        shard_size=1,
        label=f"reward_model {arm}",
    )
    subject = (arm, model, tokens, instructions, config)
    labels = tuple(each.ref for each in preferences)
    training = RewardTraining.of(ctx, stage, "reward", *subject, preferences=labels, captions=told)
    settings = config.training
    return train(ctx, stage, training, TrainRewardModel, settings.steps, settings.save_every)


def narratives_for(config: RewardConfig, captions: StageResult | None) -> StageRef | None:
    """The narratives as an input of a stage, where the reward model reads them."""
    if not config.reads_narrative:
        return None
    if captions is None:
        raise ValueError("reward.training.form.rm_context is narrative, but no narratives were written for this arm.")
    return captions.ref


class TrainRewardModel(Trainer):
    """Trains in a worker process."""

    training: RewardTraining

    def train(self, lake: Lake) -> tuple[int, str, dict[str, float]]:
        from models.canaries import check_adapter
        from models.reward_model import ADAPTER
        from models.reward_training import measured, new_reward_model, score_pairs, train_reward_model

        training, config = self.training, self.training.config
        lm = self.model(lake)
        questions = Questions(lake, training, config.split, config.frame_set, lm)
        questions.fit(lambda _: 1)  # For the canaries, whose answers take what room there is.
        probe = questions.probe(lambda row: str(row["question"]))
        reward = new_reward_model(lm, config.training, training.seed)
        read = Reading(reward, questions.tokens, config.frame_set, Narratives(lake, training.captions))
        labelled = [row for each in training.preferences for row in decided(lake, each)]
        pairs = read.usable(labelled, "pairs", lambda pair: longer_answer(lm, pair))
        kept, held = pairs_to_learn(pairs, config.training.held_out, lm, read.prompt)
        self.learned_from = kept.rows
        train_reward_model(reward, kept, config.training, training.seed, self.journal(lake), self.team)
        metrics = {"pairs": float(len(kept)), "held_out_pairs": float(len(held))}
        if held:
            chosen, rejected = score_pairs(reward, held, _measured_at_once(config.training), self.team)
            metrics |= measured(chosen, rejected, held)
            metrics |= _against_truth(questions.rows, held.rows, (chosen - rejected).tolist(), config.monitor)
        checks = check_adapter(lm, ADAPTER, probe)
        blob = self.kept(lake, lambda folder: reward.save(folder, base=training.model.label))
        return config.training.steps, blob, {**metrics, **checks}


def _measured_at_once(settings: RewardSettings) -> Limits:
    """Pairs that are only scored: without gradients twice those of a step's pass go through at once."""
    from models.batches import Limits

    return Limits(2 * min(settings.forward_batch, settings.batch_size), settings.forward_tokens)


def _against_truth(
    questions: list[dict[str, Any]],
    pairs: Sequence[dict[str, Any]],
    margins: Sequence[float],
    slots: SlotVocabulary | None,
) -> dict[str, float]:
    """How often a margin points to the answer that is truer, over the pairs whose answers differ in truth."""
    answers, grader = {row["item_id"]: row["answer"] for row in questions}, Grader(slots)
    right = []
    for pair, margin in zip(pairs, margins, strict=True):
        try:
            better, worse = (grader.grade(answers.get(pair["instruction"]), each).best for each in in_order(pair))
        except UnscorableError:
            continue
        if better != worse:
            right.append((margin > 0) == (better > worse))
    if not right:
        return {}
    return {"held_out_truth_pairs": float(len(right)), "held_out_truth_accuracy": sum(right) / len(right)}


@dataclass(frozen=True)
class RewardSource:
    """Where the training of a policy finds its reward model.

    Attributes:
        stage: that trained it.
        config: how it reads.
        model: its base.
        tokens: visual tokens of that.
        captions: the narratives that it reads, or None.
    """

    stage: StageRef
    config: RewardConfig
    model: ModelRef
    tokens: StageRef
    captions: StageRef | None

    @classmethod
    def of(
        cls,
        stage: StageResult,
        config: RewardConfig,
        captions: StageResult | None,
        tokens: StageResult,
        model: ModelRef,
    ) -> Self:
        """Arguments as of `reward_model`, and the stage that it gave."""
        return cls(stage.ref, config, model, tokens.ref, narratives_for(config, captions))

    @property
    def inputs(self) -> tuple[StageRef, ...]:
        return (self.stage, self.tokens, *([self.captions] if self.captions else []))

    def scorer(
        self,
        lake: Lake,
        policy: VideoLM,
        start: ModelRef,
        questions: Questions,
        answer: int,
        team: Team | None = None,
    ) -> Scorer:
        """The reward model, on the policy's own base where that is the same model.

        Questions about which it cannot read what it must, with `answer` tokens of an answer, are taken out of
        `questions`; `team` are the workers that use it together.

        Raises:
            ValueError: none is left.
        """
        from models.reward_model import RewardModel, Scorer

        lm = policy if self.model.identity == start.identity else self.model.load(lake, team)
        reward = RewardModel.load(lm, lake.blobs.folder(final_adapter(lake, self.stage)))
        tokens, narratives = VisualTokens(lake, self.tokens), Narratives(lake, self.captions)
        read = Reading(reward, tokens, self.config.frame_set, narratives)
        questions.keep(read.usable(questions.rows, "questions", lambda _: answer))
        return Scorer(reward, Lazy(questions.rows, read.prompt), policy)


class Reading:
    """What a reward model reads about a question: its frames, and the narrative where it reads that."""

    def __init__(self, reward: RewardModel, tokens: VisualTokens, frame_set: str, narratives: Narratives) -> None:
        self._reward, self._tokens, self._frame_set = reward, tokens, frame_set
        self._narratives = narratives if reward.form.rm_context == "narrative" else None
        self._turns: dict[str, int] = {}

    def usable(
        self, rows: list[dict[str, Any]], what: str, answer: Callable[[dict[str, Any]], int] = lambda _: 1
    ) -> list[dict[str, Any]]:
        """Those of the rows about which everything is there that is to be read; how many are not is logged.

        Args:
            rows: as of `prompt`.
            what: they are, in the plural.
            answer: the tokens of an answer to a row, at most.

        Raises:
            ValueError: none of them is usable.
        """
        fit = Fit(self._reward.lm, self._tokens, self._frame_set)
        return without_faults(rows, lambda row: self._lack(row) or self._excess(row, answer(row), fit), what)

    def prompt(self, row: dict[str, Any]) -> RewardPrompt:
        """`row`: a usable one, with instruction (or item_id), video and question."""
        shown = self._tokens.frames(row["video"], self._frame_set)
        return self._reward.prompt(row["question"], shown, self._narrative(row))

    def _lack(self, row: dict[str, Any]) -> str | None:
        if row["video"] not in self._tokens:
            return f"video {row['video']} has no visual tokens for the reward model"
        if self._narratives is None:
            return None
        narrative, fault = self._narratives.of(_name(row), row["video"])
        return None if narrative is not None else f"video {row['video']} has no narrative: {fault}"

    def _excess(self, row: dict[str, Any], answer: int, fit: Fit) -> str | None:
        before, after = self._reward.form.texts(row["question"], self._narrative(row))
        return fit.fault(before, row["video"], answer + self._turn(after))

    def _turn(self, text: str) -> int:
        """The tokens of the turn behind an answer."""
        if text not in self._turns:
            self._turns[text] = len(self._reward.lm.next_turn_ids(text)) if text else 0
        return self._turns[text]

    def _narrative(self, row: dict[str, Any]) -> str | None:
        return None if self._narratives is None else self._narratives.of(_name(row), row["video"])[0]


def _name(row: dict[str, Any]) -> str:
    name: str = row["instruction"] if "instruction" in row else row["item_id"]
    return name
