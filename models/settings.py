"""The settings of sampling and of each training loop.

They stand apart from the code that they set because they are also the parameters of a flow: a driver that only plans a
run reads and checks them without importing torch. Plain dataclasses; pydantic takes each field's description from the
text below it and its bounds from its type. Both reach the form of the Prefect UI, which then refuses a bad value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

if TYPE_CHECKING:
    from peft import LoraConfig

KlEstimator = Literal["k1", "k1_clamped", "k3"]
ReductionName = Literal["token", "sequence", "constant"]
GroupAdvantage = Literal["grpo", "dr_grpo", "rloo"]
RankMode = Literal["oracle", "paper", "signed", "tie_aware"]
DcgForm = Literal["written", "table", "log"]
RankBound = Literal["none", "clamp", "symmetric"]
Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]


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
    modules: str = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    """Regular expression of the linear layers that get an update."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1:
            raise ValueError("rank and alpha must be at least 1")

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
    rate: Positive = 1e-4
    """Highest learning rate."""
    warmup: Annotated[int, Ge(0)] = 30
    """Steps until the highest learning rate."""
    final_rate: Fraction = 0.1
    """Learning rate at the end, as a fraction of the highest."""
    max_norm: Positive = 0.3
    """Gradients are clipped to this norm."""
    save_every: Count = 200
    """Steps between saved states."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.save_every) < 1 or self.rate <= 0:
            raise ValueError("steps, batch_size and save_every must be at least 1, rate above 0")


@dataclass(frozen=True, kw_only=True)
class RewardForm:
    """How a reward is read from the model."""

    __pydantic_config__ = {"use_attribute_docstrings": True, "extra": "forbid"}

    kind: Literal["head", "likelihood"] = "head"
    """`head`: a scalar head on the last token. `likelihood`: the same plus the answer's mean log-probability."""
    likelihood_scale: float = 5.0
    """Weight of the mean log-probability, in reward units a nat."""
    prompt: str = ""
    """A further user turn after the answer, before the reward is read (the paper's four criteria); may be empty."""


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
    rate: Positive = 2e-5
    """Highest learning rate."""
    warmup: Annotated[int, Ge(0)] = 72
    """Steps until the highest learning rate."""
    final_rate: Fraction = 1.0
    """Learning rate at the end, as a fraction of the highest."""
    centering: NotNegative = 1e-3
    """Weight of the pull of the mean reward towards zero."""
    max_norm: Positive = 0.3
    """Gradients are clipped to this norm."""
    held_out: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Fraction of the videos whose pairs are kept for the accuracy that is reported."""
    save_every: Count = 400
    """Steps between saved states."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.save_every) < 1 or self.rate <= 0 or not 0 <= self.held_out < 1:
            raise ValueError("steps, batch_size, save_every must be >= 1, rate > 0 and held_out in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class PpoSettings:
    """Training of the policy with PPO."""

    __pydantic_config__ = {"use_attribute_docstrings": True, "extra": "forbid"}

    lora: LoraSettings = field(default_factory=LoraSettings)
    """The policy's adapter; the critic's has the shape of the reward model's."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=896))
    """How rollouts are drawn."""
    iterations: Count = 400
    """Rollouts, each followed by its updates."""
    prompts: Count = 256
    """Questions a rollout."""
    samples: Count = 1
    """Answers a question in a rollout."""
    epochs: Count = 2
    """Passes over a rollout."""
    minibatch: Count = 128
    """Answers an optimiser step."""
    forward_batch: Count = 128
    """Answers a forward pass when rollouts are scored."""
    rate: Positive = 3e-5
    """Highest learning rate of the policy."""
    value_rate: Positive = 3e-5
    """Highest learning rate of the critic."""
    warmup: Annotated[int, Ge(0)] = 5
    """Iterations until the highest learning rate."""
    final_rate: Fraction = 0.0
    """Learning rate at the end, as a fraction of the highest."""
    kl_coef: NotNegative = 0.1
    """Weight of the KL penalty against the reference."""
    kl_estimator: KlEstimator = "k1_clamped"
    """Per-token estimate of the KL divergence."""
    clip: Positive = 0.2
    """How far the probability ratio may move."""
    value_clip: Positive = 0.2
    """How far a value may move in one iteration, in reward units."""
    gamma: Fraction = 1.0
    """Discount."""
    lam: Fraction = 1.0
    """Lambda of generalized advantage estimation."""
    normalise_rewards: bool = True
    """Shift and scale rewards by mean and deviation of the first rollout."""
    unfinished_penalty: float = 0.0
    """Added to the reward of an answer that the token limit cut."""
    max_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    max_gap: Positive = 0.006
    """Largest mean difference, in nats a token, between the log-probabilities of sampling and of training."""
    max_unfinished: Fraction = 1.0
    """Largest share of answers that the token limit may cut in a rollout."""
    save_every: Count = 10
    """Iterations between saved states."""

    def __post_init__(self) -> None:
        counts = (self.iterations, self.prompts, self.samples, self.epochs, self.minibatch, self.save_every)
        if min(counts) < 1 or self.rate <= 0 or self.value_rate <= 0:
            raise ValueError("counts must be at least 1 and rates above 0")
        if self.sampling.temperature == 0 or self.sampling.top_p < 1:
            raise ValueError(
                "sampling needs a temperature above 0 and top_p 1: PPO compares the whole distribution that answers "
                "were drawn from"
            )
