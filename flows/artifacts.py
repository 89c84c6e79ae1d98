"""What a run shows in the Prefect UI: progress while stages work, then a table of counts and the way to the report."""

import contextvars
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote
from uuid import UUID

from flows.environment import REPORTS_URL
from tasks.evaluation.conditions import OVERALL, Condition, cell_of, conditions_of
from tasks.evaluation.entries import Entry
from tasks.progress import SHOWN_AFTER_S, Bar, Progress
from tasks.stage import StageResult

logger = logging.getLogger(__name__)

UPDATE_EVERY_S = 1.0


def key(*words: str) -> str:
    """An artifact key: lower case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


@dataclass(eq=False)
class _ShownBar:
    """A bar in the terminal and, once it has lasted a while, an artifact in the UI."""

    terminal: Bar
    label: str
    total: int
    context: contextvars.Context
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    shown: int = -1
    artifact: UUID | None = None
    finished: bool = False

    def advance(self, count: int = 1) -> None:
        self.terminal.advance(count)
        self.done += count

    def finish(self) -> None:
        self.terminal.finish()
        self.finished = True


class ShownProgress:
    """A Progress that also keeps Prefect's progress artifacts up to date, from a thread of its own.

    Stages never wait for the server: bars only count, and the thread sends what changed once a second.
    """

    def __init__(self, terminal: Progress) -> None:
        self._terminal = terminal
        self._home = contextvars.copy_context()
        self._bars: list[_ShownBar] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="progress-artifacts", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def start(self, label: str, total: int) -> Bar:
        bar = _ShownBar(self._terminal.start(label, total), label, total, self._context())
        with self._lock:
            self._bars.append(bar)
        return bar

    def _context(self) -> contextvars.Context:
        """An artifact belongs to the task in whose context it is made, or to the flow for a thread without one."""
        from prefect.context import TaskRunContext

        here = contextvars.copy_context()
        return here if TaskRunContext.get() else self._home.run(contextvars.copy_context)

    def _loop(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(UPDATE_EVERY_S)
            with self._lock:
                bars = list(self._bars)
            for bar in bars:
                finished = bar.finished
                self._send(bar)
                if finished:
                    with self._lock:
                        self._bars.remove(bar)

    def _send(self, bar: _ShownBar) -> None:
        long = time.monotonic() - bar.began >= SHOWN_AFTER_S
        if bar.done == bar.shown or (bar.artifact is None and not long):
            return
        try:
            bar.shown = bar.done
            bar.artifact = bar.context.run(_show, bar)
        except Exception as error:
            # A picture of the progress must not cost the work: the next change tries again.
            logger.info("progress of %s was not shown: %s", bar.label, error)


def _show(bar: _ShownBar) -> UUID:
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    percent = 100.0 * bar.done / bar.total if bar.total else 100.0
    text = f"{bar.label}: {bar.done} of {bar.total}"
    if bar.artifact is not None:
        update_progress_artifact(bar.artifact, percent, text)  # type: ignore[unused-coroutine]
        return bar.artifact
    made = create_progress_artifact(percent, key("progress", bar.label), text)
    assert isinstance(made, UUID)
    return made


def show_counts(run: str, results: Sequence[StageResult]) -> None:
    """A table with one row a stage."""
    from prefect.artifacts import create_table_artifact

    rows = [
        {
            "stage": result.label or result.stage,
            "items": result.items,
            "ok": result.ok,
            "quarantined": result.quarantined,
            "reused": result.reused,
            "cached": result.cached,
            "seconds": round(result.seconds, 1),
        }
        for result in results
    ]
    create_table_artifact(rows, key("stages", run), f"What the stages of {run} did.")  # type: ignore[unused-coroutine]


def show_report(run: str, page: Path, summary: Mapping[str, Any]) -> None:
    """A link to the report, and a page with its scores and its path."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact

    create_link_artifact(_address(page), page.name, key("report", run), f"Report of {run}")  # type: ignore[unused-coroutine]
    scores = summary.get("scores", {})
    columns = ["greedy_exact", "greedy_slot", "sampled_exact", "n"]
    lines = [f"## {run}", "", f"Report: `{page}`", "", f"| model | {' | '.join(columns)} |", "|---" * 5 + "|"]
    lines += [
        f"| {name} | " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for name, row in scores.items()
    ]
    create_markdown_artifact("\n".join(lines), key("scores", run), f"Scores of {run}")  # type: ignore[unused-coroutine]


def show_scores(run: str, entries: Sequence[Entry]) -> None:
    """A table for each way of measuring, a row a number over all items: no two judges or protocols share one."""
    from prefect.artifacts import create_table_artifact

    for condition in conditions_of(entries):
        told = "; ".join(f"{name} {value}" for name, value in condition.settings)
        said = f"Scores of {run} on {condition.benchmark}. {told}."
        create_table_artifact(_scores(condition), _scores_key(run, condition), said)  # type: ignore[unused-coroutine]


def _scores_key(run: str, condition: Condition) -> str:
    """Names that differ in signs alone, and all that the numbers depend on, give keys of their own."""
    decisive = hashlib.sha256(repr((run, replace(condition, entries=()))).encode()).hexdigest()[:8]
    return key("evaluation", run, condition.benchmark, condition.protocol, decisive)


def _scores(condition: Condition) -> list[dict[str, Any]]:
    """Checkpoints x metrics; of a benchmark without a number over all items, its groups too."""
    overall = [entry for entry in condition.entries if entry.group == OVERALL]
    cells = [(entry, cell_of(entry, condition.units[entry.metric])) for entry in overall or condition.entries]
    return [
        {
            "checkpoint": entry.checkpoint,
            "metric": entry.metric + (", %" if condition.units[entry.metric].scale == 100 else ""),
            "of": entry.group,
            "value": cell.value,
            "95 %": cell.interval,
            "n": cell.n,
            "left out": cell.left_out,
        }
        for entry, cell in cells
    ]


def _address(page: Path) -> str:
    """Where a browser finds the page. From the UI it follows no link to a file, so one that is served comes first."""
    served, runs = os.environ.get(REPORTS_URL), Path("runs").absolute()
    if served and page.is_relative_to(runs):
        return f"{served}/{quote(page.relative_to(runs).as_posix())}"
    return page.as_uri()


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def show_moves(run: str, arm: str, moves: Sequence[Mapping[str, Any]], page: Path) -> None:
    """A table of how one arm's labels moved, and the way to the page with examples."""
    from prefect.artifacts import create_table_artifact

    said = f"Labels of {arm}: before and after. Examples: [{page.name}]({_address(page)}) (`{page}`)"
    create_table_artifact([dict(row) for row in moves], key("moves", run, arm), said)  # type: ignore[unused-coroutine]
