"""Folders of frame images in the place of video files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film import film, number_in, picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.items import Shown
from storage.formats.official import OfficialRow, Turn, write_official
from tasks.evaluation.answers import asked_about
from tasks.evaluation.config import ScoredBenchmark
from tasks.evaluation.questions import questions
from tasks.evaluation.sections import check_places, folder_rate
from tasks.fanout import WorkerPool
from tasks.frame_folder import at_rate, probe_folder
from tasks.frames import FramesConfig, FrameSet, frames
from tasks.instructions import InstructionsConfig, instructions
from tasks.progress import SilentProgress
from tasks.stage import RunContext
from tasks.video_reader import Sample, VideoError, probe, read_frames, sample_frames
from tasks.videos import VideosConfig, content_of, list_videos, videos

EXACT = FramesConfig(
    sets=(
        FrameSet(name="policy", n=4),
        FrameSet(name="vlm_rlaif", n=7, at="endpoint"),
        FrameSet(name="clips", n=2, clips=2),
    ),
    image_format="png",
)


def frame_folder(folder: Path, count: int, *, ending: str = "png") -> Path:
    """Frames that say their number."""
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(picture(number)).save(folder / f"frame_{number + 1:03d}.{ending}")
    return folder


@pytest.fixture
def ctx(pool: WorkerPool, tmp_path: Path) -> RunContext:
    return RunContext(str(tmp_path / "lake"), "run-1", pool, SilentProgress(), max_quarantined=0.9, seed=0)


def kept(ctx: RunContext, row: dict[str, Any]) -> dict[str, list[int]]:
    """By set: the numbers that its frames show."""
    stored = ctx.lake.blobs.open_arrow(row["blob"])["frames"][row["row"]].as_py()
    numbers = [number_in(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) for data in stored]
    sets: dict[str, list[int]] = {}
    for one in sorted(row["sets"], key=lambda each: each["clip"]):
        sets.setdefault(one["name"], []).extend(numbers[place] for place in one["indices"])
    return sets


def test_the_frames_of_a_folder_are_sampled_by_their_place(ctx: RunContext, tmp_path: Path) -> None:
    frame_folder(tmp_path / "data" / "anet" / "v_one", 20)
    film(tmp_path / "data" / "two.mp4", 20)
    source = VideosConfig(folder=str(tmp_path / "data"))
    result = frames(ctx, EXACT, videos(ctx, source), source)
    rows = {row["video"]: row for row in ctx.lake.table("frames").read(result.key).to_pylist()}
    assert list(rows) == ["anet/v_one", "two.mp4"]
    row = rows["anet/v_one"]
    assert kept(ctx, row) == {
        "policy": [2, 7, 12, 17],
        "vlm_rlaif": np.linspace(0, 19, 7, dtype=int).tolist(),
        "clips": [2, 7, 12, 17],
    }
    assert (row["reader"], row["fps"], row["duration"], row["width"], row["height"]) == ("pillow", 0.0, 20.0, 160, 48)
    assert row["timestamps"] == [float(index) for index in row["frame_index"]]
    assert row["reason"] is None


@given(rate=st.sampled_from([1.0, 3.0, 23.976, 25.0]), first=st.integers(0, 300), count=st.integers(1, 99))
def test_a_part_of_a_folder_of_known_rate_is_found_by_its_frames(
    rate: float, first: int, count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "single"
    if not folder.exists():
        frame_folder(folder, 1)
    info = probe_folder(folder)
    plain = type(info)(**{**vars(info), "pts": np.arange(400), "times": np.arange(400.0), "expected": 400})
    known = at_rate(plain, rate)
    part = (first / rate, (first + count) / rate)
    for n in (1, count):
        (window,) = sample_frames(known, Sample(n), part)
        assert window.frames == [first + int((place + 0.5) * count / n + 1e-6) for place in range(n)]
    (window,) = sample_frames(known, Sample(7, at="endpoint"), part)
    assert window.frames == np.linspace(first, first + count - 1, 7, dtype=int).tolist()
    assert sample_frames(plain, Sample(4), part) == []
    assert at_rate(plain, None) is plain


@given(count=st.integers(1, 400), n=st.integers(1, 64))
def test_endpoints_are_the_official_rule(count: int, n: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "single"
    if not folder.exists():
        frame_folder(folder, 1)
    info = probe_folder(folder)
    many = {"pts": np.arange(count), "times": np.arange(count, dtype=np.float64), "duration": float(count)}
    (window,) = sample_frames(type(info)(**{**vars(info), **many}), Sample(n, at="endpoint"))
    assert window.frames == np.linspace(0, count - 1, n, dtype=int).tolist()


def test_a_question_about_a_part_of_a_folder_of_frames_is_asked(ctx: RunContext, tmp_path: Path) -> None:
    """MVBench's Episodic Reasoning: frames at 3 a second, parts in seconds."""
    frame_folder(tmp_path / "videos" / "castle_s01", 60)
    row = {"video": "castle_s01", "question": "why?", "candidates": ["a", "b"], "answer": "a", "start": 10, "end": 12}
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "episodic_reasoning.json").write_text(json.dumps([row]))

    def shown(**more: Any) -> tuple[dict[str, list[int]], dict[str, Any], Shown]:
        files = {"": str(tmp_path / "tasks")}
        given = {"benchmark": "mvbench", "files": files, "videos": str(tmp_path / "videos"), **more}
        scored = ScoredBenchmark.model_validate(given)
        source = VideosConfig(folder=scored.folder)
        listed = videos(ctx, source)
        asked = questions(ctx, scored, listed, "mine")
        looked = frames(ctx, EXACT, listed, source, {"policy": [asked]}, folder_rate({"mine": scored}))
        (found,) = ctx.lake.table("frames").read(looked.key).to_pylist()
        ((_, about, what),) = asked_about(ctx.lake, scored, asked.ref, looked.ref)
        return kept(ctx, found), about, what

    numbers, about, what = shown()
    assert numbers["policy@10-12"] == [30, 32, 33, 35]
    assert (about["fault"], about["n_frames"]) == (None, 4)
    assert what.timestamps == pytest.approx([10, 32 / 3, 11, 35 / 3])
    assert shown(folder_fps=5.0)[0]["policy@10-12"] == [51, 53, 56, 58]
    (tmp_path / "questions.json").write_text(json.dumps([{**row, "options": ["a", "b"]}]))
    numbers, about, _ = shown(benchmark="custom", files={"": str(tmp_path / "questions.json")})
    assert "policy@10-12" not in numbers
    assert about["fault"] == (
        "window: castle_s01 is a folder of frames whose rate is not known, so 10-12 s of it cannot be found: set the "
        "benchmark's folder_fps"
    )


