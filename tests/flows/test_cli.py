"""The commands that look at a lake and at results; those that run a preset are tested with the flow."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import environment
from flows.cli import app
from flows.views import ViewError
from storage.errors import LakeError
from storage.lake import Lake, event
from tasks.stage import StageError

BLOB, KEYS = "ab" * 32, {"videos": "1" * 16, "frames": "2" * 16, "sft": "3" * 16}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """What a run leaves: videos -> frames -> sft, one video quarantined."""
    lake = Lake(tmp_path_factory.mktemp("runs") / "lake")
    _rows(lake, "videos", [{"item_id": name, "video": name, "content": "c", "bytes": 1} for name in "ab"])
    good = {"item_id": "a", "video": "a", "content": "c", "timestamps": [0.1, 0.2, 0.3]}
    bad = {"item_id": "b", "status": "quarantined", "reason": "no video stream in it"}
    _rows(lake, "frames", [good, bad])
    trained = {"item_id": "sft", "role": "sft", "step": 4, "final": True, "blob": BLOB, "base": "tiny", "metrics": "{}"}
    _rows(lake, "checkpoints", [trained], stage="sft")
    _stage(lake, "videos", [], "videos", ok=2)
    _stage(lake, "frames", ["videos"], "frames", ok=1, quarantined=1)
    _stage(lake, "sft", ["frames", "videos"], "checkpoints", ok=1)
    lake.log([event("first", "run_started")])
    lake.log([_finished("frames", 1, 1), event("first", "run_finished", seconds=3.5)])
    return lake


def _rows(lake: Lake, table: str, rows: list[dict[str, Any]], stage: str = "") -> None:
    provenance = {"status": "ok", "item_key": "k", "run": "first", "seed": 0}
    lake.table(table).commit_shard([{**provenance, **row} for row in rows], stage_key=KEYS[stage or table], shard=0)


def _stage(lake: Lake, name: str, inputs: list[str], table: str, ok: int, quarantined: int = 0) -> None:
    refs = [{"stage": each, "table": each, "key": KEYS[each], "version": 0} for each in inputs]
    counts = {"items": ok + quarantined, "ok": ok, "quarantined": quarantined}
    row = {"item_id": KEYS[name], "status": "ok", "item_key": KEYS[name], "run": "first", "seed": 0, "stage": name}
    row |= {"config": "{}", "inputs": json.dumps(refs), "output_table": table, **counts}
    lake.table("stages").commit_shard([row], stage_key=KEYS[name], shard=-1)


def _finished(stage: str, ok: int, quarantined: int) -> dict[str, Any]:
    detail = json.dumps({"label": None, "table": stage, "items": ok + quarantined, "reused": 0, "version": 0})
    counts = {"ok": ok, "quarantined": quarantined, "cached": False, "seconds": 1.25}
    row = event("first", "stage_finished", detail=detail)
    return {**row, "at": datetime.now(UTC), "stage": stage, "stage_key": KEYS[stage], **counts}


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_status_says_what_is_there_what_ran_and_what_was_quarantined(lake: Lake) -> None:
    said = run("status", lake.root)
    assert "frames" in said
    assert "finished" in said
    assert "frames: quarantined 1 x such as b: no video stream in it" in said


def test_status_of_an_empty_lake(tmp_path: Path) -> None:
    assert str(tmp_path) in run("status", Lake(tmp_path).root)


def test_status_makes_no_lake(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="There is no lake at"):
        run("status", str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_lineage_walks_back_to_frames_and_videos(lake: Lake) -> None:
    said = run("lineage", BLOB[:8], "--lake", lake.root)
    lines = [line.strip("│├└─ ") for line in said.splitlines()]
    assert lines[0].startswith(f"sft {KEYS['sft']}: 1 ok")
    assert lines[1] == f"frames {KEYS['frames']}: 1 ok, 1 quarantined (run first), 3 frames"
    assert lines[2].startswith(f"videos {KEYS['videos']}: 2 ok")
    assert lines[3] == f"videos {KEYS['videos']}: as above"


def test_lineage_of_an_unknown_adapter_lists_the_known(lake: Lake) -> None:
    with pytest.raises(ViewError, match=f"{BLOB[:16]}  sft"):
        run("lineage", "ffff", "--lake", lake.root)


def test_report_shows_scores_and_the_page(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<html>")
    scores = {"sft": {"greedy_exact": 0.5, "greedy_slot": 0.66, "sampled_exact": 0.4, "n": 2000}}
    (tmp_path / "summary.json").write_text(json.dumps({"scores": scores}))
    said = run("report", str(tmp_path))
    assert "0.660" in said
    assert str(tmp_path / "report.html") in said


def test_audit_writes_one_page_beside_the_lake_and_nothing_into_it(tmp_path: Path) -> None:
    lake = labelled_lake(tmp_path / "run" / "lake")
    before = {name: lake.table(name).version() for name in lake.tables()}
    said = run("audit", lake.root)
    page = tmp_path / "run" / "audit.html"
    assert str(page) in said
    assert "rlaif audit &lt;tmp&gt;/" in page.read_text(), "free of places, as the report"
    run("audit", lake.root, "--arm", "one", "--to", str(tmp_path / "one.html"), "--preset", "miniature")
    assert "--arm=one --preset=miniature" in (tmp_path / "one.html").read_text()
    assert {name: lake.table(name).version() for name in lake.tables()} == before


def test_audit_of_an_arm_without_labels_names_those_with_some(tmp_path: Path) -> None:
    lake = labelled_lake(tmp_path / "lake")
    with pytest.raises(StageError, match="no complete labels of two; arms with labels: one"):
        run("audit", lake.root, "--arm", "two")


def labelled_lake(root: Path) -> Lake:
    """Two labels of the arm "one"."""
    lake = Lake(root)
    provenance = {"status": "ok", "item_key": "k", "run": "first", "seed": 0}
    shown = {"a": 0, "b": 1, "answer_a": "red", "answer_b": "blue", "preferred": "a", "p_a": 0.9}
    how = {"method": "likelihood", "frame_set": "judge", "with_narrative": False, "arm": "one"}
    rows = [
        {**provenance, **shown, **how, "item_id": name, "instruction": name, "video": name, "question": "which?"}
        for name in "qr"
    ]
    lake.table("preferences").commit_shard(rows, stage_key="labels", shard=0)
    config = json.dumps({"arm": "one", "narrative": False, "method": "likelihood", "frame_set": "judge"})
    done = {"item_id": "labels", "stage": "preferences", "config": config, "inputs": "[]", "items": 2, "ok": 2}
    done |= {"output_table": "preferences", "quarantined": 0}
    lake.table("stages").commit_shard([{**provenance, **done}], stage_key="labels", shard=-1)
    lake.log([{**event("first", "stage_finished"), "stage": "preferences", "stage_key": "labels"}])
    return lake


def test_status_imports_neither_torch_nor_ray_nor_prefect(lake: Lake) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from flows.cli import app\n"
        f"assert CliRunner().invoke(app, ['status', {lake.root!r}]).exit_code == 0\n"
        "print([name for name in ('torch', 'ray', 'prefect', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "said"), [(["run.nmae=x"], "did you mean 'name'"), (["seed"], "section.key=value")]
)
def test_a_wrong_parameter_ends_without_a_traceback(arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", "flows.cli", "run", "--preset", "miniature", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_folder_that_prefect_needs_is_made_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(environment, "keep_terminal_clear", lambda: None)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "new" / "prefect"))
    environment.before_flows()
    assert (tmp_path / "new" / "prefect").is_dir()
    (tmp_path / "file").touch()
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "file" / "prefect"))
    with pytest.raises(ValueError, match=r"cannot be made: .*\. Set PREFECT_HOME to a folder that may be written"):
        environment.before_flows()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    environment.before_flows()


def test_labels_come_in_and_go_out(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhich sport?"}]
    row = {"id": "one", "video": "a.mp4", "conversations": turns, "output_1": {"value": "Golf"}}
    row |= {"output_2": {"value": "Tennis"}, "preference": 2}
    (tmp_path / "RM.json").write_text(json.dumps([row]))
    (tmp_path / "a.mp4").touch()
    lake = str(tmp_path / "lake")
    said = run("import", lake, str(tmp_path / "RM.json"), "--format", "vlm-rlaif", "--arm", "official")
    assert "1 of 1 questions imported, 0 quarantined" in said
    options = ["--format", "ms-swift", "--to", str(tmp_path / "out"), "--videos", str(tmp_path)]
    said = run("export", lake, *options)
    assert "1 pairs from 1 of 1 rows" in said
    (written,) = map(json.loads, (tmp_path / "out" / "train.jsonl").read_text().splitlines())
    assert (written["messages"][1]["content"], written["rejected_response"]) == ("Tennis", "Golf")
    assert "import-official" in run("status", lake)
