"""Where a training leaves its states and its curves: tables `checkpoints` and `metrics` of the lake."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.lake import Lake
from storage.schemas import STATE_SUFFIX
from tasks.expense import STEP_CLOCK
from tasks.stage import StageRef

if TYPE_CHECKING:
    from tasks.training import Training


@dataclass
class LakeJournal:
    """The journal of one training stage (models.training.Journal).

    Curves are committed before the state that covers them: a killed run repeats at most the steps since the last state,
    and the lake refuses the curves that are there already. A stage that goes on from another (`begun`) begins with the
    state that the other's final row names; its rows of states are taken by `rlaif gc` once it has ended.
    """

    lake: Lake
    training: Training
    begun: StageRef | None = None
    _pending: list[dict[str, Any]] = field(default_factory=list)

    def resume(self) -> Path | None:
        STEP_CLOCK.begin()
        state = self.last_state()
        if state is None and self.begun is not None:
            state = _state_at_the_end(self.lake, self.begun)
        return None if state is None else self.lake.blobs.folder(state)

    def last_state(self) -> str | None:
        """The blob of the last state that this stage saved."""
        rows = self.lake.table("checkpoints").read(self._state_key, ["step", "state"]).to_pylist()
        return max(rows, key=lambda row: int(row["step"]))["state"] if rows else None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        STEP_CLOCK.step()
        self._pending += [
            {**self._provenance(step), "step": step, "name": name, "value": value, "arm": self.training.arm}
            for name, value in metrics.items()
        ]

    def save(self, step: int, folder: Path) -> None:
        blob = self.lake.blobs.put_folder(folder)
        self.lake.table("metrics").commit_shard(self._pending, stage_key=self.training.key, shard=step)
        self._pending = []
        row = {**self._provenance(step), **checkpoint_row(self.training, step, final=False), "state": blob}
        self.lake.table("checkpoints").commit_shard([row], stage_key=self._state_key, shard=step)

    @property
    def _state_key(self) -> str:
        return f"{self.training.key}{STATE_SUFFIX}"

    def _provenance(self, step: int) -> dict[str, Any]:
        return {
            "item_id": f"{step:06d}",
            "status": "ok",
            "item_key": self.training.key,
            "run": self.training.run,
            "model": self.training.model.identity,
            "seed": self.training.seed,
        }


@dataclass
class ReadJournal:
    """The journal of a worker that is not the first of its training: it begins where the first one does."""

    journal: LakeJournal

    def resume(self) -> Path | None:
        return self.journal.resume()

    def save(self, step: int, folder: Path) -> None:
        """The first worker does."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """The first worker does."""


def checkpoint_row(
    training: Training, step: int, *, final: bool, metrics: dict[str, float] | None = None
) -> dict[str, Any]:
    """A row of table `checkpoints`, without its blobs."""
    return {
        "role": training.role,
        "step": step,
        "final": final,
        "base": training.model.label,
        "merged": list(training.model.merged),
        "arm": training.arm,
        "metrics": json.dumps(metrics or {}, sort_keys=True),
    }


def _state_at_the_end(lake: Lake, training: StageRef) -> str:
    rows = lake.table(training.table).read(training.key, columns=["final", "state"]).to_pylist()
    states = [row["state"] for row in rows if row["final"] and row["state"]]
    if not states:
        raise ValueError(
            f"The final row of training {training.key} in table {training.table} names no state, so nothing can go on "
            "from it. If nobody changed the lake by hand, this is a bug; a new lake helps."
        )
    state: str = states[0]
    return state
