"""How an arm's labels moved between two labellings, and what a lake holds to start a labelling from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storage.sql import query
from tasks.stage import StageResult

if TYPE_CHECKING:
    from storage.lake import Lake

# A pair counts as the same in both when the answers are, whichever was called a.
_MOVES = """
WITH pairs AS (
    SELECT stage_key, instruction,
           least(answer_a, answer_b) AS one, greatest(answer_a, answer_b) AS other,
           max(CASE WHEN preferred = 'tie' THEN 'tie'
                    WHEN (preferred = 'a') = (answer_a < answer_b) THEN 'one' ELSE 'other' END) AS label
    FROM preferences WHERE status = 'ok' AND stage_key IN ($before, $after) GROUP BY ALL),
joined AS (
    SELECT coalesce(b.instruction, a.instruction) AS instruction,
           CASE WHEN b.label IS NULL THEN 'new' WHEN a.label IS NULL THEN 'gone'
                WHEN a.label = b.label THEN 'the same'
                WHEN a.label = 'tie' THEN 'now a tie' WHEN b.label = 'tie' THEN 'no longer a tie'
                ELSE 'turned round' END AS label
    FROM (SELECT * FROM pairs WHERE stage_key = $before) b
    FULL JOIN (SELECT * FROM pairs WHERE stage_key = $after) a USING (instruction, one, other))
SELECT label, count(*) AS pairs, min(instruction) AS example FROM joined GROUP BY label ORDER BY pairs DESC, label
"""

_LATEST = """
SELECT s.* FROM stages s JOIN runs e ON e.stage_key = s.item_id AND e.event = 'stage_finished'
WHERE s.stage = $stage AND s.model = $model AND coalesce(json_extract_string(s.config, '$.arm'), '') = $arm
ORDER BY e."at" DESC, e.event_id LIMIT 1
"""


def moves(lake: Lake, before: str, after: str) -> list[dict[str, Any]]:
    """Counts of pairs by what became of their label, with the id of one instruction each.

    `before` (empty: there was none) and `after` are stage keys of the table `preferences`. "label" is one of: the same,
    turned round, now a tie, no longer a tie, new, gone.
    """
    rows: list[dict[str, Any]] = query(lake, _MOVES, {"before": before, "after": after}).to_pylist()
    return rows


def latest(lake: Lake, stage: str, model: str, arm: str = "") -> StageResult | None:
    """The result of the complete stage of that name, model and arm that was last used; None where there is none."""
    if not {"stages", "runs"} <= set(lake.tables()):
        return None
    found = query(lake, _LATEST, {"stage": stage, "model": model, "arm": arm}).to_pylist()
    if not found:
        return None
    row = found[0]
    counts = {name: row[name] for name in ("items", "ok", "quarantined")}
    table = row["output_table"]
    return StageResult(
        stage=stage,
        label=None,
        table=table,
        key=row["item_id"],
        version=lake.table(table).version(),
        reused=0,
        seconds=0.0,
        work_seconds=0.0,
        cached=True,
        **counts,
    )
