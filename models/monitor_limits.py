"""The settings of the monitors that watch a policy's training (models.monitors); as plain as models.settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Le

from models.bounds import Count, Fraction, NotNegative, Positive

ALARM = "alarm_"  # How the curves of monitors' alarms begin.


@dataclass(frozen=True, kw_only=True)
class MonitorLimits:
    """When a policy's training warns or stops. Means over the last iterations are compared; null: not watched."""

    __pydantic_config__ = {"use_attribute_docstrings": True, "extra": "forbid"}

    action: Literal["warn", "stop"] = "warn"
    """What happens where a limit is passed: a warning and an alarm in the curves, or the end of the training."""
    window: Count = 5
    """Iterations whose mean is compared."""
    max_kl: Positive | None = 20.0
    """Divergence from the reference, in nats an answer."""
    min_entropy: NotNegative | None = 0.005
    """Entropy, in nats a token."""
    max_response_length: Positive | None = None
    """Length of the answers, in tokens."""
    max_repetition: Fraction | None = 0.5
    """Share of token pairs that stood in their answer before."""
    min_unique_share: Fraction | None = 0.02
    """Share of distinct answers in a rollout."""
    max_clip_fraction: Fraction | None = 0.5
    """Share of tokens whose probability ratio was clipped."""
    min_explained_variance: Annotated[float, Le(1)] | None = None
    """Explained variance of the critic, 1 at best; routes without a critic have none."""
    max_true_loss: Fraction | None = 0.1
    """Reward hacking: how much of the truth of the answers, where it is known, may be lost while the reward rises."""
