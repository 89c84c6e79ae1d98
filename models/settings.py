"""The settings of sampling and of each training loop.

They stand apart from the code that they set because they are also the parameters of a flow: a driver that only plans a
run reads and checks them without importing torch. Plain dataclasses; pydantic takes each field's description from the
text below it and its bounds from its type. Both reach the form of the Prefect UI, which then refuses a bad value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from models.bounds import Count, Fraction, NotNegative, Positive
from models.memory import FORWARD_TOKENS
from models.monitor_limits import MonitorLimits
from models.templates import placeholders, shipped

if TYPE_CHECKING:
    from peft import LoraConfig

KlEstimator = Literal["k1", "k1_clamped", "k3"]
ReductionName = Literal["token", "sequence", "constant"]
GroupAdvantage = Literal["grpo", "dr_grpo", "rloo"]
RankMode = Literal["oracle", "paper", "signed", "tie_aware"]
DcgForm = Literal["written", "table", "log"]
RankBound = Literal["none", "clamp", "symmetric"]


EngineName = Literal["transformers", "vllm"]
ScheduleName = Literal["linear", "cosine"]
# What pydantic is told of the field `schedule`. That of before there was a choice is no part of a stage's key.
SCHEDULE: dict[str, Any] = {
    "description": "How the learning rate falls from its highest to its last.",
    "exclude_if": lambda value: value == "linear",
}
# What pydantic is told of the field `engine`. That of before there was a choice is no part of a stage's key.
ENGINE: dict[str, Any] = {
    "description": "What draws the answers. vllm: for a GPU, installed beside this project; its log-probabilities are "
    "compared with the trainer's as those of transformers are.",
    "exclude_if": lambda value: value == "transformers",
}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn."""

    __pydantic_config__ = {"use_attribute_docstrings": True, "extra": "forbid"}

    temperature: NotNegative = 1.0
    """Softmax temperature; 0 takes the likeliest token (greedy)."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Nucleus: keep the likeliest tokens that together reach this probability."""
    max_new_tokens: Count = 512
    """Longest answer in tokens; a cut answer is counted and shown."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_new_tokens < 1:
            raise ValueError("temperature must be >= 0, top_p in (0, 1] and max_new_tokens >= 1")


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """A LoRA adapter on the language model (never on the vision tower)."""

    __pydantic_config__ = {"use_attribute_docstrings": True, "extra": "forbid"}

    rank: Count = 64
    """Rank of the update."""
    alpha: Count = 16
    """Scale: the update is multiplied by alpha / rank."""
    modules: str = r".*(language|text)_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    """Regular expression of the linear layers that get an update, by their whole names."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1:
            raise ValueError("rank and alpha must be at least 1")
        try:
            re.compile(self.modules)
        except re.error as error:
            raise ValueError(f"modules {self.modules!r} is no regular expression: {error}") from error

    def peft_config(self) -> LoraConfig:
        from peft import LoraConfig

        return LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=0.0, target_modules=self.modules)


