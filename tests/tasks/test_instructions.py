"""Instruction files to rows bound to videos."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pydantic import ValidationError
from small import keep, picture, rows_of, small_run

from storage.errors import FormatError
from storage.formats.vlm_rlaif import Instruction, write_instructions
from tasks.fanout import WorkerPool
from tasks.instructions import InstructionsConfig, UnknownVideoError, VideoNames, instructions
from tasks.stage import QuarantineError, RunContext, StageResult


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return small_run(pool, tmp_path / "lake")


@pytest.fixture
def frames(ctx: RunContext) -> StageResult:
    import numpy as np

    blank = picture(np.zeros((8, 8, 3), dtype=np.uint8))
    names = ("a.mp4", "clips/b.mp4", "clips/same.mp4", "other/same.mp4")
    return keep(ctx.lake, {name: [blank] for name in names}, {"clips/broken.mp4": "no frame decodes; copy it again"})


def _write(path: Path, videos: dict[str, str]) -> str:
    write_instructions(
        path, [Instruction(name, video, f"what is in {name}?", "a cat", "object") for name, video in videos.items()]
    )
    return str(path)


def test_every_row_is_bound_or_quarantined_with_its_reason(
    ctx: RunContext,
    frames: StageResult,
    tmp_path: Path,
) -> None:
    videos = {"1": "a.mp4", "2": "b.mp4", "3": "data/clips/b", "4": "same.mp4", "5": "broken.mp4", "6": "gone.mp4"}
    files = {"rl": _write(tmp_path / "rl.json", videos), "sft": _write(tmp_path / "sft.jsonl", {"1": "other/same.mp4"})}
    result = instructions(ctx, InstructionsConfig(files=files), frames)
    assert (result.items, result.ok, result.quarantined) == (7, 4, 3)
    rows = {item: row for item, (row,) in rows_of(ctx.lake, result).items()}
    assert {item: row["video"] for item, row in rows.items() if row["status"] == "ok"} == {
        "rl/1": "a.mp4",
        "rl/2": "clips/b.mp4",
        "rl/3": "clips/b.mp4",
        "sft/1": "other/same.mp4",
    }
    kept = ("split", "question", "answer", "kind", "source")
    assert [rows["rl/2"][column] for column in kept] == ["rl", "what is in 2?", "a cat", "object", None]
    reasons = {item: row["reason"] for item, row in rows.items() if row["status"] == "quarantined"}
    assert reasons == {
        "rl/4": "video same.mp4: 2 videos fit this name (clips/same.mp4, other/same.mp4); "
        "write its path from the data folder",
        "rl/5": "video clips/broken.mp4: no frame decodes; copy it again",
        "rl/6": "video gone.mp4: not among the readable videos of the data folder; "
        "add the file, make it readable, or correct the row's video",
    }


def test_the_stage_is_named_by_the_bytes_of_its_files(ctx: RunContext, frames: StageResult, tmp_path: Path) -> None:
    first = _write(tmp_path / "one.json", {"1": "a.mp4"})
    result = instructions(ctx, InstructionsConfig(files={"rl": first}), frames)
    moved = _write(tmp_path / "two.json", {"1": "a.mp4"})
    again = instructions(ctx, InstructionsConfig(files={"rl": moved}), frames)
    assert again.cached
    assert again.key == result.key
    changed = _write(tmp_path / "one.json", {"1": "a.mp4", "2": "b.mp4"})
    assert instructions(ctx, InstructionsConfig(files={"rl": changed}), frames).items == 2


def test_oddities_of_a_file_are_said(
    ctx: RunContext,
    frames: StageResult,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "rl.jsonl"
    path.write_text('{"id": "1", "video": "a.mp4", "conversations": [{"role": "human", "value": "<video>\\nwhat?"}]}')
    with caplog.at_level(logging.WARNING):
        result = instructions(ctx, InstructionsConfig(files={"rl": str(path)}), frames)
    assert result.ok == 1
    assert "role" in caplog.text


def test_a_bad_row_is_named_and_nothing_is_written(ctx: RunContext, frames: StageResult, tmp_path: Path) -> None:
    path = tmp_path / "rl.jsonl"
    path.write_text('{"id": "1", "video": "a.mp4", "colour": "red", "conversations": []}')
    with pytest.raises(FormatError, match=r"rl\.jsonl row 1 .*unknown key colour"):
        instructions(ctx, InstructionsConfig(files={"rl": str(path)}), frames)
    assert ctx.lake.table("instructions").version() == -1


def test_a_missing_file_is_named_with_its_split(ctx: RunContext, frames: StageResult, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"gone\.json: cannot be read .*split 'rl'"):
        instructions(ctx, InstructionsConfig(files={"rl": str(tmp_path / "gone.json")}), frames)


def test_too_many_unknown_videos_stop_the_run(ctx: RunContext, frames: StageResult, tmp_path: Path) -> None:
    path = _write(tmp_path / "rl.json", {str(n): f"{n}.mp4" for n in range(3)})
    with pytest.raises(QuarantineError, match="not among the readable videos of the data folder"):
        instructions(ctx, InstructionsConfig(files={"rl": path}), frames)


@pytest.mark.parametrize("files", [{}, {"a/b": "x.json"}])
def test_a_config_without_files_or_with_a_slash_in_a_split_is_refused(files: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        InstructionsConfig(files=files)


@pytest.mark.parametrize(
    ("name", "video"),
    [
        ("a.mp4", "a.mp4"),  # beside deep/a.mp4: the path from the data folder wins
        ("a", "a.mp4"),
        ("deep/a.mp4", "deep/a.mp4"),
        ("./deep/a", "deep/a.mp4"),
        ("/data/deep/er/c.webm", "deep/er/c.webm"),
        ("er/c", "deep/er/c.webm"),
        ("v.1", "v.1.mp4"),
    ],
)
def test_a_video_is_found_with_or_without_folder_and_extension(name: str, video: str) -> None:
    names = VideoNames(["a.mp4", "deep/a.mp4", "deep/er/c.webm", "v.1.mp4"])
    assert names.find(name) == video


@pytest.mark.parametrize("name", ["c.mp4", "x/b", "two", "elsewhere/a.webm", ""])
def test_a_name_that_fits_none_or_two_is_not_guessed(name: str) -> None:
    names = VideoNames(["a.mp4", "deep/b.mp4", "deep/c.webm", "two.mp4", "two.webm"])
    with pytest.raises(UnknownVideoError, match=f"video {name}: "):
        names.find(name)
