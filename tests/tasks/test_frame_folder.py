"""Folders of frame images in the place of video files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film import film, number_in, picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from storage.formats.official import OfficialRow, Turn, write_official
from tasks.fanout import WorkerPool
from tasks.frame_folder import probe_folder
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


@given(count=st.integers(1, 400), n=st.integers(1, 64))
def test_endpoints_are_the_official_rule(count: int, n: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "single"
    if not folder.exists():
        frame_folder(folder, 1)
    info = probe_folder(folder)
    many = {"pts": np.arange(count), "times": np.arange(count, dtype=np.float64), "duration": float(count)}
    (window,) = sample_frames(type(info)(**{**vars(info), **many}), Sample(n, at="endpoint"))
    assert window.frames == np.linspace(0, count - 1, n, dtype=int).tolist()


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
