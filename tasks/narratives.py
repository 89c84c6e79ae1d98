"""Reads the narratives that the stage `captions` wrote."""

from __future__ import annotations

from storage.lake import Lake
from tasks.stage import StageRef


class Narratives:
    """The narratives of a captions stage: one a video, or one an instruction where they were written for a question."""

    def __init__(self, lake: Lake, captions: StageRef | None) -> None:
        """`captions`: the stage; None: there are no narratives."""
        columns = ["item_id", "status", "reason", "instruction", "narrative"]
        rows = [] if captions is None else lake.table(captions.table).read(captions.key, columns=columns).to_pylist()
        self._told: dict[str, tuple[str | None, str | None]] = {
            row["item_id"]: (row["narrative"] or None, None if row["narrative"] else row["reason"] or "empty")
            for row in rows
        }
        self._asked = any(row["instruction"] is not None for row in rows)
        self._named = self._asked or any(row["status"] == "ok" for row in rows)

    def of(self, instruction: str, video: str) -> tuple[str | None, str | None]:
        """The narrative for an instruction about a video, or None and why there is none."""
        if not self._named:  # All are quarantined, so that no row tells what its item is.
            return self._told.get(instruction) or self._told.get(video) or (None, "was not captioned")
        return self._told.get(instruction if self._asked else video, (None, "was not captioned"))
