"""How an arm's labels moved between two labellings, and what a lake holds to start a labelling from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from storage.sql import query
from tasks.label_versions import stage_result, stages_by_use
from tasks.stage import StageResult

if TYPE_CHECKING:
    from storage.lake import Lake

# Events of a labelling, each with the labels of its arms by stage key: those before, and those that it told of.
BEGAN, TOLD = "labels_began", "labels_told"

# A pair counts as the same in both when the answers are, whichever was called a. Of a pair that was judged more than
# once in a labelling, the first counts.
_JOINED = """
WITH upright AS (
    SELECT *, answer_a <= answer_b AS straight, least(answer_a, answer_b) AS one, greatest(answer_a, answer_b) AS other
    FROM preferences WHERE status = 'ok' AND stage_key IN ($before, $after)),
pairs AS (
    SELECT stage_key, instruction, video, question, one, other, method, narrative, a, b,
           CASE WHEN preferred = 'tie' THEN 'tie' WHEN (preferred = 'a') = straight THEN 'a' ELSE 'b' END AS label,
           CASE WHEN straight THEN p_a ELSE 1 - p_a END AS p
    FROM upright QUALIFY row_number() OVER (PARTITION BY stage_key, instruction, one, other ORDER BY a, b) = 1),
joined AS (
    SELECT coalesce(b.instruction, a.instruction) AS instruction, one, other,
           coalesce(a.video, b.video) AS video, coalesce(a.question, b.question) AS question,
           coalesce(a.method, b.method) AS method,
           b.label AS label_before, b.p AS p_before, b.narrative AS narrative_before,
           a.label AS label_after, a.p AS p_after, a.narrative AS narrative_after,
           CASE WHEN b.label IS NULL THEN 'new' WHEN a.label IS NULL THEN 'gone'
                WHEN a.label = b.label THEN 'the same'
                WHEN a.label = 'tie' THEN 'now a tie' WHEN b.label = 'tie' THEN 'no longer a tie'
                ELSE 'turned round' END AS label
    FROM (SELECT * FROM pairs WHERE stage_key = $before) b
    FULL JOIN (SELECT * FROM pairs WHERE stage_key = $after) a USING (instruction, one, other))
"""
_COUNTS = f"""{_JOINED}
SELECT label, count(*) AS pairs, min(instruction) AS example FROM joined GROUP BY label ORDER BY pairs DESC, label
"""
# Drawn by lot: the place in the line depends on the pair alone.
_EXAMPLES = f"""{_JOINED}
SELECT * FROM joined
QUALIFY row_number() OVER (PARTITION BY label ORDER BY md5(instruction || one || other), one, other) <= $each
ORDER BY label, md5(instruction || one || other), one, other
"""


def moves(lake: Lake, before: str, after: str) -> list[dict[str, Any]]:
    """Counts of pairs by what became of their label, with the id of one instruction each.

    `before` (empty: there was none) and `after` are stage keys of the table `preferences`. "label" is one of: the same,
    turned round, now a tie, no longer a tie, new, gone.
    """
    rows: list[dict[str, Any]] = query(lake, _COUNTS, {"before": before, "after": after}).to_pylist()
    return rows


def moved_examples(lake: Lake, before: str, after: str, each: int) -> list[dict[str, Any]]:
    """Up to `each` pairs of every kind of move, always the same.

    A row holds instruction, video, question, the answers `one` and `other`, what became of the label (`label`) and, for
    either labelling, the label ("a" is `one`), the probability that `one` is better, and the narrative.
    """
    rows: list[dict[str, Any]] = query(lake, _EXAMPLES, {"before": before, "after": after, "each": each}).to_pylist()
    return rows


def standing(lake: Lake, arm: str) -> StageResult | None:
    """The arm's labels that a labelling which begins now is compared with, whatever judged them; None: there are none.

    These are the latest, unless the last labelling ended before it told how they moved: then those that it began with.
    """
    if "runs" in lake.tables():
        sql = 'SELECT event, detail FROM runs WHERE event IN ($began, $told) ORDER BY "at" DESC, event_id'
        for row in query(lake, sql, {"began": BEGAN, "told": TOLD}).to_pylist():
            arms = json.loads(row["detail"])
            if arm in arms:
                return _complete(lake, arms[arm]) if row["event"] == BEGAN else latest(lake, "preferences", arm)
    return latest(lake, "preferences", arm)


def _complete(lake: Lake, key: str | None) -> StageResult | None:
    rows = [] if key is None else lake.table("stages").read(key).to_pylist()
    return stage_result(lake, rows[0]) if rows else None


def latest(lake: Lake, stage: str, arm: str = "", model: str | None = None) -> StageResult | None:
    """The result of the complete stage of that name and arm that was last used; None where there is none.

    `model` asks for that model's alone.
    """
    for row in stages_by_use(lake, stage):
        if model in (None, row["model"]) and json.loads(row["config"]).get("arm", "") == arm:
            return stage_result(lake, row)
    return None
