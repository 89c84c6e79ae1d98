from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from storage.errors import LakeError
from storage.lake import Lake
from storage.sql import query


def answer(item: str, *candidates: str) -> list[dict[str, Any]]:
    made = {"item_id": item, "status": "ok", "item_key": "x", "run": "r1", "seed": 1}
    asked = {"instruction": item, "video": "v.mp4", "question": "what's there?"}
    return [{**made, **asked, "candidate": n, "text": text} for n, text in enumerate(candidates)]


def test_views_show_the_live_rows_with_their_stage_key(lake_root: str) -> None:
    lake = Lake(lake_root)
    table = lake.table("candidates")
    table.commit_shard(answer("i1", "red", "blue"), stage_key="0012345678901234", shard=0)
    table.commit_shard(answer("i2", "green"), stage_key="00e1", shard=0)
    table.commit_shard([], stage_key="00e1", shard=1)
    sql = "SELECT stage_key, count(*) AS n FROM candidates GROUP BY stage_key ORDER BY stage_key"
    assert query(lake, sql).to_pylist() == [
        {"stage_key": "0012345678901234", "n": 2},
        {"stage_key": "00e1", "n": 1},
    ]
    sql = "SELECT text FROM candidates WHERE stage_key = $key AND candidate >= $least ORDER BY candidate"
    assert query(lake, sql, {"key": "0012345678901234", "least": 1}).to_pylist() == [{"text": "blue"}]
    assert query(lake, "SELECT * FROM Candidates LIMIT 0").column_names == table.read().column_names


def test_tables_join_and_times_are_utc(lake_root: str) -> None:
    lake = Lake(lake_root)
    at = datetime(2026, 1, 2, 23, 30, tzinfo=UTC)
    lake.log([{"run": "r1", "event_id": "e1", "at": at, "event": "run_started"}])
    lake.table("candidates").commit_shard(answer("i1", "red"), stage_key="k", shard=0)
    sql = (
        "SELECT text, runs.at, CAST(date_trunc('day', runs.at) AS VARCHAR) AS day FROM candidates JOIN runs USING (run)"
    )
    assert query(lake, sql).to_pylist() == [{"text": "red", "at": at, "day": "2026-01-02 00:00:00+00"}]


def test_every_existing_table_is_a_view_also_without_rows(lake_root: str) -> None:
    lake = Lake(lake_root)
    lake.table("captions").commit_shard([], stage_key="k", shard=0)
    lake.table("candidates").commit_shard(answer("i1", "red"), stage_key="k", shard=0)
    assert query(lake, "SHOW TABLES").to_pylist() == [{"name": "candidates"}, {"name": "captions"}]
    assert query(lake, "SELECT count(narrative) AS n FROM captions").to_pylist() == [{"n": 0}]


def test_lists_of_structs_can_be_asked(lake_root: str) -> None:
    lake = Lake(lake_root)
    clips = [{"clip": n, "start": float(n), "end": n + 1.0, "text": f"clip {n}", "n_tokens": 2} for n in range(2)]
    row = {"item_id": "v", "status": "ok", "item_key": "x", "run": "r1", "seed": 1, "video": "v", "clips": clips}
    lake.table("captions").commit_shard([row], stage_key="k", shard=0)
    sql = "SELECT c.clip.text AS text FROM (SELECT unnest(clips) AS clip FROM captions) c ORDER BY c.clip.start"
    assert query(lake, sql)["text"].to_pylist() == ["clip 0", "clip 1"]


def test_a_lost_file_is_named(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.table("candidates").commit_shard(answer("i1", "red"), stage_key="k", shard=0)
    lost = lake.table("candidates").live_files()[0]
    Path(lost).unlink()
    with pytest.raises(LakeError, match=Path(lost).name):
        query(lake, "SELECT * FROM candidates")
    with pytest.raises(LakeError, match=Path(lost).name):
        lake.table("candidates").read("k")


def test_a_wrong_question_is_answered_with_help(lake_root: str) -> None:
    lake = Lake(lake_root)
    lake.table("candidates").commit_shard(answer("i1", "red"), stage_key="k", shard=0)
    with pytest.raises(LakeError, match=r"txt(.|\n)*Tables of .*: candidates"):
        query(lake, "SELECT txt FROM candidates")
    with pytest.raises(LakeError, match="preferences"):
        query(lake, "SELECT * FROM preferences")
