"""Signs that a policy goes wrong, watched while it learns.

A monitor looks at the mean of a curve over its last iterations and rings where it passes its limit: the run goes on
with a warning, or stops (`MonitorLimits.action`). What is watched is part of the training's state, so a run that was
killed rings where it would have.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from models.sequences import Response
from models.settings import ALARM, MonitorLimits
from models.training import Metrics, TrainingError

logger = logging.getLogger(__name__)

# Limit -> the curve, whether more is worse, and what it means.
_WATCHED = {
    "max_kl": ("kl", True, "the policy is far from its reference"),
    "min_entropy": ("entropy", False, "the policy has nearly stopped to explore"),
    "max_response_length": ("response_length", True, "answers grow long"),
    "max_repetition": ("repetition", True, "answers repeat themselves"),
    "min_unique_share": ("unique_share", False, "the policy says the same to most questions"),
    "max_clip_fraction": ("clip_fraction", True, "steps are too large for the ratio's clip: lower the rate"),
    "min_explained_variance": ("explained_variance", False, "the critic does not foresee the returns"),
}


class Monitors:
    """Watches the metrics of each iteration."""

    def __init__(self, limits: MonitorLimits, numbers: dict[str, float]) -> None:
        """`numbers`: the trainer's, in which the means are kept."""
        self._limits, self._numbers = limits, numbers

    def watch(self, step: int, metrics: Metrics) -> Metrics:
        """Takes an iteration's metrics; gives 1.0 for each alarm that rings, by name.

        Args:
            step: the iteration, from 1.
            metrics: of this iteration; those that a route does not have are not watched.

        Raises:
            TrainingError: an alarm rings, and the limits say stop.
        """
        for name, value in metrics.items():
            self._take(name, value, step)
        rung = {ALARM + limit: text for limit, text in self._over(step)}
        for text in rung.values():
            if self._limits.action == "stop":
                raise TrainingError(
                    f"After iteration {step}: {text}. Look at the curves; the last saved state is kept, and the same "
                    "run with another limit goes on from it."
                )
            logger.warning("after iteration %d: %s", step, text)
        return dict.fromkeys(rung, 1.0)

    def _take(self, name: str, value: float, step: int) -> None:
        mean = self._numbers.get(f"mean/{name}", value)
        mean += (value - mean) / min(step, self._limits.window)
        self._numbers[f"mean/{name}"] = mean
        if step <= self._limits.window:
            self._numbers[f"start/{name}"] = mean

    def _over(self, step: int) -> list[tuple[str, str]]:
        """Each limit that is passed, and what to tell; none before the window is full."""
        if step < self._limits.window:
            return []
        found = []
        for limit, (curve, more_is_worse, meaning) in _WATCHED.items():
            bound, mean = getattr(self._limits, limit), self._numbers.get(f"mean/{curve}")
            if bound is not None and mean is not None and (mean > bound if more_is_worse else mean < bound):
                side = "above" if more_is_worse else "below"
                found.append((limit, f"{curve} is {mean:.3g}, {side} {limit} {bound:g}: {meaning}"))
        return found + self._hacking()

    def _hacking(self) -> list[tuple[str, str]]:
        """The reward model's score rises while the answers become less true."""
        bound, reward = self._limits.max_true_loss, "reward_raw"
        known = [f"{when}/{name}" for when in ("start", "mean") for name in (reward, "reward_true")]
        if bound is None or not all(name in self._numbers for name in known):
            return []
        proxy, true, proxy_now, true_now = (self._numbers[name] for name in known)
        if proxy_now <= proxy or true - true_now <= bound:
            return []
        told = (
            f"the reward rose from {proxy:.3g} to {proxy_now:.3g} while the truth of the answers fell from {true:.3g} "
            f"to {true_now:.3g}, more than max_true_loss {bound:g}: the policy exploits the reward model"
        )
        return [("max_true_loss", told)]


def repetition(responses: Sequence[Response]) -> float:
    """The share of token pairs that stand in their answer before already; 0 where no answer has two tokens."""
    pairs = [list(zip(each.ids, each.ids[1:], strict=False)) for each in responses]
    total = sum(map(len, pairs))
    return 1 - sum(len(set(each)) for each in pairs) / total if total else 0.0