@dataclass(frozen=True, kw_only=True)
class SftSettings:
    """Supervised fine-tuning."""

    __pydantic_config__ = {"use_attribute_docstrings": True, "extra": "forbid"}

    lora: LoraSettings = field(default_factory=LoraSettings)
    """The adapter that is trained."""
    steps: Count = 1000
    """Optimiser steps."""
    batch_size: Count = 128
    """Answers a step."""
    forward_batch: Count = 4
    """Answers a forward pass; the gradients of a step's passes are added up."""
    forward_tokens: Count | None = field(default=None, metadata=FORWARD_TOKENS)
    rate: Positive = 1e-4
    """Highest learning rate."""
    warmup: Annotated[int, Ge(0)] = 30
    """Steps until the highest learning rate."""
    final_rate: Fraction = 0.1
    """Learning rate at the end, as a fraction of the highest."""
    schedule: ScheduleName = field(default="linear", metadata=SCHEDULE)
    max_norm: Positive = 0.3
    """Gradients are clipped to this norm."""
    save_every: Count = 200
    """Steps between saved states."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.forward_batch, self.save_every) < 1 or self.rate <= 0:
            raise ValueError("steps, batch_size and save_every must be at least 1, rate above 0")


@dataclass(frozen=True, kw_only=True)
class RewardForm:
    """How a reward is read from the model."""

    __pydantic_config__ = {"use_attribute_docstrings": True, "extra": "forbid"}

    kind: Literal["head", "likelihood"] = "head"
    """`head`: a scalar head on the last token. `likelihood`: the same plus the answer's mean log-probability."""
    likelihood_scale: float = 5.0
    """Weight of the mean log-probability, in reward units a nat."""
    words: tuple[str, str] | None = None
    """The head begins as the language model's output row of the first word less that of the second, such as [yes, no]
    where `prompt` asks whether the answer is right: as what the model would reply. Null: it begins at zero."""
    rm_context: Literal["none", "narrative"] = "none"
    """Whether the reward model reads the narrative of the video (the paper's does not)."""
    question: str = "{question}"
    """What the answer replies to, with {question}; {context} where the narrative may stand."""
    prompt: str = shipped("reward")
    """A further user turn after the answer, before the reward is read; empty: none. {context} as above."""
    context: str = shipped("reward_context")
    """What stands at {context}, with {narrative}; nothing does with rm_context none."""

    def __post_init__(self) -> None:
        if self.words is not None:  # JSON and YAML give lists
            object.__setattr__(self, "words", tuple(self.words))
        asked = {*placeholders(self.question), *placeholders(self.prompt)}
        if "question" not in placeholders(self.question) or not asked <= {"question", "context"}:
            raise ValueError("question needs {question}; it and prompt may hold {context}, and nothing else in braces")
        if {*placeholders(self.context)} != {"narrative"}:
            raise ValueError("context needs {narrative} and nothing else in braces")
        if self.rm_context == "narrative" and "context" not in asked:
            raise ValueError("rm_context narrative needs a place for it: {context} in question or prompt")

    def texts(self, question: str, narrative: str | None) -> tuple[str, str]:
        """What stands before and after an answer; `narrative` counts only where it is read."""
        told = ""
        if self.rm_context == "narrative":
            told = self.context.format(narrative=narrative)
        before = self.question.format(question=question, context=told)
        return before.strip(), self.prompt.format(question=question, context=told).strip()


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """Training of the reward model."""

    __pydantic_config__ = {"use_attribute_docstrings": True, "extra": "forbid"}

    form: RewardForm = field(default_factory=RewardForm)
    """What the reward is."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """The adapter that is trained."""
    steps: Count = 2400
    """Optimiser steps."""
    batch_size: Count = 16
    """Pairs a step."""
    forward_batch: Count = 4
    """Pairs a forward pass; the gradients of a step's passes are added up. `centering` is then of each pass's mean."""
    forward_tokens: Count | None = field(default=None, metadata=FORWARD_TOKENS)
    rate: Positive = 2e-5
    """Highest learning rate."""
    warmup: Annotated[int, Ge(0)] = 72
    """Steps until the highest learning rate."""
    final_rate: Fraction = 1.0
    """Learning rate at the end, as a fraction of the highest."""
    schedule: ScheduleName = field(default="linear", metadata=SCHEDULE)
    centering: NotNegative = 1e-3
    """Weight of the pull of the mean reward towards zero."""
    max_norm: Positive = 0.3
    """Gradients are clipped to this norm."""
    held_out: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Fraction of the videos whose pairs are kept for the accuracy that is reported."""
    save_every: Count = 400
    """Steps between saved states."""

    def __post_init__(self) -> None:
        if (
            min(self.steps, self.batch_size, self.forward_batch, self.save_every) < 1
            or self.rate <= 0
            or not 0 <= self.held_out < 1
        ):
            raise ValueError("steps, batch_size, save_every must be >= 1, rate > 0 and held_out in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class DpoSettings:
    """Direct preference optimisation of the policy.

    ISR-DPO (https://arxiv.org/abs/2406.11280) gives no values of its own. `beta`, `rate`, `warmup`, `final_rate`,
    `max_norm`, `batch_size` and `steps` (three passes over 17k pairs) are those of the recipe that it extends,
    `train_dpo.sh` of LLaVA-Hound-DPO, which tunes the whole language model. Everything else is not published: the
    adapter (one usually bears a rate ten times that and more), `held_out`, and what is off by default.
    """

    __pydantic_config__ = {"use_attribute_docstrings": True, "extra": "forbid"}

    lora: LoraSettings = field(default_factory=LoraSettings)
    """The adapter that is trained."""
    beta: Positive = 0.1
    """How strongly the policy is held to the reference, reward units a nat."""
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    """Probability that a label is wrong; 0: the labels are believed."""
    length_normalised: bool = False
    """Take the mean of an answer's log-probabilities in place of their sum; beta then counts nats a token."""
    steps: Count = 400
    """Optimiser steps."""
    batch_size: Count = 128
    """Pairs a step."""
    forward_batch: Count = 4
    """Pairs a forward pass; the gradients of a step's passes are added up."""
    forward_tokens: Count | None = field(default=None, metadata=FORWARD_TOKENS)
    rate: Positive = 5e-7
    """Highest learning rate."""
    warmup: Annotated[int, Ge(0)] = 40
    """Steps until the highest learning rate."""
    final_rate: Fraction = 0.0
    """Learning rate at the end, as a fraction of the highest."""
    schedule: ScheduleName = field(default="linear", metadata=SCHEDULE)
    max_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    held_out: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Fraction of the videos whose pairs are kept for the accuracy that is reported."""
    save_every: Count = 70
    """Steps between saved states."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.forward_batch, self.save_every) < 1:
            raise ValueError("steps, batch_size, forward_batch and save_every must be at least 1")
        if self.beta <= 0 or self.rate <= 0:
            raise ValueError("beta and rate must be above 0")
        if not 0 <= self.held_out < 1 or not 0 <= self.label_smoothing < 0.5:
            raise ValueError("held_out must be in [0, 1) and label_smoothing in [0, 0.5)")


def _told(description: str) -> dict[str, str]:
    """A field's description where pydantic finds it in a subclass too; of the text below a field it reads only those
    of the class itself.
    """
    return {"description": description}


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """What every on-policy training has: how it samples, how fast it learns, and when it stops."""

    __pydantic_config__ = {"use_attribute_docstrings": True, "extra": "forbid"}

    lora: LoraSettings = field(
        default_factory=LoraSettings,
        metadata=_told("The policy's adapter; a critic's has the shape of the reward model's."),
    )
    sampling: Sampling = field(
        default_factory=lambda: Sampling(max_new_tokens=896), metadata=_told("How rollouts are drawn.")
    )
    engine: EngineName = field(default="transformers", metadata=ENGINE)
    iterations: Count = field(default=400, metadata=_told("Rollouts, each followed by its updates."))
    prompts: Count = field(default=256, metadata=_told("Questions a rollout."))
    samples: Count = field(default=1, metadata=_told("Answers a question in a rollout."))
    epochs: Count = field(default=2, metadata=_told("Passes over a rollout."))
    minibatch: Count = field(
        default=128, metadata=_told("Answers an optimiser step; those to one question stay together.")
    )
    forward_batch: Count = field(
        default=128,
        metadata=_told("Answers a forward pass; an optimiser step adds up the gradients of as many as it needs."),
    )
    forward_tokens: Count | None = field(default=None, metadata=FORWARD_TOKENS)
    rate: Positive = field(default=3e-5, metadata=_told("Highest learning rate of the policy."))
    warmup: Annotated[int, Ge(0)] = field(default=5, metadata=_told("Iterations until the highest learning rate."))
    final_rate: Fraction = field(default=0.0, metadata=_told("Learning rate at the end, as a fraction of the highest."))
    schedule: ScheduleName = field(default="linear", metadata=SCHEDULE)
    kl_coef: NotNegative = field(default=0.1, metadata=_told("Weight of the KL penalty against the reference."))
    kl_estimator: KlEstimator = field(default="k1_clamped", metadata=_told("Per-token estimate of the KL divergence."))
    clip: Positive = field(default=0.2, metadata=_told("How far the probability ratio may move."))
    entropy_coef: NotNegative = field(default=0.0, metadata=_told("Weight of an entropy bonus, a nat a token."))
    max_norm: Positive = field(default=1.0, metadata=_told("Gradients are clipped to this norm."))
    max_gap: Positive = field(
        default=0.006,
        metadata=_told(
            "Largest mean difference, in nats a token, between the log-probabilities of sampling and of training."
        ),
    )
    max_unfinished: Fraction = field(
        default=1.0, metadata=_told("Largest share of answers that the token limit may cut in a rollout.")
    )
    save_every: Count = field(default=10, metadata=_told("Iterations between saved states."))
    monitors: MonitorLimits = field(
        default_factory=MonitorLimits,
        metadata=_told("When the training warns or stops; no part of what is learned, so a changed limit goes on."),
    )

    def __post_init__(self) -> None:
        counts = (self.iterations, self.prompts, self.samples, self.epochs, self.minibatch, self.save_every)
        if min(counts) < 1 or self.rate <= 0:
            raise ValueError("counts must be at least 1 and rates above 0")
        if self.sampling.temperature == 0 or self.sampling.top_p < 1:
            raise ValueError(
                "sampling needs a temperature above 0 and top_p 1: the policy is compared over the whole distribution "
                "that answers were drawn from"
            )


@dataclass(frozen=True, kw_only=True)
class PpoSettings(PolicySettings):
    """Training of the policy with PPO against a reward model."""

    value_rate: Positive = 3e-5
    """Highest learning rate of the critic."""
    value_clip: Positive = 0.2
    """How far a value may move in one iteration, in reward units."""
    gamma: Fraction = 1.0
    """Discount."""
    lam: Fraction = 1.0
    """Lambda of generalized advantage estimation."""
    normalise_rewards: bool = True
    """Shift and scale rewards by mean and deviation of the first rollout, and of the first after each refresh of the
    reward model (`reward.refresh_every`)."""
    unfinished_penalty: float = 0.0
    """Added to the reward of an answer that the token limit cut (published: -8)."""
    length_penalty: float = 0.0
    """Added to the reward times the share of the token limit that the answer takes (published: -10)."""
    reward_scale: Positive = 1.0
    """Multiplies the rewards of all tokens, KL penalty included (published: 10)."""
    whiten_rewards: bool = False
    """Scale the rewards of all tokens to deviation 1 around their mean over the rollout instead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value_rate <= 0 or self.reward_scale <= 0:
            raise ValueError("rates and reward_scale must be above 0")
        if self.whiten_rewards and self.reward_scale != 1:
            raise ValueError("whiten_rewards divides whatever reward_scale multiplied: leave one of them out")


@dataclass(frozen=True, kw_only=True)
class GrpoSettings(PolicySettings):
    """Training of the policy on groups of answers, by rewards or by ranks alone; no critic."""

    samples: Annotated[int, Ge(2)] = 5
    """Answers a question in a rollout: the group."""
    kl_estimator: KlEstimator = "k3"
    """Per-token estimate of the KL divergence. It is part of the loss, so its gradient counts: k3's leads back to the
    reference (in the mean it is that of KL(reference || policy)); k1's is zero in the mean and is refused."""
    reduction: ReductionName = "token"
    """How tokens become one loss: each the same; each answer the same (sequence); or by the token limit (constant)."""
    advantage: GroupAdvantage = "grpo"
    """By rewards: how an answer is compared with its group."""
    rank_mode: RankMode = "oracle"
    """By ranks: what an advantage says; the modes are explained in docs/rank_advantage.md."""
    dcg: DcgForm = "log"
    """By ranks: what a place is worth: as the paper writes it, as its table has it, or 1 / log2(2 + rank)."""
    bound: RankBound = "none"
    """By ranks, mode paper: what happens to ratios above 1."""
    standardise: bool = True
    """By ranks: divide advantages by their group's deviation."""
    reference: Literal["start", "epoch"] = "start"
    """What the KL penalty holds to: the model before training, or the policy at the start of each pass of questions."""
    unfinished_penalty: float = 0.0
    """By rewards: added to the reward of an answer that the token limit cut. By ranks such groups are left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 2:
            raise ValueError("samples must be at least 2: an answer is compared with its group")
        if self.kl_estimator == "k1" and self.kl_coef > 0:
            raise ValueError("kl_estimator k1 has no gradient in the mean, so it holds nothing back: use k3")
