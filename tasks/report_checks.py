"""What a run can say for itself: the checks of its trainings, and how often its videos were decoded and encoded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from storage.sql import query

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.stage import StageResult

MAX_GAP_NATS = 0.006


@dataclass(frozen=True)
class Check:
    """One check: what was measured in each training, what it must be, and whether it is; None where nobody measured."""

    name: str
    meaning: str
    demand: str
    values: dict[str, float]
    passed: bool | None


@dataclass(frozen=True)
class Economy:
    """What was done once or more often for a video; 1.0 is once.

    Attributes:
        decodes_per_video: how often it was decoded.
        tower_passes: how often it was encoded, by the vision tower.
        tower_frames: frames that went through the tower for each frame that was kept. Above 1 where a tower folds time
            and frame sets pair a frame with others, or where a clip's last frame fills up a pair.
    """

    decodes_per_video: float | None
    tower_passes: dict[str, float] = field(default_factory=dict)
    tower_frames: dict[str, float] = field(default_factory=dict)


_Test = Callable[[float], bool]
_CHECKS: dict[str, tuple[str, str, _Test]] = {
    "adapter_canary": (
        "largest change of a log-probability when the adapter is switched on, in nats; off equals the base bit for bit",
        "above 0",
        lambda value: value > 0,
    ),
    "blank_canary": ("share of greedy answers that a black video changes", "above 0", lambda value: value > 0),
    "rollout_trainer_gap": (
        "largest mean difference of a token's log-probability between sampling and training, in nats",
        f"at most {MAX_GAP_NATS}",
        lambda value: value <= MAX_GAP_NATS,
    ),
    "no_truncation": (
        "largest share of responses that the token limit cut",
        "0",
        lambda value: value == 0,
    ),
}


def checks_of(lake: Lake, trainings: Mapping[str, StageResult], candidates: Sequence[StageResult]) -> list[Check]:
    """The checks beside the final checkpoint of each training (by owner), and the candidates that were cut."""
    measured: dict[str, dict[str, float]] = {name: {} for name in _CHECKS}
    for owner, result in trainings.items():
        for name, value in _final_metrics(lake, result).items():
            shown = "no_truncation" if name == "unfinished_share" else name
            if shown in measured:
                measured[shown][owner] = value
    for number, result in enumerate(candidates):
        name = result.label or ("candidates" if number == 0 else f"candidates {number + 1}")
        share = _cut_share(lake, result)
        if share is not None:
            measured["no_truncation"][name] = share
    return [
        Check(
            name, meaning, demand, measured[name], all(map(test, measured[name].values())) if measured[name] else None
        )
        for name, (meaning, demand, test) in _CHECKS.items()
    ]


def _final_metrics(lake: Lake, result: StageResult) -> dict[str, float]:
    rows = lake.table("checkpoints").read(result.key, ["status", "final", "metrics"]).to_pylist()
    found: dict[str, float] = {}
    for row in rows:
        if row["status"] == "ok" and row["final"]:
            found |= json.loads(row["metrics"])
    return found


def _cut_share(lake: Lake, result: StageResult) -> float | None:
    sql = """SELECT avg(CASE WHEN finished THEN 0 ELSE 1 END) AS cut
             FROM candidates WHERE stage_key = $key AND status = 'ok'"""
    (row,) = query(lake, sql, {"key": result.key}).to_pylist()
    return None if row["cut"] is None else float(row["cut"])


def economy_of(lake: Lake) -> Economy:
    """Counts over the whole life of the lake; what a kill cut short left no row and is not in them.

    A row that was copied to another stage key keeps its item key, and counts once.
    """
    tables = lake.tables()
    if "frames" not in tables:
        return Economy(None)
    sql = """WITH read AS (SELECT DISTINCT video, content, item_key, decodes FROM frames WHERE status = 'ok')
             SELECT sum(decodes)::DOUBLE AS decodes, count(DISTINCT (video, content)) AS videos FROM read"""
    (row,) = query(lake, sql).to_pylist()
    decodes = row["decodes"] / row["videos"] if row["videos"] else None
    if "visual_tokens" not in tables:
        return Economy(decodes)
    sql = """WITH kept AS (SELECT video, max(len(timestamps)) AS n FROM frames WHERE status = 'ok' GROUP BY video),
                  seen AS (SELECT DISTINCT tower, video, item_key, n_frames FROM visual_tokens WHERE status = 'ok'),
                  sums AS (SELECT tower, video, count(*) AS passes, sum(n_frames) AS n FROM seen GROUP BY tower, video)
             SELECT tower, avg(sums.passes) AS passes, sum(sums.n) / sum(kept.n) AS frames
             FROM sums JOIN kept USING (video) GROUP BY tower ORDER BY tower"""
    found = query(lake, sql).to_pylist()
    passes = {row["tower"]: float(row["passes"]) for row in found}
    return Economy(decodes, passes, {row["tower"]: float(row["frames"]) for row in found})
