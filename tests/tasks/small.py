"""What the tests of model stages share: rendered scenes as kept frames in a real lake, and runs on real workers."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

import miniature
from miniature.lessons import FRAMES
from miniature.world import Frames, Scene, render, sample_scene
from storage.lake import Lake
from storage.tables import Table
from tasks.fanout import WorkerPool
from tasks.model_ref import ModelRef
from tasks.progress import SilentProgress
from tasks.stage import RunContext, StageResult

BASE = Path(miniature.__file__).parent / "weights" / "base"
KEY = "0123456789abcdef"
SETS = [
    {"name": name, "clip": clip, "start": start, "end": end, "indices": list(FRAMES[frames])}
    for name, clip, start, end, frames in (
        ("policy", 0, 0.0, 2.0, "8"),
        ("judge_2", 0, 0.0, 2.0, "2"),
        ("clips", 1, 1.0, 2.0, "clip1"),
        ("clips", 0, 0.0, 1.0, "clip0"),
    )
]


def small_run(pool: WorkerPool, lake: Path) -> RunContext:
    return RunContext(str(lake), "test", pool, SilentProgress(), max_quarantined=0.9, seed=0)


def other_lake(ctx: RunContext, lake: Path) -> RunContext:
    """The same run in another lake."""
    return replace(ctx, lake_root=str(lake))


def base_model() -> ModelRef:
    return ModelRef.of(str(BASE))


def scenes(count: int) -> dict[str, Scene]:
    """Scenes by the name of their video."""
    rng = np.random.default_rng(7)
    return {f"scenes/{index:02d}.mp4": sample_scene(rng) for index in range(count)}


def keep_scenes(
    lake: Lake, shown: dict[str, Scene], faults: dict[str, str] | None = None, key: str = KEY
) -> StageResult:
    """The output of a frames stage: every frame of each scene, and quarantined videos with their reasons."""
    pictures = {video: [picture(frame) for frame in render(scene)] for video, scene in shown.items()}
    return keep(lake, pictures, faults, key)


def keep(
    lake: Lake, videos: dict[str, list[bytes]], faults: dict[str, str] | None = None, key: str = KEY
) -> StageResult:
    """The same from PNG or JPEG files."""
    names = list(videos)
    blob = lake.blobs.put_arrow(
        pa.table({"video": names, "frames": pa.array([videos[name] for name in names], pa.list_(pa.binary()))})
    )
    rows = [{**_provenance(name), **_kept(name, blob, row, len(videos[name]))} for row, name in enumerate(names)]
    rows += [{**_provenance(name), "status": "quarantined", "reason": why} for name, why in (faults or {}).items()]
    return committed(lake.table("frames"), rows, key)


def committed(table: Table, rows: list[dict[str, Any]], key: str) -> StageResult:
    """Rows committed as a complete stage."""
    table.commit_shard(rows, stage_key=key, shard=0)
    counts = table.count(key)
    return StageResult(
        stage=table.name,
        label=None,
        table=table.name,
        key=key,
        version=table.version(),
        items=sum(counts.values()),
        ok=counts["ok"],
        quarantined=counts["quarantined"],
        reused=0,
        seconds=0,
        work_seconds=0,
        cached=False,
    )


def rows_of(lake: Lake, result: StageResult) -> dict[str, list[dict[str, Any]]]:
    """A stage's rows by item."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in lake.table(result.table).read(result.key).to_pylist():
        rows.setdefault(row["item_id"], []).append(row)
    return rows


def picture(frame: Frames, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, form)
    return file.getvalue()


def _provenance(item: str) -> dict[str, Any]:
    return {"item_id": item, "status": "ok", "item_key": f"key of {item}", "run": "test", "seed": 0}


def _kept(video: str, blob: str, row: int, count: int) -> dict[str, Any]:
    times = [place / 8 for place in range(count)]
    return {"video": video, "content": "", "blob": blob, "row": row, "timestamps": times, "sets": SETS}
