"""Training curves where people look at them: TensorBoard always, MLflow and Weights & Biases where a run asks for them.

What is shown is a copy: table `metrics` of the lake stays the one place.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from storage.tables import Table

TrackerName = Literal["mlflow", "wandb"]
# What is installed, and where it learns who it is from: a run's parameters hold no keys.
INSTALLED_AS = {"mlflow": "mlflow-skinny", "wandb": "wandb"}


@dataclass(frozen=True)
class Shown:
    """Where a run's curves are shown.

    Attributes:
        folder: of the event files for TensorBoard; None: none are written.
        trackers: further places.
        run: name of the run, under which trackers list its trainings.
    """

    folder: Path | None = None
    trackers: tuple[TrackerName, ...] = ()
    run: str = ""


NOWHERE = Shown()


class Writer(Protocol):
    """One place for the curves of one training."""

    def add(self, step: int, values: dict[str, float]) -> None:
        """Show a step's values; steps come in order, each once."""
        ...

    def close(self) -> None: ...


class Board:
    """Copies one training's curves from table `metrics`, as far as they are committed, to every place.

    They are shown anew by every run that trains, from the first step on: the lake has the curves of a killed run, and
    event files that two runs had appended to would show its steps twice.
    """

    def __init__(self, shown: Shown, name: str) -> None:
        """`name`: of the training."""
        self._places, self._name = shown, name
        self._writers: list[Writer] | None = None
        self._shown = 0

    def __enter__(self) -> Self:
        return self

    def show(self, metrics: Table, keys: Sequence[str], reached: int) -> None:
        """Shows the steps up to `reached` that are not shown yet; `keys`: of the training's stages, in order."""
        if reached <= self._shown:
            return
        if self._writers is None:
            self._writers = _writers(self._places, self._name)
        if not self._writers:
            return
        steps: dict[int, dict[str, float]] = {}
        for key in keys:
            for row in metrics.read(key, columns=["name", "step", "value"]).to_pylist():
                if self._shown < row["step"] <= reached:
                    steps.setdefault(row["step"], {})[row["name"]] = row["value"]
        for step in sorted(steps):
            for writer in self._writers:
                writer.add(step, dict(sorted(steps[step].items())))
        self._shown = reached

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for writer in self._writers or []:
            writer.close()


def check_installed(trackers: Sequence[TrackerName]) -> None:
    """Raises ValueError for a tracker that is not installed; called before a run begins."""
    from importlib.util import find_spec

    for tracker in trackers:
        if find_spec(tracker) is None:
            raise ValueError(
                f"run.trackers names {tracker}, which is not installed: pip install {INSTALLED_AS[tracker]}, or leave "
                "it out. The curves stand in TensorBoard's files and in the report in any case."
            )


def _writers(shown: Shown, name: str) -> list[Writer]:
    made: list[Writer] = [] if shown.folder is None else [_TensorBoard(shown.folder, name)]
    ways: dict[str, Any] = {"mlflow": _Mlflow, "wandb": _Wandb}
    return [*made, *(ways[tracker](shown.run, name) for tracker in shown.trackers)]


class _TensorBoard:
    def __init__(self, folder: Path, name: str) -> None:
        from tensorboardX import SummaryWriter

        own = folder / re.sub(r"[^A-Za-z0-9._-]+", "_", name)
        shutil.rmtree(own, ignore_errors=True)
        self._writer = SummaryWriter(str(own))

    def add(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Mlflow:
    """A run of the experiment that has the run's name; the server is what MLFLOW_TRACKING_URI says."""

    def __init__(self, run: str, name: str) -> None:
        import mlflow

        self._client = mlflow.MlflowClient()
        known = self._client.get_experiment_by_name(run)
        experiment = self._client.create_experiment(run) if known is None else known.experiment_id
        self._run = self._client.create_run(experiment, run_name=name).info.run_id

    def add(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class _Wandb:
    """A run of the group that has the run's name; project, key and mode are what WANDB_* say."""

    def __init__(self, run: str, name: str) -> None:
        import wandb

        # Several trainings of one process are shown beside each other.
        self._run = wandb.init(group=run, name=name, reinit="create_new")

    def add(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()
