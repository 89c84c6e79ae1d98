"""summary.json: the numbers of a report for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.report import Page
    from tasks.report_scores import Checkpoint


def summary_of(page: Page) -> dict[str, Any]:
    """The page's numbers as JSON values. A number that was not measured is null."""
    usage = page.usage
    return {
        "run": page.name,
        "seed": page.seed,
        "headline": page.headline,
        "scores": {each.label: _scores(each) for each in page.checkpoints},
        "judge_agreement": {each.name: each.agreement.agreement for each in page.conditions},
        "judge_agreement_details": {each.name: _agreement(each) for each in page.conditions},
        "reward_models": {each.label: asdict(each) for each in page.rewards},
        "audit": [
            {
                "measure": each.measure,
                "version": each.version,
                "other": each.other,
                "value": each.found.value,
                "low": each.found.low,
                "high": each.found.high,
                "n": each.found.n,
            }
            for each in page.audited
        ],
        "stages": [
            {
                "name": each.name,
                "label": each.label,
                "seconds": round(each.seconds, 3),
                "work_seconds": round(each.work_seconds, 3),
                "items": each.items,
                "ok": each.ok,
                "quarantined": each.quarantined,
                "cached": each.cached,
            }
            for each in page.stages
        ],
        "costs": _costs(page),
        "flow": _flow(page),
        "wall_seconds": None if usage is None else round(usage.wall_seconds, 2),
        "cpu_seconds": None if usage is None else round(usage.cpu_seconds, 2),
        "peak_rss_mib": None if usage is None else round(usage.peak_rss_mib, 1),
        "peak_pss_mib": None if usage is None or usage.peak_pss_mib is None else round(usage.peak_pss_mib, 1),
        "decodes_per_video": page.economy.decodes_per_video,
        "tower_passes_per_video": max(page.economy.tower_passes.values(), default=None),
        "tower_passes_per_tower": page.economy.tower_passes,
        "tower_frames_per_kept_frame": page.economy.tower_frames,
        "checks": {each.name: each.passed for each in page.checks},
        "check_values": {each.name: each.values for each in page.checks},
        "command": page.command,
        "versions": page.versions,
    }


def _costs(page: Page) -> dict[str, Any]:
    """Each stage's price, and the plan's where there was one."""
    shown = ("calls", "input_tokens", "output_tokens", "cost", "memory_mib", "seconds")

    def told(line: Any) -> dict[str, Any] | None:
        return None if line is None else {name: getattr(line, name) for name in shown}

    plan, same = page.costs.plan, page.costs.same
    return {
        "plan": None if plan is None else {"wall_seconds": plan.wall_seconds, "cost": plan.cost, "same": same},
        "stages": [
            {"name": row.name, "planned": told(row.planned), "actual": told(row.came)} for row in page.costs.rows
        ],
    }


def _flow(page: Page) -> dict[str, float | None]:
    """What the flow itself adds to its stages: `overhead` is its wall time over the time that stages were under way,
    both without the start of Ray. Null where nothing was computed."""
    working = page.working_seconds - page.ray_start_seconds
    wall = None if page.usage is None else page.usage.wall_seconds - page.ray_start_seconds
    return {
        "ray_start_seconds": round(page.ray_start_seconds, 2),
        "working_seconds": round(working, 2),
        "overhead": None if wall is None or page.working_seconds == 0 else round(wall / working, 4),
    }


def _scores(each: Checkpoint) -> dict[str, Any]:
    return {
        **{name: found.value for name, found in each.measures.items()},
        "n": each.n,
        "cut": each.cut,
        "intervals": {name: [found.low, found.high] for name, found in each.measures.items()},
        "minus_sft": {
            name: {"value": found.value, "low": found.low, "high": found.high}
            for name, found in each.differences.items()
        },
        "recovery": each.recovery,
        "kinds": {kind: {"greedy_exact": found.value, "n": found.n} for kind, found in each.kinds.items()},
    }


def _agreement(each: Any) -> dict[str, Any]:
    found = each.agreement
    return {"low": found.low, "high": found.high, "n": found.n, "ties": found.ties, "choice": found.choice}
