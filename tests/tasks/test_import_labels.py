"""Preferences from files into a lake, and out again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import keep, picture, rows_of, small_run

from storage.errors import FormatError
from storage.formats import hound, rm
from tasks.decided import decided
from tasks.export import export, read_back
from tasks.export_config import ExportConfig
from tasks.fanout import WorkerPool
from tasks.import_labels import ImportConfig, import_labels
from tasks.label_versions import ancestors, chosen_labels, latest_frames
from tasks.stage import QuarantineError, RunContext


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return small_run(pool, tmp_path / "lake")


def official(
    identity: str, video: str, outputs: tuple[str, str] = ("Golf", "Tennis"), better: int = 2
) -> dict[str, Any]:
    return {
        "id": identity,
        "images": [f"{video}/1.jpg"],
        "conversations": [{"from": "human", "value": "<image>\nWhich sport?"}, {"from": "gpt", "value": ""}],
        "output_1": {"value": outputs[0]},
        "output_2": {"value": outputs[1]},
        "preference": better,
    }


def written(tmp_path: Path, rows: list[dict[str, Any]]) -> ImportConfig:
    path = tmp_path / "RM.json"
    path.write_text(json.dumps(rows))
    return ImportConfig(file=str(path), format="vlm-rlaif", arm="official")


def test_a_real_file_comes_in_and_goes_out_as_it_was(ctx: RunContext, test_data: Path, tmp_path: Path) -> None:
    source = test_data / "annotations" / "shapes" / "vlmrlaif_style_RM.json"
    # Two clips of one name lie behind these frames, so four ids stand for two questions each.
    with pytest.raises(FormatError, match=r"row 61 \(id 'mmaction2_test_0'\): row 57 has this id for another question"):
        import_labels(ctx, ImportConfig(file=str(source), format="vlm-rlaif", arm="official"), None)
    raws = {row["id"]: row for row in json.loads(source.read_text())}
    config = written(tmp_path, list(raws.values()))
    done = import_labels(ctx, config, None)
    assert (done.stage, done.items, done.ok, done.quarantined) == ("import", 155, 155, 0)
    (row,) = rows_of(ctx.lake, done)["official/askanything_yoga_0"]
    digest = hashlib.sha256((tmp_path / "RM.json").read_bytes()).hexdigest()
    assert row["model"] == f"RM.json sha256:{digest}"
    assert ctx.lake.blobs.get(digest) == (tmp_path / "RM.json").read_bytes()
    assert (row["method"], row["arm"], row["p_a"], row["frame_set"], row["with_narrative"]) == (
        "import",
        "official",
        None,
        None,
        None,
    )
    videos = tmp_path / "videos"
    videos.mkdir()
    for raw in raws.values():
        (videos / raw["images"][0].split("/")[0]).touch()
    export(ctx.lake, ExportConfig("vlm-rlaif", tmp_path / "out", videos=videos))
    assert read_back(tmp_path / "out", "vlm-rlaif") == ctx.lake.table("preferences").read(done.key).to_pylist()
    again = {raw["id"]: raw for raw in json.loads((tmp_path / "out" / rm.FILE).read_text())}
    for raw in raws.values():
        back = again[f"official/{raw['id']}#" + ("1-0" if raw["preference"] == 2 else "0-1")]
        assert back["output_1"]["value"] == raw["output_1"]["value"]
        assert back["output_2"]["value"] == raw["output_2"]["value"]
        assert back["preference"] == raw["preference"]
        assert back["conversations"][0] == raw["conversations"][0]


def test_hounds_rows_keep_their_scores(ctx: RunContext, test_data: Path, tmp_path: Path) -> None:
    source = test_data / "annotations" / "shapes" / "hound_style_dpo.jsonl"
    rows = {row.id: row for row in hound.read_hound(source)}
    hound.write_hound(tmp_path / "dpo.jsonl", rows.values())
    config = ImportConfig(file=str(tmp_path / "dpo.jsonl"), format="hound", arm="hound")
    done = import_labels(ctx, config, None)
    assert done.ok == len(rows) == 155
    (row,) = rows_of(ctx.lake, done)["hound/askanything_yoga_0"]
    assert (row["preferred"], row["answer_a"], row["answer_b"]) == ("a", "Yoga", "Swimming")
    assert (row["score_a"], row["score_b"], row["video"]) == (5.0, 1.0, "askanything_yoga")


def test_videos_are_bound_and_what_cannot_be_is_quarantined(ctx: RunContext, tmp_path: Path) -> None:
    frames = keep(
        ctx.lake,
        {"clips/a.mp4": [picture(np.zeros((8, 8, 3), dtype=np.uint8))] * 8},
        {"clips/bad.mp4": "no frame decodes; copy it again"},
    )
    rows = [
        official("one", "data/clips/a"),
        official("one", "data/clips/a", ("Chess", "Golf"), 1),
        official("bad", "bad"),
        official("unknown", "z"),
        official("equal", "a", ("Golf", "Golf"), 1),
    ]
    done = import_labels(ctx, written(tmp_path, rows), frames.ref)
    found = rows_of(ctx.lake, done)
    one = found["official/one"]
    assert [(row["video"], row["a"], row["b"], row["preferred"]) for row in one] == [
        ("clips/a.mp4", 0, 1, "b"),
        ("clips/a.mp4", 2, 3, "a"),
    ]
    reasons = {name: rows[0]["reason"] for name, rows in found.items() if rows[0]["status"] != "ok"}
    assert reasons["official/bad"] == "video clips/bad.mp4: no frame decodes; copy it again"
    assert "z: not among the readable videos" in reasons["official/unknown"]
    assert reasons["official/equal"] == "1 of its 1 pairs have two equal outputs"
    assert (done.ok, done.quarantined) == (1, 3)
    assert [stage["item_id"] for stage in ancestors(ctx.lake, done.key)] == [done.key]
    assert len(decided(ctx.lake, done.ref)) == 2  # What the reward model's training reads.


def test_the_same_file_is_imported_once_and_a_changed_one_is_another(ctx: RunContext, tmp_path: Path) -> None:
    first = import_labels(ctx, written(tmp_path, [official("one", "a")]), None)
    assert import_labels(ctx, written(tmp_path, [official("one", "a")]), None).cached
    changed = import_labels(ctx, written(tmp_path, [official("one", "a", better=1)]), None)
    assert changed.key != first.key
    assert chosen_labels(ctx.lake).key == changed.key
    assert chosen_labels(ctx.lake, key=first.key).key == first.key
    assert latest_frames(ctx.lake) is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{key: value for key, value in official("a", "v").items() if key != "output_2"}], "is no preference"),
        ([official("a", "v"), official("a", "w")], r"row 2 \(id 'a'\): row 1 has this id for another"),
        ([{**official("a", "v"), "preference": 0}], "preference must be 1 or 2"),
    ],
)
def test_a_bad_file_is_refused(rows: list[dict[str, Any]], message: str, ctx: RunContext, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=message):
        import_labels(ctx, written(tmp_path, rows), None)
    with pytest.raises(FormatError, match="cannot be read"):
        import_labels(ctx, ImportConfig(file=str(tmp_path / "no.json"), format="hound", arm="x"), None)


def test_too_many_that_cannot_be_used_stop_the_import(pool: WorkerPool, tmp_path: Path) -> None:
    ctx = RunContext(**{**vars(small_run(pool, tmp_path / "lake")), "max_quarantined": 0.05})
    with pytest.raises(QuarantineError, match="two equal outputs"):
        import_labels(ctx, written(tmp_path, [official("a", "v", ("Golf", "Golf"))]), None)