def test_benchmarks_of_one_folder_have_one_rate(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    given = {"benchmark": "custom", "files": {"": str(tmp_path / "a.jsonl")}, "videos": str(tmp_path)}
    scored = {rate: ScoredBenchmark.model_validate({**given, "folder_fps": rate}) for rate in (None, 1, 3)}
    assert folder_rate({"a": scored[None]}) is None
    assert folder_rate({"a": scored[None], "b": scored[3], "c": scored[3]}) == 3
    with pytest.raises(ValueError, match=r"have different folder_fps \(a 1, b 3\): make them equal"):
        check_places({"a": scored[1], "b": scored[3]})


def test_a_broken_image_is_handled_like_a_damaged_video(ctx: RunContext, tmp_path: Path) -> None:
    folder = frame_folder(tmp_path / "data" / "one", 20)
    whole = (folder / "frame_008.png").read_bytes()
    (folder / "frame_008.png").write_bytes(whole[: len(whole) // 2])
    few = frame_folder(tmp_path / "data" / "two", 4)
    (few / "frame_001.png").write_bytes(b"")
    (few / "frame_003.png").write_text("not an image")
    source = VideosConfig(folder=str(tmp_path / "data"))
    result = frames(ctx, EXACT, videos(ctx, source), source)
    rows = {row["item_id"]: row for row in ctx.lake.table("frames").read(result.key).to_pylist()}
    assert rows["one"]["status"] == "ok"
    assert rows["one"]["reason"] == "damaged: 19 of 20 frame images can be read, not frame_008.png"
    assert kept(ctx, rows["one"])["policy"] == [2, 6, 12, 17]
    assert rows["two"]["status"] == "quarantined"
    assert "2 of 4 frame images can be read, not frame_001.png: under min_decodable 0.9" in rows["two"]["reason"]


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    mixed = frame_folder(tmp_path / "mixed", 4)
    Image.new("RGB", (10, 10)).save(mixed / "frame_002.png")
    with pytest.raises(VideoError, match=r"different sizes: frame_002.png has 10x10, the first 160x48"):
        read_frames(mixed, probe(mixed), [0, 1], number_in)
    nothing = frame_folder(tmp_path / "nothing", 2)
    for path in nothing.iterdir():
        path.write_bytes(b"x")
    with pytest.raises(VideoError, match="none of its 2 frame images can be read"):
        probe(nothing)
    short = frame_folder(tmp_path / "short", 3)
    info = probe(short)
    (short / "frame_003.png").unlink()
    with pytest.raises(VideoError, match="changed while the run was reading it"):
        read_frames(short, info, [0], number_in)


def test_a_first_frame_that_is_broken_shows_the_first_sound_one(tmp_path: Path) -> None:
    folder = frame_folder(tmp_path / "one", 10)
    (folder / "frame_001.png").write_bytes(b"")
    read = read_frames(folder, probe(folder), [0, 5], number_in, min_decodable=0.9)
    assert read.frames == [(1, 1), (5, 5)]
    assert read.intact == 9


def test_which_folders_are_videos(tmp_path: Path) -> None:
    data = tmp_path / "data"
    frame_folder(data / "b" / "frames.mp4", 2, ending="jpg")
    frame_folder(data / "a", 1, ending="JPEG")
    frame_folder(data / ".hidden", 1)
    frame_folder(data / "c" / "with_film", 1)
    (data / "c" / "with_film" / "film.mp4").touch()
    (data / "cover.png").touch()
    (data / "texts").mkdir()
    (data / "texts" / "notes.txt").touch()
    assert [path.relative_to(data).as_posix() for path in list_videos(data)] == [
        "a",
        "b/frames.mp4",
        "c/with_film/film.mp4",
    ]


def test_the_content_of_a_folder_is_its_frames_in_order(tmp_path: Path) -> None:
    folder = frame_folder(tmp_path / "one", 3)
    content, size = content_of(folder)
    assert size == sum(path.stat().st_size for path in folder.iterdir())
    assert content_of(frame_folder(tmp_path / "two", 3)) == (content, size)
    (folder / "notes.txt").write_text("no frame")
    assert content_of(folder) == (content, size)
    (folder / "frame_001.png").rename(folder / "frame_009.png")
    assert content_of(folder)[0] != content


def test_official_rows_find_their_folder_of_frames(ctx: RunContext, tmp_path: Path) -> None:
    frame_folder(tmp_path / "data" / "anet_50frames" / "v_one", 3, ending="jpg")
    source = VideosConfig(folder=str(tmp_path / "data"))
    sampled = frames(ctx, EXACT, videos(ctx, source), source)
    images = tuple(f"videos/anet_50frames/v_one/frame_{n:03d}.jpg" for n in (1, 2, 3))
    turns = (Turn("<image>\nWho?", "human"), Turn("A cat.", "gpt"))
    write_official(tmp_path / "rl.json", [OfficialRow("a", turns, images=images, uid=0)])
    asked = instructions(ctx, InstructionsConfig(files={"rl": str(tmp_path / "rl.json")}), sampled)
    (row,) = ctx.lake.table("instructions").read(asked.key).to_pylist()
    assert (row["status"], row["video"]) == ("ok", "anet_50frames/v_one")
