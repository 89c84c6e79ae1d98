"""Signs that a policy goes wrong, watched while it learns.

A monitor looks at a moving mean of a curve (each new value weighs 1 / window) and rings where it passes its limit, or
where the curve is no number: the run goes on with a warning, or stops (`MonitorLimits.action`). What is watched is part
of the training's state, so a run that was killed rings where it would have.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from models.monitor_limits import ALARM, MonitorLimits
from models.sequences import Response
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

_HACKED = ("reward_raw", "reward_true")
_FOLLOWED = {curve for curve, *_ in _WATCHED.values()} | {*_HACKED}


class Monitors:
    """Watches the metrics of each iteration."""

    def __init__(self, limits: MonitorLimits, numbers: dict[str, float]) -> None:
        """`numbers`: the trainer's, in which the means are kept."""
        self._limits, self._numbers = limits, numbers

    def watch(self, step: int, metrics: Metrics) -> dict[str, str]:
        """Takes an iteration's metrics; gives what is wrong, by the name of its alarm.

        Args:
            step: the iteration, from 1.
            metrics: of this iteration; those that a route does not have are not watched.
        """
        for name, value in metrics.items():
            self._take(name, value, step)
        rung = {ALARM + limit: text for limit, text in [*self._over(step), *self._no_numbers(metrics)]}
        for text in rung.values():
            logger.warning("after iteration %d: %s", step, text)
        return rung

    def stop_if_told(self, step: int, rung: dict[str, str]) -> None:
        """Raises TrainingError where an alarm rang and the limits say stop; to be called when the state is kept."""
        if rung and self._limits.action == "stop":
            raise TrainingError(
                f"After iteration {step}: {'; '.join(rung.values())}. Look at the curves; the state is kept, and the "
                "same run with another limit goes on from it."
            )

    def _no_numbers(self, metrics: Metrics) -> list[tuple[str, str]]:
        """Watched curves that are not finite: no mean could tell of them."""
        return [
            (limit, f"{curve} is {metrics[curve]}: {meaning}, or its numbers overflow")
            for limit, (curve, _, meaning) in _WATCHED.items()
            if getattr(self._limits, limit) is not None and not math.isfinite(metrics.get(curve, 0.0))
        ]

    def _take(self, name: str, value: float, step: int) -> None:
        if name not in _FOLLOWED or not math.isfinite(value):
            return
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
        bound = self._limits.max_true_loss
        known = [f"{when}/{name}" for when in ("start", "mean") for name in _HACKED]
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
