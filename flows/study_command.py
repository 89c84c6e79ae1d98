"""The command `rlaif study`: arms over several seeds, and what of it can be believed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows import environment

if TYPE_CHECKING:
    from flows.study_file import Plan
    from flows.study_runs import Run
    from storage.lake import Lake
    from tasks.study_page import ArmTold, Curve

Named = dict[str, str]  # The stages of a run: their keys by their names.


@dataclass(frozen=True)
class Compared:
    """What a study came to: its tables, the page that keeps them, and what went wrong, in words."""

    table: str
    page: Path
    failures: Sequence[str] = ()


def study_preset(preset: str, overrides: Sequence[str], count: int) -> Compared:
    """Run the preset with `count` seeds, from its own on, in one lake, and compare its models over the seeds.

    What no seed moves (frames, captions, the base's scores) is computed once; a study that was stopped goes on where it
    was, and one more seed or arm adds its own part only.

    Raises:
        PresetError: the preset or an override is wrong.
    """
    from flows.presets import load

    plan = load(preset, overrides)
    from flows.parameters import Parameters
    from flows.rlaif import rlaif
    from flows.s3_block import s3_environment
    from storage.lake import Lake
    from tasks.study import studies_of
    from tasks.study_page import Findings, markdown, write_study

    environment.before_flows()
    folder, root = plan.run.results, plan.run.lake_root
    keys = {}
    for seed in range(plan.run.seed, plan.run.seed + count):
        own = [f"run.seed={seed}", f"run.name={plan.run.name}-seed{seed}"]
        parameters = load(preset, [*overrides, *own, f"run.lake={root}", f"run.folder={folder / f'seed{seed}'}"])
        done = rlaif(**{name: getattr(parameters, name) for name in Parameters.model_fields})
        keys[seed] = done["scores"]
    with s3_environment(plan.run.s3_block):
        studies = studies_of(Lake(root), keys)
    return Compared(markdown(studies[0]), write_study(Findings(f"Study {plan.run.name}", studies), folder))


def study_arms(
    name: str, preset: str | None, overrides: Sequence[str], seeds: int, parallel: int, tell: Callable[[str], None]
) -> Compared:
    """Run every arm of a study file with every seed in one lake, and compare what is there at the end.

    Args:
        name: a name in deployments/studies, or the path of a YAML file.
        preset: in place of the one that the file names.
        overrides: on top of the preset, in every arm.
        seeds: how many, from the preset's own on.
        parallel: runs at a time; 0 runs nothing and compares what is there.
        tell: is handed a line for each run that ends.

    Raises:
        StudyError: the file is wrong, or no run of the study has ended.
        PresetError: there is no such file.
    """
    from flows.study_file import plan_study

    plan = plan_study(name, preset, overrides)
    from flows.study_runs import perform, runs_of, stages_done

    environment.before_flows()
    runs = runs_of(plan, seeds, parallel)
    tell(f"{len(runs)} runs of {len(plan.file.arms)} arms, lake {plan.first.run.lake_root}")
    done = {run.id: stages for run in runs if (stages := stages_done(run.parameters))}
    tell(f"{len(done)} of them are done")
    failed: list[Run] = []
    if parallel and len(done) < len(runs):
        with _ending_on_request(), _prefect_server() as address:
            failed = perform(runs, done, parallel, {**os.environ, **address}, tell)
        left = [run for run in runs if run.id not in done]
        done |= {run.id: stages for run in left if (stages := stages_done(run.parameters))}
    return _compared(plan, runs, done, failed)


def _compared(plan: Plan, runs: Sequence[Run], done: dict[tuple[str, int], Named], failed: Sequence[Run]) -> Compared:
    from flows.s3_block import s3_environment
    from flows.study_file import StudyError
    from storage.lake import Lake
    from tasks.study import studies_of
    from tasks.study_page import Findings, markdown, write_study

    if not done:
        raise StudyError(f"No run of the study has ended. Logs: {', '.join(str(run.log) for run in failed) or 'none'}")
    stages: dict[int, dict[str, Named]] = {}
    for run in sorted(runs, key=lambda run: (run.seed, [*plan.file.arms].index(run.arm))):
        if run.id in done:
            stages.setdefault(run.seed, {})[run.arm] = done[run.id]
    keys = {seed: _scores(arms) for seed, arms in stages.items()}
    failures = [f"{run} failed, log {run.log}" for run in failed]
    missing = failures + [f"{run} was not run" for run in runs if run.id not in done and run not in failed]
    with s3_environment(plan.first.run.s3_block):
        lake = Lake(plan.first.run.lake_root)
        studies = studies_of(lake, keys, plan.file.compare)
        arms = _told(plan, lake, stages)
    found = Findings(plan.file.title, studies, arms, _curves(plan, arms), missing)
    return Compared(markdown(studies[0]), write_study(found, plan.first.run.results), failures)


def _scores(arms: dict[str, Named]) -> Named:
    """The scores of one seed's models; base and SFT are the same in every run."""
    from tasks.report_scores import BASE, SFT

    first = next(iter(arms.values()))
    return {label: first[f"benchmark {label}"] for label in (BASE, SFT)} | {
        arm: named[f"benchmark {arm}"] for arm, named in arms.items()
    }


def _told(plan: Plan, lake: Lake, stages: dict[int, dict[str, Named]]) -> dict[str, ArmTold]:
    from tasks.study_cost import costs_of_arms, decided_labels
    from tasks.study_page import ArmTold

    costs, labels = costs_of_arms(lake, stages), decided_labels(lake, stages)
    return {
        name: ArmTold(arm.description, plan.own(name), costs.get(name), labels.get(name))
        for name, arm in plan.file.arms.items()
    }


def _curves(plan: Plan, arms: dict[str, ArmTold]) -> list[Curve]:
    """The curves, each arm over its number or over how many labels it learned from."""
    from tasks.study_page import Curve

    found = []
    for name, curve in plan.file.curves.items():
        points = curve.points
        if isinstance(points, list):
            points = {arm: labels for arm in points if arm in arms and (labels := arms[arm].labels) is not None}
        found.append(Curve(name, curve.title, curve.axis, points))
    return found


@contextmanager
def _prefect_server() -> Iterator[dict[str, str]]:
    """Where the runs find a Prefect server: the user's, or one that all of them share.

    Each would otherwise start its own on the same database.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        yield {}
        return
    with SubprocessASGIServer() as server:
        yield {"PREFECT_API_URL": server.api_url}


@contextmanager
def _ending_on_request() -> Iterator[None]:
    """A request to end this process ends the runs too."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
