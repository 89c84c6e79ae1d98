"""What the report says of a run's costs, beside its plan."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from storage.lake import Lake
from tasks.expense import Expense
from tasks.plan import Line, Plan, digest, in_the_lake
from tasks.report_cost import costs_of
from tasks.stage import StageResult
from tasks.usage import Usage

PARAMETERS: dict[str, Any] = {"run": {"name": "r", "workers": 2}, "sft": {"steps": 3}}
SPENT = Expense(load_seconds=1.0, seconds=4.0, calls=10, input_tokens=100, output_tokens=20, cost=0.5, memory_mib=300.0)
USAGE = Usage(wall_seconds=60.0, cpu_seconds=100.0, peak_rss_mib=1000.0)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def stage(label: str, key: str, *, cached: bool = False) -> StageResult:
    counts = {"items": 8, "ok": 8, "quarantined": 0, "reused": 0, "version": 1}
    times = {"seconds": 5.0, "work_seconds": 5.0, "cached": cached}
    return StageResult(stage="candidates", label=label, table="candidates", key=key, **counts, **times)


def finished(lake: Lake, key: str, spent: Expense | None, *, cached: bool = False, name: str = "finished") -> None:
    detail = json.dumps({} if spent is None else {"expense": asdict(spent)})
    row = {"run": "r", "event_id": f"{key} {datetime.now(UTC)}", "at": datetime.now(UTC), "event": f"stage_{name}"}
    lake.log([{**row, "stage": "candidates", "stage_key": key, "cached": cached, "seconds": 5.0, "detail": detail}])


def plan(*lines: Line) -> Plan:
    return Plan({"videos": 1}, list(lines), 2, 16, "2 cores", digest(PARAMETERS))


def test_a_stage_that_stopped_counts_what_every_run_paid_for_it(lake: Lake, tmp_path: Path) -> None:
    finished(lake, "k1", SPENT, name="left")
    finished(lake, "k1", SPENT)
    finished(lake, "k1", SPENT, cached=True)
    (row,) = costs_of(lake, tmp_path, [stage("candidates rl", "k1", cached=True)], PARAMETERS, USAGE).rows
    assert (row.name, row.planned) == ("candidates rl", None)
    assert row.came is not None
    assert (row.came.calls, row.came.cost, row.came.seconds, row.came.memory_mib) == (20, 1.0, 10.0, 300.0)


def test_plan_and_actual_stand_side_by_side(lake: Lake, tmp_path: Path) -> None:
    finished(lake, "k1", SPENT)
    plan(Line("candidates rl", 8, 8, calls=12), Line("policy a", 3, 3, calls=5)).write(tmp_path)
    costs = costs_of(lake, tmp_path, [stage("candidates rl", "k1")], PARAMETERS, USAGE)
    both, missing = costs.rows
    assert both.planned is not None
    assert both.came is not None
    assert (both.planned.calls, both.came.calls) == (12, 10)
    assert (missing.name, missing.came) == ("policy a", None)
    assert (costs.same, costs.paid, costs.wall_seconds) == (True, True, 60.0)


def test_a_plan_for_other_parameters_and_a_wall_time_that_is_not_the_plans_are_told_apart(
    lake: Lake, tmp_path: Path
) -> None:
    finished(lake, "k1", SPENT)
    plan(in_the_lake("candidates rl", 8, ())).write(tmp_path)
    other = {**PARAMETERS, "sft": {"steps": 4}}
    costs = costs_of(lake, tmp_path, [stage("candidates rl", "k1")], other, USAGE)
    assert (costs.same, costs.wall_seconds) == (False, None), "the plan left out what the lake held"
    plan(Line("candidates rl", 8, 8)).write(tmp_path)
    again = costs_of(lake, tmp_path, [stage("candidates rl", "k1", cached=True)], PARAMETERS, USAGE)
    assert again.wall_seconds is None, "this run found the stage done"


def test_a_lake_whose_events_tell_no_expense_has_none(lake: Lake, tmp_path: Path) -> None:
    finished(lake, "k1", None)
    (row,) = costs_of(lake, tmp_path, [stage("candidates rl", "k1")], PARAMETERS, None).rows
    assert row.came is None
