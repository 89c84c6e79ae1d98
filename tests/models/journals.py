"""A journal in a folder that can die while it saves, and what an interrupted training must equal."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from models.training import Metrics

Death = Literal["before", "after"]


class Killed(RuntimeError):
    """The process ended here."""


@dataclass
class FolderJournal:
    """Keeps every state in a folder of its own.

    Attributes:
        folder: where to.
        dies_at: number of the save (1 is the first) that never returns.
        death: whether that save dies before or after its state is kept.
        curves: what was logged, by step.
        saved: the steps whose states were kept.
    """

    folder: Path
    dies_at: int = 0
    death: Death = "before"
    curves: dict[int, Metrics] = field(default_factory=dict)
    saved: list[int] = field(default_factory=list)
    _saves: int = 0

    def resume(self) -> Path | None:
        states = sorted(self.folder.glob("state-*"))
        return states[-1] if states else None

    def save(self, step: int, folder: Path) -> None:
        self._saves += 1
        if self._saves == self.dies_at and self.death == "before":
            raise Killed
        shutil.copytree(folder, self.folder / f"state-{step:04d}")
        self.saved.append(step)
        if self._saves == self.dies_at:
            raise Killed

    def log(self, step: int, metrics: Metrics) -> None:
        self.curves[step] = metrics


def other_process() -> None:
    """Leave the global random generators as another process would: nothing may hang on them."""
    seed = random.SystemRandom().randrange(1 << 31)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def outcomes(train: Callable[[FolderJournal, Path], None], folder: Path, saves: int) -> Iterator[dict[str, bytes]]:
    """The files that a training ends with: undisturbed, then killed at each of its saves and begun again.

    Args:
        train: trains from nothing with a journal and writes its result to a folder.
        folder: an empty folder.
        saves: how often an undisturbed training saves.
    """
    calm = FolderJournal(folder / "calm")
    train(calm, folder / "calm-out")
    assert len(calm.saved) == saves
    yield files_of(folder / "calm-out")
    for number in range(1, saves + 1):
        death: Death = "before" if number % 2 else "after"
        states, out = folder / f"killed-{number}", folder / f"killed-{number}-out"
        dying = FolderJournal(states, number, death)
        try:
            train(dying, out)
        except Killed:
            assert not out.exists()
        else:
            raise AssertionError(f"save {number} was never reached")
        other_process()
        again = FolderJournal(states)
        train(again, out)
        reached = max(dying.saved, default=0)  # it goes on from there instead of beginning again
        assert again.curves == {step: values for step, values in calm.curves.items() if step > reached}
        yield files_of(out)


def files_of(folder: Path) -> dict[str, bytes]:
    """Name -> content of every file in a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
