"""What each arm of a study cost, and what it learned from."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.lake import Lake
from tasks.report_cost import spent_on

# Seed -> arm -> the keys of the stages of its run, by their names.
Stages = Mapping[int, Mapping[str, Mapping[str, str]]]


@dataclass(frozen=True)
class Cost:
    """Seconds that workers worked, in the mean over the seeds: CPU seconds where each has one thread and a core.

    Starting them is left out: it falls to whatever stage a process begins with.

    Attributes:
        own: of the stages that no other arm of the same seed needs.
        whole: of all stages of the arm's run, what other arms need too included.
    """

    own: float
    whole: float


def costs_of_arms(lake: Lake, stages: Stages) -> dict[str, Cost]:
    """By arm. What a killed run had paid for the stage that it was at is missing."""
    keys = {key for of_seed in stages.values() for named in of_seed.values() for key in named.values()}
    spent = {key: each.seconds for key, (each, _) in spent_on(lake, sorted(keys)).items()}
    found: dict[str, list[Cost]] = {}
    for of_seed in stages.values():
        users = Counter(key for named in of_seed.values() for key in {*named.values()})
        for arm, named in of_seed.items():
            paid = {key: spent.get(key, 0.0) for key in named.values()}
            own = sum(seconds for key, seconds in paid.items() if users[key] == 1)
            found.setdefault(arm, []).append(Cost(own, sum(paid.values())))
    return {
        arm: Cost(statistics.fmean(each.own for each in costs), statistics.fmean(each.whole for each in costs))
        for arm, costs in found.items()
    }


def decided_labels(lake: Lake, stages: Stages) -> dict[str, float]:
    """By arm, how many pairs have a label that is no tie, in the mean over the seeds; of self-DPO in all rounds."""
    found: dict[str, list[int]] = {}
    for of_seed in stages.values():
        for arm, named in of_seed.items():
            keys = [key for name, key in named.items() if _labels(name, arm)]
            found.setdefault(arm, []).append(sum(_decided(lake, key) for key in keys))
    return {arm: statistics.fmean(counts) for arm, counts in found.items()}


def _labels(stage: str, arm: str) -> bool:
    name = stage.removeprefix("preferences ")
    return stage != name and (name == arm or name.startswith(f"{arm}_round_")) and not name.endswith("_blind")


def _decided(lake: Lake, key: str) -> int:
    preferred: Sequence[str | None] = lake.table("preferences").read(key, ["preferred"])["preferred"].to_pylist()
    return sum(each in ("a", "b") for each in preferred)
