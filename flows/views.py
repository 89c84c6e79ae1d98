"""What the command line tells about a lake: questions in SQL, answers in plain rows."""

import json
from dataclasses import dataclass, field
from typing import Any

from storage.lake import Lake
from storage.sql import query

Row = dict[str, Any]
UNENDED = "running, or killed"


class ViewError(ValueError):
    """What was asked for is not in the lake; the message says what is."""


@dataclass
class Origin:
    """A complete stage and the stages whose results went into it."""

    stage: str
    key: str
    table: str
    ok: int
    quarantined: int
    run: str
    inputs: list["Origin"] = field(default_factory=list)


def sizes(lake: Lake) -> list[Row]:
    """Table and rows of everything the lake holds."""
    tables = lake.tables()
    counts = " UNION ALL ".join(f"SELECT '{name}' AS name, count(*) AS rows FROM {name}" for name in tables)
    return _rows(lake, f"{counts} ORDER BY name") if tables else []


def runs(lake: Lake) -> list[Row]:
    """Each run's latest execution: how it stands, when it began, its seconds, stages done and of those cached."""
    if "runs" not in lake.tables():
        return []
    return _rows(
        lake,
        f"""
        WITH begun AS (SELECT run, max("at") AS began FROM runs WHERE event = 'run_started' GROUP BY run),
             latest AS (SELECT e.*, began FROM runs e JOIN begun b ON e.run = b.run AND e."at" >= b.began)
        SELECT run, began,
               coalesce(max(event[5:]) FILTER (event IN ('run_finished', 'run_failed', 'run_cancelled')),
                        '{UNENDED}') AS state,
               max(seconds) FILTER (event = 'run_finished') AS seconds,
               count(*) FILTER (event = 'stage_finished') AS stages,
               count(*) FILTER (event = 'stage_finished' AND cached) AS cached,
               max(detail) FILTER (event = 'run_failed') AS failure
        FROM latest GROUP BY run, began ORDER BY began DESC
        """,
    )


def stages(lake: Lake, run: str) -> list[Row]:
    """What each stage of a run's latest execution did."""
    rows = _rows(
        lake,
        """
        SELECT stage, stage_key, cached, ok, quarantined, seconds, detail FROM runs
        WHERE run = $run AND event = 'stage_finished'
          AND "at" >= (SELECT max("at") FROM runs WHERE run = $run AND event = 'run_started')
        ORDER BY "at"
        """,
        {"run": run},
    )
    return [{**row, **json.loads(row.pop("detail") or "{}")} for row in rows]


def lineage(lake: Lake, blob: str) -> Origin:
    """Where an adapter comes from.

    Args:
        lake: where to look.
        blob: the adapter's (or the training state's) blob, or the first characters of it.

    Raises:
        ViewError: no checkpoint, or more than one, has such a blob.
    """
    if "checkpoints" not in lake.tables():
        raise ViewError(f"{lake.root} holds no checkpoints yet; train one with `rlaif run`.")
    found = _rows(
        lake,
        """
        SELECT DISTINCT coalesce(CASE WHEN starts_with(blob, $blob) THEN blob END, state) AS blob,
               regexp_replace(stage_key, '-state$', '') AS stage_key  -- A training keeps its states beside its result.
        FROM checkpoints WHERE starts_with(blob, $blob) OR starts_with(state, $blob)
        """,
        {"blob": blob},
    )
    if len({row["blob"] for row in found}) != 1:
        what = f"{len(found)} checkpoints" if found else "no checkpoint"
        raise ViewError(
            f"{what} of {lake.root} has a blob that begins with {blob!r}. Those that ended a training:\n{_finals(lake)}"
        )
    known = {row["item_id"]: row for row in _rows(lake, "SELECT * FROM stages")} if "stages" in lake.tables() else {}
    return _origin(known, found[0]["stage_key"], lake)


def frame_count(lake: Lake, key: str) -> int:
    """Frames that a stage `frames` kept."""
    rows = _rows(lake, "SELECT sum(len(timestamps)) AS n FROM frames WHERE stage_key = $key", {"key": key})
    return int(rows[0]["n"] or 0)


def _finals(lake: Lake) -> str:
    rows = _rows(lake, "SELECT role, arm, blob FROM checkpoints WHERE final AND blob IS NOT NULL ORDER BY role, arm")
    return "\n".join(f"  {row['blob'][:16]}  {row['role']} {row['arm'] or ''}".rstrip() for row in rows) or "  none"


def _origin(known: dict[str, Row], key: str, lake: Lake) -> Origin:
    row = known.get(key)
    if row is None:
        raise ViewError(f"Stage {key} is not complete in {lake.root}; run the same command again to end it.")
    inputs = [_origin(known, ref["key"], lake) for ref in json.loads(row["inputs"])]
    return Origin(row["stage"], key, row["output_table"], row["ok"], row["quarantined"], row["run"], inputs)


def _rows(lake: Lake, sql: str, params: Row | None = None) -> list[Row]:
    rows: list[Row] = query(lake, sql, params).to_pylist()
    return rows
