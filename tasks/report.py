"""The report of a run: one HTML file that needs nothing beside it, and summary.json."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from models.slots import SlotVocabulary
from tasks import audit_tables, report_cost, report_figures
from tasks.audit import read_audit
from tasks.audit_limits import Finding
from tasks.grading import Grader
from tasks.pages import map_texts, render, without_places, write
from tasks.report_checks import Check, Economy, checks_of, economy_of
from tasks.report_cost import Costs, costs_of
from tasks.report_data import Arm, Curve, Graph, StageRow, arms_of, curves_of, stages_of, working_seconds
from tasks.report_pairs import Pair, pairs_of
from tasks.report_rewards import Reward, rewards_of
from tasks.report_scores import Checkpoint, Condition, checkpoints_of, conditions_of, headline
from tasks.stage import RunContext, StageResult
from tasks.summary import summary_of
from tasks.usage import Usage

if TYPE_CHECKING:
    from storage.lake import Lake

PAGE, SUMMARY = "report.html", "summary.json"
_PACKAGES = (
    "video-rlaif", "torch", "transformers", "peft", "ray", "prefect", "deltalake", "pyarrow", "duckdb", "decord", "av",
    "pillow", "numpy", "matplotlib",
)  # fmt: skip


class ReportConfig(BaseModel):
    """What the report shows."""

    model_config = ConfigDict(extra="forbid")

    pairs: int = Field(12, ge=0, description="Preference pairs to show with their frames.")


@dataclass(frozen=True)
class Page:
    """Everything on the page. Empty lists and None are parts that this run does not have."""

    name: str
    seed: int
    headline: str
    notes: list[str]
    arms: list[Arm]
    checkpoints: list[Checkpoint]
    policy_curves: list[Curve]
    reward_curves: list[Curve]
    rewards: list[Reward]
    sft_curves: list[Curve]
    conditions: list[Condition]
    audited: list[Finding]
    pairs: list[Pair]
    stages: list[StageRow]
    costs: Costs
    working_seconds: float
    ray_start_seconds: float
    checks: list[Check]
    economy: Economy
    usage: Usage | None
    versions: dict[str, str]
    machine: str
    command: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    lake: str = ""


def report(
    ctx: RunContext,
    config: ReportConfig,
    results: list[StageResult],
    graph: Graph[StageResult],
    usage: Usage | None,
    command: str,
    parameters: dict[str, Any],
) -> Path:
    """Write report.html and summary.json into the run's folder and return the page's path.

    Args:
        ctx: the run.
        config: what is shown.
        results: every stage of the run, in order.
        graph: some of them by their places.
        usage: time and memory of the run; None: not measured.
        command: what reproduces the run, freed of this machine's places.
        parameters: the run's whole configuration, as JSON values.
    """
    portable = without_places(Path.cwd())
    page = _page(ctx, config, results, graph, usage, parameters)
    page = replace(
        page,
        command=command,
        parameters=map_texts(parameters, portable),
        lake=portable(ctx.lake_root),
    )
    folder = _folder(ctx, parameters)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / SUMMARY, json.dumps(summary_of(page), indent=2, ensure_ascii=False) + "\n")
    write(
        folder / PAGE,
        render("report.html.j2", portable, page=page, figures=report_figures, audit=audit_tables, cost=report_cost),
    )
    return folder / PAGE


def _folder(ctx: RunContext, parameters: Mapping[str, Any]) -> Path:
    """Where the run's results go."""
    return Path((parameters.get("run") or {}).get("folder") or f"runs/{ctx.run}").absolute()


def _page(
    ctx: RunContext,
    config: ReportConfig,
    results: list[StageResult],
    graph: Graph[StageResult],
    usage: Usage | None,
    parameters: dict[str, Any],
) -> Page:
    """What the lake says about the run."""
    lake = ctx.lake
    arms = arms_of(lake, graph.preferences, parameters)
    checkpoints = checkpoints_of(lake, graph.scores, arms)
    said, notes = headline(checkpoints, arms)
    return Page(
        name=ctx.run,
        seed=ctx.seed,
        headline=said,
        notes=notes,
        arms=arms,
        checkpoints=checkpoints,
        policy_curves=curves_of(lake, graph.policies, graph.segments),
        reward_curves=curves_of(lake, graph.rewards),
        rewards=rewards_of(lake, graph.rewards),
        sft_curves=[] if graph.sft is None else curves_of(lake, {"sft": graph.sft}),
        conditions=conditions_of(lake, graph.agreement, arms, parameters),
        audited=[finding for result in graph.audits.values() for finding in read_audit(lake, result.ref)],
        pairs=_pairs(lake, arms, graph.preferences, results, parameters, config.pairs),
        stages=stages_of(lake, ctx.run, results),
        costs=costs_of(lake, _folder(ctx, parameters), results, parameters, usage),
        working_seconds=working_seconds(lake, ctx.run, results),
        ray_start_seconds=ctx.pool.start_seconds,
        checks=checks_of(lake, graph.trainings, [each for each in results if each.stage == "candidates"]),
        economy=economy_of(lake),
        usage=usage,
        versions=versions(),
        machine=machine(),
    )


def _pairs(
    lake: Lake,
    arms: Sequence[Arm],
    preferences: Mapping[str, StageResult],
    results: Sequence[StageResult],
    parameters: Mapping[str, Any],
    count: int,
) -> list[Pair]:
    stages = {each.stage: each for each in results}
    chosen = [(parameters.get(part) or {}).get("slots") for part in ("agreement", "benchmark")]
    slots = next((SlotVocabulary(**each) for each in chosen if each), None)
    return pairs_of(
        lake, arms, preferences, stages.get("instructions"), stages.get("frames"), Grader(slots), count=count
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the results."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Cores and memory; nothing that names the machine."""
    import psutil

    memory = psutil.virtual_memory().total / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU cores ({platform.machine()}), {memory:.0f} GiB of memory, {platform.system()}"
