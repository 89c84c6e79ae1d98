"""What a lake writes down of stages as they end, and how settings become text and names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from storage.lake import event
from tasks.expense import NOTHING, Bill

if TYPE_CHECKING:
    from tasks.stage import RunContext, Stage, StageResult


def log_finished(ctx: RunContext, result: StageResult) -> None:
    """A stage that is complete."""
    detail = result.model_dump(include={"label", "table", "version", "items", "reused", "work_seconds", "expense"})
    counts = {"ok": result.ok, "quarantined": result.quarantined, "cached": result.cached}
    _event(ctx, "stage_finished", result.stage, result.key, result.seconds, detail, **counts)


def log_left(ctx: RunContext, stage: Stage, bill: Bill, seconds: float) -> None:
    """What was paid for a stage that did not come to its end; the same command goes on with it."""
    if bill.total != NOTHING:
        detail = {"label": stage.label, "table": stage.table, "expense": asdict(bill.total)}
        _event(ctx, "stage_left", stage.name, stage.key, seconds, detail, cached=False)


def _event(
    ctx: RunContext, name: str, stage: str, key: str, seconds: float, detail: dict[str, Any], **counts: Any
) -> None:
    if ctx.looks_only:
        return
    row = event(ctx.run, name, seconds=seconds, detail=canonical(detail))
    ctx.lake.log([{**row, "stage": stage, "stage_key": key, **counts}])


def canonical(value: Any) -> str:
    """JSON of a value, the same whatever the order of its names."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """16 hex digits that stand for a value of JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]
