"""What the stages cost, beside what the plan had said they would."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.sql import query
from tasks.expense import NOTHING, Expense
from tasks.pages import duration, thousands
from tasks.plan import Line, Plan, actual, digest

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.stage import StageResult
    from tasks.usage import Usage


__all__ = ["Costs", "costs_of", "duration", "gibibytes", "money", "thousands"]


@dataclass(frozen=True)
class Row:
    """A stage: what was planned and what it came to, in whichever run of this lake computed it."""

    name: str
    planned: Line | None
    came: Line | None


@dataclass(frozen=True)
class Costs:
    """Plan against actual.

    Attributes:
        rows: the stages.
        plan: the plan, if one was made.
        same: whether it was made for these parameters.
        wall_seconds: of this run, where every stage of the plan was its to do; else None.
    """

    rows: list[Row] = field(default_factory=list)
    plan: Plan | None = None
    same: bool = False
    wall_seconds: float | None = None

    @property
    def paid(self) -> bool:
        """Whether money was planned or spent."""
        return any(line is not None and line.cost for row in self.rows for line in (row.planned, row.came))


def costs_of(
    lake: Lake, folder: Path, results: Sequence[StageResult], parameters: dict[str, Any], usage: Usage | None
) -> Costs:
    """What the run's stages cost. `folder` is the run's, where the plan is."""
    plan = Plan.read(folder)
    planned = {} if plan is None else {line.name: line for line in plan.lines}
    spent = spent_on(lake, [result.key for result in results])
    rows = []
    for result in results:
        name = result.label or result.stage
        found = spent.get(result.key)
        came = None if found is None else actual(name, result.items, *found)
        rows.append(Row(name, planned.pop(name, None), came))
    rows += [Row(line.name, line, None) for line in planned.values()]
    fresh = plan is not None and not any(line.note == "in the lake" for line in plan.lines)
    whole = fresh and not any(result.cached for result in results)
    return Costs(
        rows,
        plan,
        plan is not None and plan.digest == digest(parameters),
        usage.wall_seconds if whole and usage is not None else None,
    )


def spent_on(lake: Lake, keys: list[str]) -> dict[str, tuple[Expense, float]]:
    """By stage key: what all runs of this lake paid for it, and how long they were at it.

    What a killed run had paid for the stage that it was at is missing; an endpoint's ledger has the money.
    """
    if "runs" not in lake.tables() or not keys:
        return {}
    sql = """SELECT stage_key, seconds, detail FROM runs
             WHERE event IN ('stage_finished', 'stage_left') AND NOT cached AND list_contains($keys, stage_key)"""
    found: dict[str, tuple[Expense, float]] = {}
    for row in query(lake, sql, {"keys": keys}).to_pylist():
        told = json.loads(row["detail"] or "{}").get("expense")
        if told is None:
            continue
        so_far, seconds = found.get(row["stage_key"], (NOTHING, 0.0))
        found[row["stage_key"]] = (so_far + Expense(**told), seconds + row["seconds"])
    return found


def money(value: float) -> str:
    """An amount, in the currency of the endpoints' prices."""
    return f"{value:,.2f}"


def gibibytes(mebibytes: float) -> str:
    """Memory as the page gives it."""
    return f"{mebibytes / 1024:.2f}"
