"""Which complete sets of labels a lake holds, and which stages went into each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage.sql import query
from tasks.label_versions import stage_result, stages_by_use
from tasks.stage import StageRef

if TYPE_CHECKING:
    from storage.lake import Lake

_VERSIONS = """
SELECT s.item_id AS key, s.stage, json_extract_string(s.config, '$.arm') AS arm, s.ok, s.quarantined
FROM stages s LEFT JOIN runs e ON e.stage_key = s.item_id AND e.event = 'stage_finished'
WHERE s.output_table = 'preferences' GROUP BY ALL ORDER BY max(e."at") DESC NULLS LAST, key
"""


class LabelsError(ValueError):
    """There are no such labels in the lake; the message says which there are."""


@dataclass(frozen=True)
class LabelVersion:
    """A complete stage in the table `preferences`: `ok` instructions are labelled."""

    key: str
    stage: str
    arm: str
    ok: int
    quarantined: int

    def __str__(self) -> str:
        return f"{self.key} ({self.arm}, {self.stage}: {self.ok} ok, {self.quarantined} quarantined)"


def label_versions(lake: Lake) -> list[LabelVersion]:
    """All of them, those that a run used last first."""
    if not {"stages", "runs"} <= set(lake.tables()):
        return []
    return [LabelVersion(**row) for row in query(lake, _VERSIONS).to_pylist()]


def chosen_labels(lake: Lake, arm: str | None = None, key: str | None = None) -> LabelVersion:
    """The version with that key, or the last used one of an arm; of the only arm where none is named.

    Raises:
        LabelsError: there is none, or several arms and none is named.
    """
    found = label_versions(lake)
    fitting = [each for each in found if arm in (None, each.arm) and key in (None, each.key)]
    known = "\n".join(f"  {each}" for each in found) or "  none; label some with `rlaif run` or `rlaif import`"
    if not fitting:
        asked = " and ".join(f"{name} {value!r}" for name, value in (("arm", arm), ("key", key)) if value is not None)
        raise LabelsError(f"{lake.root} holds no complete labels{' of ' + asked if asked else ''}. There are:\n{known}")
    if key is None and len({each.arm for each in fitting}) > 1:
        raise LabelsError(f"{lake.root} holds labels of several arms; name one with --arm. There are:\n{known}")
    return fitting[0]


def latest_frames(lake: Lake) -> StageRef | None:
    """The complete frames stage that a run used last."""
    found = stages_by_use(lake, "frames")
    return stage_result(lake, found[0]).ref if found else None


def ancestors(lake: Lake, key: str) -> list[dict[str, Any]]:
    """Rows of the table `stages`: the stage with that key, then those that went into it, each once."""
    known = {row["item_id"]: row for row in lake.table("stages").read().to_pylist()}
    waiting, found = [key], dict[str, dict[str, Any]]()
    while waiting:
        row = known.get(waiting.pop(0))
        if row is not None and row["item_id"] not in found:
            found[row["item_id"]] = row
            waiting += [ref["key"] for ref in json.loads(row["inputs"])]
    return list(found.values())
