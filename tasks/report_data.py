"""What the report shows, read from the lake into small dataclasses. A part that the run lacks is empty or None."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from storage.sql import query
from tasks.troubles import Trouble, troubles_of

if TYPE_CHECKING:
    from datetime import datetime

    from storage.lake import Lake
    from tasks.stage import StageResult


Each = TypeVar("Each")


@dataclass(frozen=True)
class Graph(Generic[Each]):
    """The stages of a run by their places in it: their results, or futures of them while it is under way."""

    sft: Each | None
    preferences: Mapping[str, Each]
    """By arm, as `policies`; so are `rewards`, and by labels where a reward model was refreshed."""
    rewards: Mapping[str, Each]
    policies: Mapping[str, Each]
    scores: Mapping[str, Each]
    """The benchmark by label: "base", "sft" and the arms."""
    agreement: Each | None
    """The judges against ground truth."""
    audits: Mapping[str, Each] = field(default_factory=dict)
    """By what was audited: the arms' labels, and "held out"."""
    segments: Mapping[str, Sequence[Each]] = field(default_factory=dict)
    """By arm: the stages in which its policy learned before that of `policies`, in order."""

    @property
    def trainings(self) -> dict[str, Each]:
        """All trainings, by a name to show."""
        supervised = {} if self.sft is None else {"sft": self.sft}
        rewards = {f"reward {arm}": each for arm, each in self.rewards.items()}
        return supervised | rewards | {f"policy {arm}": each for arm, each in self.policies.items()}


@dataclass(frozen=True)
class Arm:
    """One chain preferences -> reward model -> policy.

    `name` is that of its scores too, `series` its colour (0 and 1 are the base and SFT).
    """

    name: str
    series: int
    narrative: bool
    frame_set: str
    method: str
    title: str
    """Short, unique: "PPO, with narrative"."""
    phrase: str
    """For a sentence: "PPO on context-aware preferences"."""
    taught_by_judge: bool = True
    """Whether it learned from the arm's judge: not so where the policy judged itself, or another ranker ranked."""
    judge: str = "local"


@dataclass(frozen=True)
class Curve:
    """One metric of one training: `owner` is the arm, or the stage where there is no arm."""

    name: str
    owner: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class StageRow:
    """One stage of the run. Times in seconds; `offset` and `share` (0 to 1) place it on the run's time line."""

    name: str
    label: str | None
    items: int
    ok: int
    quarantined: int
    seconds: float
    work_seconds: float
    cached: bool
    first_seconds: float | None
    """How long it took in the run that computed it, where this run found it done."""
    offset: float | None = None
    share: float | None = None
    troubles: tuple[Trouble, ...] = ()

    @property
    def detail(self) -> str:
        """What tells it from its namesakes: the label without the stage's own name."""
        return (self.label or "").removeprefix(self.name).strip()


# How an arm learns, and from what.
ROUTES = {
    "ppo": ("PPO", "preferences"),
    "grpo": ("GRPO", "preferences"),
    "grpo_rank": ("GRPO_rank", "ranks"),
    "self_dpo": ("Self-DPO", "verdicts of its own"),
}


def arms_of(lake: Lake, preferences: Mapping[str, StageResult], parameters: Mapping[str, Any]) -> list[Arm]:
    """The arms of a run, as their preferences say how they were judged; the parameters say it where there are none."""
    planned = {arm["name"]: arm for arm in parameters.get("arms") or []}
    arms: list[Arm] = []
    for name in dict.fromkeys([*planned, *preferences]):
        judged = {
            "with_narrative": planned.get(name, {}).get("narrative"),
            "frame_set": planned.get(name, {}).get("frame_set", "?"),
            "method": planned.get(name, {}).get("method", "?"),
        } | _how_judged(lake, preferences.get(name))
        narrative = bool(judged["with_narrative"])
        route = planned.get(name, {}).get("route", "ppo")
        how, what = ROUTES[route]
        title = f"{how}, with narrative" if narrative else f"{how}, no narrative"
        phrase = f"{how} on context-aware {what}" if narrative else f"{how} on {what} without context"
        ranker = (parameters.get("grpo") or {}).get("ranker", "tournament") if route == "grpo_rank" else None
        if ranker == "truth":
            title, phrase = f"{how} by ground truth", f"{how} on true ranks, an upper bound and no AI feedback,"
        by_judge = route != "self_dpo" and ranker in (None, "tournament")
        judge = planned.get(name, {}).get("judge", "local")
        own = (narrative, judged["frame_set"], judged["method"], title, phrase, by_judge, judge)
        arms.append(Arm(name, len(arms) + 2, *own))
    return _told_apart(arms)


