"""The reward models of a run: what was measured of them on pairs that they did not learn from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.stage import StageResult


@dataclass(frozen=True)
class Reward:
    """One reward model. What was not measured is None: no pair was held out, or the truth is not known.

    Attributes:
        label: the arm.
        pairs: learned from.
        held_out: measured on.
        accuracy: share of held-out pairs whose preferred answer has the higher reward.
        truth: the same against the true answers, where two answers differ in truth.
        truth_pairs: how many do.
        calibration_error: how far its confidence is from how often it is right.
        margins: mean reward of the preferred answer less the other's, where that is longer, and where it is shorter.
    """

    label: str
    pairs: int
    held_out: int
    accuracy: float | None
    truth: float | None
    truth_pairs: int
    calibration_error: float | None
    margins: tuple[float | None, float | None]


def rewards_of(lake: Lake, rewards: Mapping[str, StageResult]) -> list[Reward]:
    """The reward model that each arm's training ended with."""
    found = []
    for label, result in rewards.items():
        rows = lake.table(result.table).read(result.key, columns=["status", "final", "metrics"]).to_pylist()
        told = [json.loads(row["metrics"]) for row in rows if row["status"] == "ok" and row["final"]]
        found += [_reward(label, metrics) for metrics in told]
    return found


def _reward(label: str, told: Mapping[str, float]) -> Reward:
    return Reward(
        label,
        pairs=int(told.get("pairs", 0)),
        held_out=int(told.get("held_out_pairs", 0)),
        accuracy=told.get("held_out_accuracy"),
        truth=told.get("held_out_truth_accuracy"),
        truth_pairs=int(told.get("held_out_truth_pairs", 0)),
        calibration_error=told.get("held_out_calibration_error"),
        margins=(told.get("held_out_margin_longer"), told.get("held_out_margin_shorter")),
    )
