"""Frames of parts of videos: sampled from the part alone, each video decoded once, and nothing else moves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film import film, number_in
from small import rows_of, small_run
from toy_benchmark import World, world

from storage.rows import row_digest
from tasks.evaluation.questions import questions
from tasks.evaluation.timeline import NotShownError, Timeline
from tasks.fanout import WorkerPool
from tasks.frames import FramesConfig, FrameSet, frames
from tasks.stage import RunContext, StageResult
from tasks.videos import VideosConfig, videos
from tasks.visual_tokens import decode_frames
from tasks.windows import window_set

pytestmark = pytest.mark.usefixtures("toy")
CONFIG = FramesConfig(sets=(FrameSet(name="policy", n=4), FrameSet(name="few", n=2)), image_format="png")


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return small_run(pool, tmp_path / "lake")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two films of 60 numbered frames, ten a second, in the place of scenes."""
    found = world(tmp_path_factory.mktemp("films"))
    shutil.rmtree(found.videos)
    found.videos.mkdir()
    for name in ("v_0.mp4", "v_1.mp4"):
        film(found.videos / name, 60, options={"crf": "18" if name == "v_0.mp4" else "19"})
    return found


def asking(ctx: RunContext, made: World, *windows: tuple[float, float] | None) -> tuple[StageResult, StageResult]:
    """Videos, and questions about these parts of the first one."""
    row = made.questions()[0]
    rows = [{**row, "id": str(n), **({} if part is None else {"window": part})} for n, part in enumerate(windows)]
    scored = made.scored(rows)
    listed = videos(ctx, VideosConfig(folder=scored.folder))
    return listed, questions(ctx, scored, listed, "mine")


def sampled(ctx: RunContext, made: World, listed: StageResult, asked: StageResult | None) -> StageResult:
    source = VideosConfig(folder=str(made.videos))
    return frames(ctx, CONFIG, listed, source, None if asked is None else {"policy": [asked]})


def numbers(ctx: RunContext, row: dict[str, Any], name: str) -> list[int]:
    """The numbers in the pictures of a set."""
    (one,) = [each for each in row["sets"] if each["name"] == name]
    kept = decode_frames(ctx.lake.blobs.open_arrow(row["blob"])["frames"][row["row"]].as_py())
    return [number_in(np.asarray(kept[place])) for place in one["indices"]]


def test_a_window_is_sampled_at_the_middles_of_its_bins_and_the_video_is_decoded_once(
    ctx: RunContext, made: World
) -> None:
    listed, asked = asking(ctx, made, (2.0, 4.0), (0.0, 0.8), None)
    rows = {name: row for name, (row,) in rows_of(ctx.lake, sampled(ctx, made, listed, asked)).items()}
    first = rows["v_0.mp4"]
    assert numbers(ctx, first, "policy@2-4") == [22, 27, 32, 37]
    assert numbers(ctx, first, "policy@0-0.8") == [1, 3, 5, 7]
    assert numbers(ctx, first, "policy") == [7, 22, 37, 52]
    assert first["decodes"] == 1
    assert len(first["timestamps"]) == len({22, 27, 32, 37, 1, 3, 5, 7, 52, 15, 45}), "shared frames are kept once"
    assert [each["name"] for each in rows["v_1.mp4"]["sets"]] == ["policy", "few"], "nobody asks about its parts"


def test_a_window_is_cut_off_at_the_ends_of_the_video_and_one_outside_has_no_frames(
    ctx: RunContext, made: World
) -> None:
    listed, asked = asking(ctx, made, (4.0, 100.0), (7.0, 9.0), (3.0, 3.0))
    result = sampled(ctx, made, listed, asked)
    row = rows_of(ctx.lake, result)["v_0.mp4"][0]
    assert numbers(ctx, row, "policy@4-100") == [42, 47, 52, 57]
    timeline = Timeline(ctx.lake, result.ref, None)
    shown, count = timeline.shown("v_0.mp4", "policy@4-100", "v_0")
    assert (shown.timestamps, count) == (pytest.approx((4.2, 4.7, 5.2, 5.7)), 4)
    with pytest.raises(NotShownError, match=r"window: 7-9 s lies outside of video v_0.mp4, which lasts 6 s"):
        timeline.shown("v_0.mp4", "policy@7-9", "v_0")
    with pytest.raises(NotShownError, match="window: 3-3 s"):
        timeline.shown("v_0.mp4", "policy@3-3", "v_0")
    with pytest.raises(NotShownError, match="no frames: frame set 'eyes' was not sampled"):
        timeline.shown("v_0.mp4", "eyes", "v_0")


def test_without_windows_the_stage_is_what_it_always_was(ctx: RunContext, made: World) -> None:
    listed, asked = asking(ctx, made, None)
    plain = sampled(ctx, made, listed, None)
    again = sampled(ctx, made, listed, asked)
    assert (again.key, again.cached) == (plain.key, True)


def test_a_video_without_windows_is_not_decoded_again_for_those_of_another(ctx: RunContext, made: World) -> None:
    listed, asked = asking(ctx, made, None)
    plain = sampled(ctx, made, listed, asked)
    listed, asked = asking(ctx, made, (1.0, 2.0))
    parted = sampled(ctx, made, listed, asked)
    assert (parted.items, parted.reused, parted.key != plain.key) == (2, 1, True)
    _, reworded = asking(ctx, made, (1.0, 2.0), None)
    assert sampled(ctx, made, listed, reworded).cached, "named by the windows, not by the questions"
    digest = row_digest(ctx.lake.table("frames").read(parted.key))
    assert row_digest(ctx.lake.table("frames").read(sampled(ctx, made, listed, asked).key)) == digest


def test_a_set_that_nobody_samples_is_refused(ctx: RunContext, made: World) -> None:
    listed, asked = asking(ctx, made, (1.0, 2.0))
    with pytest.raises(ValueError, match=r"'eyes' is none of frames\.sets: policy, few"):
        frames(ctx, CONFIG, listed, VideosConfig(folder=str(made.videos)), {"eyes": [asked]})


def test_the_name_of_a_window_keeps_milliseconds() -> None:
    assert window_set("policy", 3.0, 9.5) == "policy@3-9.5"
    assert window_set("policy", 1234.567, 1234.571) == "policy@1234.567-1234.571"
    assert window_set("policy", None, None) == "policy"