def _how_judged(lake: Lake, result: StageResult | None) -> dict[str, Any]:
    if result is None:
        return {}
    sql = """SELECT with_narrative, frame_set, method FROM preferences
             WHERE stage_key = $key AND status = 'ok' LIMIT 1"""
    rows: list[dict[str, Any]] = query(lake, sql, {"key": result.key}).to_pylist()
    return rows[0] if rows else {}


def _told_apart(arms: list[Arm]) -> list[Arm]:
    counts = Counter(arm.title for arm in arms)
    return [
        arm
        if counts[arm.title] == 1
        else replace(arm, title=f"{arm.title} ({arm.name})", phrase=f"{arm.phrase} ({arm.name})")
        for arm in arms
    ]


def curves_of(
    lake: Lake, results: Mapping[str, StageResult], segments: Mapping[str, Sequence[StageResult]] | None = None
) -> list[Curve]:
    """The training curves that stand in table `metrics` under each result's key; the mapping's keys are the owners.

    Where an owner's training had `segments` before, each curve begins with theirs.
    """
    curves = []
    for owner, result in results.items():
        keys = [each.key for each in (*(segments or {}).get(owner, ()), result)]
        columns = ["status", "name", "step", "value"]
        rows = [row for key in keys for row in lake.table("metrics").read(key, columns).to_pylist()]
        rows = [row for row in rows if row["status"] == "ok"]
        for name in dict.fromkeys(row["name"] for row in rows):
            points = sorted((row["step"], row["value"]) for row in rows if row["name"] == name)
            curves.append(Curve(name, owner, *map(tuple, zip(*points, strict=True))))
    return curves


def stages_of(lake: Lake, run: str, results: Sequence[StageResult]) -> list[StageRow]:
    """The stages with what went wrong in each, and their places on the run's time line as the event log tells them."""
    _, first = _events(lake, run, [result.key for result in results])
    spans = _spans(lake, run, results)
    begin = min((start for start, _ in spans.values()), default=0.0)
    length = max((end for _, end in spans.values()), default=0.0) - begin
    rows = []
    for result in results:
        span = spans.get(result.key)
        rows.append(
            StageRow(
                name=result.stage,
                label=result.label,
                items=result.items,
                ok=result.ok,
                quarantined=result.quarantined,
                seconds=result.seconds,
                work_seconds=result.work_seconds,
                cached=result.cached,
                first_seconds=first.get(result.key) if result.cached else None,
                offset=None if span is None or length <= 0 else (span[0] - begin) / length,
                share=None if span is None or length <= 0 else (span[1] - span[0]) / length,
                troubles=troubles_of(lake, result.table, result.key) if result.quarantined else (),
            )
        )
    return rows


def working_seconds(lake: Lake, run: str, results: Sequence[StageResult]) -> float:
    """How long at least one stage of this run was under way: stages that overlap count once."""
    total, reached = 0.0, 0.0
    for start, end in sorted(_spans(lake, run, results).values()):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _spans(lake: Lake, run: str, results: Sequence[StageResult]) -> dict[str, tuple[float, float]]:
    """Begin and end of every stage that this run computed, in seconds of the event log's clock."""
    ends, _ = _events(lake, run, [result.key for result in results])
    computed = {result.key for result in results if not result.cached}
    return {
        key: (end.timestamp() - seconds, end.timestamp()) for key, (end, seconds) in ends.items() if key in computed
    }


def _events(lake: Lake, run: str, keys: list[str]) -> tuple[dict[str, tuple[datetime, float]], dict[str, float]]:
    """By stage key: when it ended in this run and how long it had taken; and how long it took when it was computed."""
    if "runs" not in lake.tables() or not keys:
        return {}, {}
    sql = """SELECT run, stage_key, "at", seconds, cached FROM runs
             WHERE event = 'stage_finished' AND list_contains($keys, stage_key) AND seconds IS NOT NULL
             ORDER BY "at", event_id"""
    rows = query(lake, sql, {"keys": keys}).to_pylist()
    ends = {row["stage_key"]: (row["at"], row["seconds"]) for row in rows if row["run"] == run and not row["cached"]}
    first = {row["stage_key"]: row["seconds"] for row in reversed(rows) if not row["cached"]}
    return ends, first
