"""Rows that a stage may copy instead of computing them: those of the same item under another key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from storage.tables import Table
    from tasks.stage import Stage


def copies(table: Table, stage: Stage, keys: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows of items that stand ok, with the same item_key, under another stage key: by item id.

    `keys` are those of the stage's items. A stage without `reuse` copies from its own attempt before alone.
    """
    known = table.read(None if stage.reuse else stage.before, columns=["stage_key", "item_key", "status"])
    usable = known.filter(pc.and_(pc.equal(known["status"], "ok"), pc.not_equal(known["stage_key"], stage.key)))
    usable = usable.filter(pc.is_in(usable["item_key"], pa.array(keys, pa.string())))
    owner = dict(
        sorted(zip(usable["item_key"].to_pylist(), usable["stage_key"].to_pylist(), strict=True), reverse=True)
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for key in sorted(set(owner.values())):
        rows = table.read(key)
        wanted = pa.array([item for item, owned_by in owner.items() if owned_by == key], pa.string())
        for row in rows.filter(pc.is_in(rows["item_key"], wanted)).drop_columns(["stage_key", "shard"]).to_pylist():
            found.setdefault(row["item_id"], []).append(row)
    return found
