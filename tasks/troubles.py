"""Why items were quarantined, said in a few lines however many they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.sql import query

if TYPE_CHECKING:
    from storage.lake import Lake

EXAMPLES = 3


@dataclass(frozen=True)
class Trouble:
    """Items that were quarantined for one reason, given as the first of them has it."""

    reason: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.count} x such as {self.examples[0]}: {self.reason}"


def troubles_of(lake: Lake, table: str, key: str) -> tuple[Trouble, ...]:
    """Why items of the stage `key` were quarantined, commonest first.

    Reasons that differ only in the item's name and in numbers are one.
    """
    sql = f"""SELECT item_id, any_value(reason) AS reason FROM {lake.table(table).name}
              WHERE stage_key = $key AND status = 'quarantined' GROUP BY item_id ORDER BY item_id"""
    items: dict[str, list[tuple[str, str]]] = {}
    for row in query(lake, sql, {"key": key}).to_pylist():
        items.setdefault(_kind(row["reason"], row["item_id"]), []).append((row["item_id"], row["reason"]))
    found = [Trouble(same[0][1], len(same), tuple(item for item, _ in same[:EXAMPLES])) for same in items.values()]
    return tuple(sorted(found, key=lambda trouble: (-trouble.count, trouble.reason)))


def _kind(reason: str, item: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", reason.replace(item, "…"))
