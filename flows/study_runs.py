"""The runs of a study: which there are, which are done, and the others beside each other as processes."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from flows.parameters import Parameters
from flows.plan import what_is_done
from flows.study_file import Plan
from tasks.pages import duration
from tasks.progress import SilentProgress

POLL_S = 0.5
STOP_S = 60.0  # For a run to end after it was told to; then it is killed.


@dataclass(frozen=True)
class Run:
    """One arm with one seed.

    Attributes:
        arm: its name.
        seed: of everything random.
        parameters: of the run.
        command: that runs it.
        after: the run whose end it waits for, as it computes what this one shares; None: it waits for nobody.
    """

    arm: str
    seed: int
    parameters: Parameters
    command: tuple[str, ...]
    after: tuple[str, int] | None

    @property
    def id(self) -> tuple[str, int]:
        return self.arm, self.seed

    @property
    def log(self) -> Path:
        return self.parameters.run.results / "run.log"

    def __str__(self) -> str:
        return f"{self.arm} seed {self.seed}"


def runs_of(plan: Plan, seeds: int, parallel: int) -> list[Run]:
    """Every run of a study, in the order in which they begin.

    What arms share (SFT, candidates, the scores of base and SFT) is computed once a seed, and some of it (frames,
    captions) once at all: the first arm of the first seed goes before everything else, with all the workers; then the
    first arm of every other seed; then the rest, seed by seed.
    """
    leader, *others = plan.file.arms
    first, *later = range(plan.first.run.seed, plan.first.run.seed + seeds)
    start = (leader, first)
    runs = [_run(plan, *start, None, workers=max(1, parallel))]
    runs += [_run(plan, leader, seed, start) for seed in later]
    return runs + [_run(plan, arm, seed, (leader, seed)) for seed in (first, *later) for arm in others]


def _run(plan: Plan, arm: str, seed: int, after: tuple[str, int] | None, workers: int | None = None) -> Run:
    shared = plan.first.run
    own = {
        "seed": seed,
        "name": f"{shared.name}-{arm}-seed{seed}",
        "lake": shared.lake_root,
        "folder": str(shared.results / f"seed{seed}" / arm),
    } | ({} if workers is None else {"workers": workers})
    parameters = plan.parameters[arm]
    placed = parameters.model_copy(update={"run": parameters.run.model_copy(update=own)})
    overrides = [*plan.overrides[arm], *(f"run.{key}={json.dumps(value)}" for key, value in own.items())]
    command = (sys.executable, "-m", "flows.cli", "run", "--preset", plan.preset, *overrides)
    return Run(arm, seed, placed, command, after)


def stages_done(p: Parameters) -> dict[str, str] | None:
    """The stages of a run by name, with their keys, where all of them stand in the lake."""
    visits = what_is_done(p, SilentProgress())
    named = {name: visit.result.key for name, visit in visits.items() if visit.result is not None}
    return named if visits and len(named) == len(visits) else None


def perform(
    runs: Sequence[Run],
    done: Collection[tuple[str, int]],
    parallel: int,
    environment: Mapping[str, str],
    tell: Callable[[str], None],
) -> list[Run]:
    """Run what is not done, `parallel` at a time; one line is told for each that ends.

    Args:
        runs: all of the study's.
        done: those that need not be run.
        parallel: processes at once.
        environment: of the processes.
        tell: is handed each line.

    Returns:
        The runs that failed. What waited for one of them was run all the same.
    """
    began, failed = time.monotonic(), list[Run]()
    ended, waiting = set(done), [run for run in runs if run.id not in done]
    count = len(waiting)
    with _processes(environment) as processes:
        while waiting or processes.running:
            ready = [run for run in waiting if run.after is None or run.after in ended]
            for run in ready[: parallel - len(processes.running)]:
                waiting.remove(run)
                processes.start(run)
            for run, code, seconds in processes.ended():
                ended.add(run.id)
                if code:
                    failed.append(run)
                left = len(waiting) + len(processes.running)
                over = count - left
                tell(f"{over}/{count} {_said(run, code, seconds)}; {_left(left, (time.monotonic() - began) / over)}")
            time.sleep(POLL_S)
    return failed


def _said(run: Run, code: int, seconds: float) -> str:
    if not code:
        return f"{run}: done in {duration(seconds)}"
    lines = run.log.read_text(errors="replace").strip().splitlines()
    return f"{run}: FAILED with {code} after {duration(seconds)}, log {run.log}: {lines[-1] if lines else 'empty'}"


def _left(left: int, seconds: float) -> str:
    return f"{left} left, about {duration(left * seconds)}" if left else "none left"


class _Processes:
    """The runs under way."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.running: dict[str, tuple[Run, subprocess.Popen[bytes], IO[bytes], float]] = {}

    def start(self, run: Run) -> None:
        run.log.parent.mkdir(parents=True, exist_ok=True)
        log = run.log.open("wb")
        log.write(f"{shlex.join(run.command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            run.command, env=dict(self._environment), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        self.running[str(run)] = (run, process, log, time.monotonic())

    def ended(self) -> Iterator[tuple[Run, int, float]]:
        """The runs that have ended since this was asked last, with their exit status and seconds."""
        for name, (run, process, log, began) in [*self.running.items()]:
            if process.poll() is not None:
                del self.running[name]
                log.close()
                yield run, process.returncode, time.monotonic() - began

    def stop(self) -> None:
        """Ends all; what they committed is kept."""
        for _, process, _, _ in self.running.values():
            process.terminate()
        for _, process, log, _ in self.running.values():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
            log.close()


@contextmanager
def _processes(environment: Mapping[str, str]) -> Iterator[_Processes]:
    processes = _Processes(environment)
    try:
        yield processes
    finally:
        processes.stop()
