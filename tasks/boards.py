"""Training curves for TensorBoard, beside the report: `tensorboard --logdir runs/NAME/tensorboard`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from storage.tables import Table


class Board:
    """Copies one training's curves from table `metrics`, as far as they are committed, into event files.

    They are written anew by every run that trains, from the first step on: the lake has the curves of a killed run, and
    event files that two runs had appended to would show its steps twice.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        """`folder`: of the run's boards; None: nothing is written. `name`: of the training."""
        self._folder = folder and folder / re.sub(r"[^A-Za-z0-9._-]+", "_", name)
        self._writer: Any = None
        self._shown = 0

    def __enter__(self) -> Self:
        return self

    def show(self, metrics: Table, key: str, reached: int) -> None:
        """Writes the steps up to `reached` that are not written yet."""
        if self._folder is None or reached <= self._shown:
            return
        if self._writer is None:
            from tensorboardX import SummaryWriter

            shutil.rmtree(self._folder, ignore_errors=True)
            self._writer = SummaryWriter(str(self._folder))
        rows = metrics.read(key, columns=["name", "step", "value"]).to_pylist()
        for row in sorted(rows, key=lambda row: (row["step"], row["name"])):
            if self._shown < row["step"] <= reached:
                self._writer.add_scalar(row["name"], row["value"], row["step"])
        self._writer.flush()
        self._shown = reached

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()
