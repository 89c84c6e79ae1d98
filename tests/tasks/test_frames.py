import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from burned_in import CELLS, number_of_frame, shown_number
from film import film, number_in
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from storage.lake import Lake
from storage.rows import row_digest
from tasks.fanout import Unit, WorkerPool
from tasks.frames import AGAIN, FrameReader, FramesConfig, FrameSet, FramesSettings, frames
from tasks.progress import SilentProgress
from tasks.stage import RunContext, StageResult
from tasks.videos import VideosConfig, content_of, videos

SETS = (
    FrameSet(name="policy", n=8),
    FrameSet(name="vlm_rlaif", n=8, at="endpoint"),
    FrameSet(name="narrative", n=4, clips=3),
)
EXACT = FramesConfig(sets=SETS, image_format="png", shard_size=6, videos_per_blob=3)
# Of the 28 clips: what the reason must say, after the properties in clips.jsonl.
REFUSED = {
    "decord_corrupted.mp4": "28 of 50 frames decode",
    "bitflips_moviepy_example.mp4": "25 of 50 frames decode",
    "truncated_moov_missing_yoga.mp4": "moov box",
    "zero_bytes.mp4": "empty",
    "text_not_video.mp4": "git-LFS pointer",
}


def context(root: Path, pool: WorkerPool) -> RunContext:
    return RunContext(str(root), "run-1", pool, SilentProgress(), max_quarantined=0.5, seed=0)


@pytest.fixture(scope="module")
def clips(test_data: Path) -> dict[str, dict[str, Any]]:
    """The properties of the 28 clips, by file name."""
    lines = (test_data / "clips.jsonl").read_text().splitlines()
    return {Path(row["file"]).name: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def done(test_data: Path, pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunContext, StageResult]:
    ctx = context(tmp_path_factory.mktemp("lake"), pool)
    source = VideosConfig(folder=str(test_data / "clips"))
    return ctx, frames(ctx, EXACT, videos(ctx, source), source)


@pytest.fixture(scope="module")
def rows(done: tuple[RunContext, StageResult]) -> dict[str, dict[str, Any]]:
    ctx, result = done
    return {row["item_id"]: row for row in ctx.lake.table("frames").read(result.key).to_pylist()}


def kept(lake: Lake, row: dict[str, Any]) -> dict[int, NDArray[np.uint8]]:
    """The frames of a row by index, [height, width, 3]."""
    stored = lake.blobs.open_arrow(row["blob"]).slice(row["row"], 1).to_pylist()[0]
    assert stored["video"] == row["video"]
    pictures = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in stored["frames"]]
    return dict(zip(row["frame_index"], pictures, strict=True))


def by_full_decode(path: Path, wanted: set[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Decodes from the first frame to the last: the oracle, which shares no code with the reader."""
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(container.streams.video[0])):
            if index in wanted:
                yield index, np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def test_every_clip_is_ok_or_quarantined_for_what_it_is(
    done: tuple[RunContext, StageResult], rows: dict[str, dict[str, Any]], clips: dict[str, dict[str, Any]]
) -> None:
    assert (done[1].items, done[1].ok, done[1].quarantined) == (28, 23, 5)
    assert rows.keys() == clips.keys()
    refused = {name: row["reason"] for name, row in rows.items() if row["status"] == "quarantined"}
    assert refused.keys() == REFUSED.keys()
    assert all(part in refused[name] for name, part in REFUSED.items()), refused
    assert all((clips[name]["decode_error"] is not None) == (name in refused) for name in clips)


def test_the_rows_say_what_the_clips_are(rows: dict[str, dict[str, Any]], clips: dict[str, dict[str, Any]]) -> None:
    for name, row in rows.items():
        if row["status"] == "ok":
            clip = clips[name]
            turned = clip["rotation"] % 180 != 0
            assert (row["height"], row["width"])[:: 1 if turned else -1] == (clip["width"], clip["height"]), name
            assert row["rotation"] == clip["rotation"], name
            assert row["fps"] == pytest.approx(clip["fps"], rel=1e-3), name
            assert row["duration"] == pytest.approx(clip["duration"], abs=0.06), name
            assert (row["reason"], row["decodes"]) == (None, 1)
            assert max(row["frame_index"]) < clip["frames"]


def test_the_kept_frames_are_those_of_a_full_decode(
    done: tuple[RunContext, StageResult], rows: dict[str, dict[str, Any]], test_data: Path
) -> None:
    for name, row in rows.items():
        if row["status"] == "ok":
            found = kept(done[0].lake, row)
            for index, picture in by_full_decode(test_data / "clips" / name, set(found)):
                assert np.array_equal(found.pop(index), picture), (name, index)
            assert not found, name


@pytest.mark.parametrize("clip", CELLS)
def test_burned_in_numbers_are_the_frames_asked(
    clip: str, done: tuple[RunContext, StageResult], rows: dict[str, dict[str, Any]]
) -> None:
    found = kept(done[0].lake, rows[clip])
    assert len(found) >= 10
    assert {index: shown_number(clip, picture) for index, picture in found.items()} == {
        index: number_of_frame(clip, index) for index in found
    }


def test_the_sets_name_their_frames(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["moviepy_example.mp4"]  # 50 frames, 25 a second.
    sets = {(one["name"], one["clip"]): [row["frame_index"][place] for place in one["indices"]] for one in row["sets"]}
    assert sets[("policy", 0)] == [3, 9, 15, 21, 28, 34, 40, 46]
    assert sets[("vlm_rlaif", 0)] == [0, 7, 14, 21, 28, 35, 42, 49]
    assert sets[("narrative", 1)] == [18, 22, 27, 31]
    assert row["timestamps"] == pytest.approx([index / 25 for index in row["frame_index"]])
    assert [one["indices"] for one in rows["single_frame_yoga.mp4"]["sets"]] == [
        [0] * 8,
        [0] * 8,
        [0] * 4,
        [0] * 4,
        [0] * 4,
    ]


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        film(folder / name, 20)
    return folder


def test_one_worker_keeps_what_two_keep(pool: WorkerPool, pair: WorkerPool, films: Path, tmp_path: Path) -> None:
    (films / "empty.mp4").touch()
    tables = []
    for workers in (pool, pair):
        ctx = context(tmp_path / f"lake-{workers.workers}", workers)
        config = EXACT.model_copy(update={"shard_size": 2})
        source = VideosConfig(folder=str(films))
        result = frames(ctx, config, videos(ctx, source), source)
        tables.append(ctx.lake.table("frames").read(result.key))
    assert tables[0].num_rows == 4
    assert row_digest(tables[0]) == row_digest(tables[1])


def test_only_new_videos_are_decoded_again(pool: WorkerPool, films: Path, tmp_path: Path) -> None:
    ctx = context(tmp_path / "lake", pool)
    source = VideosConfig(folder=str(films))
    first = frames(ctx, EXACT, videos(ctx, source), source)
    film(films / "d.mp4", 30)
    second = frames(ctx, EXACT, videos(ctx, source), source)
    assert (first.ok, second.ok, second.reused) == (3, 4, 3)


def test_frames_shrink_to_the_longest_side(pool: WorkerPool, films: Path, tmp_path: Path) -> None:
    ctx = context(tmp_path / "lake", pool)
    small = EXACT.model_copy(update={"max_side": 80, "image_format": "jpeg"})
    source = VideosConfig(folder=str(films))
    result = frames(ctx, small, videos(ctx, source), source)
    row = ctx.lake.table("frames").read(result.key).to_pylist()[0]
    assert {picture.shape for picture in kept(ctx.lake, row).values()} == {(24, 80, 3)}
    assert (row["width"], row["height"]) == (160, 48)


class Stuck(FrameReader):
    """A decoder that hangs on one file, as decord is known to do."""

    def _encode(self, picture: NDArray[np.uint8]) -> bytes:
        if self.reading == "b.mp4":
            time.sleep(600)
        return super()._encode(picture)

    def _read(self, item: dict[str, Any]) -> Any:
        self.reading = item["item_id"]
        return super()._read(item)


def listed(folder: Path) -> list[dict[str, Any]]:
    return [
        {"item_id": path.name, "video": path.name, "content": content_of(path)[0]} for path in sorted(folder.iterdir())
    ]


def test_a_decoder_that_hangs_costs_its_video_only(pool: WorkerPool, films: Path, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    settings = FramesSettings(EXACT, lake, films)
    ((_, outcomes),) = pool.run(Stuck, settings, [Unit(0, listed(films), 1)], item_timeout_s=3)
    assert [outcome.reason for outcome in outcomes] == [None, "took longer than 3 s to process and was stopped", None]
    found = [kept(lake, outcome.rows[0]) for outcome in outcomes if outcome.rows]
    assert all(number_in(picture) == index for pictures in found for index, picture in pictures.items())


def test_a_video_that_changes_or_goes_after_it_was_listed_says_so(films: Path, tmp_path: Path) -> None:
    items = listed(films)
    (films / "a.mp4").unlink()
    film(films / "b.mp4", 31)
    outcomes = FrameReader(FramesSettings(EXACT, Lake(tmp_path / "lake"), films)).process(items, seed=0)
    gone, changed, same = (outcome.reason or "" for outcome in outcomes)
    assert gone == "the file is gone: put it back, or take it off the list"
    assert changed == f"changed while the run was reading it: {AGAIN} when nothing writes to it"
    assert not same


def test_a_bad_configuration_is_refused() -> None:
    with pytest.raises(ValidationError, match="each set needs a name of its own"):
        FramesConfig(sets=(FrameSet(name="policy", n=8), FrameSet(name="policy", n=4)))
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        FrameSet(name="policy", n=0)
    assert FramesConfig().sets == (FrameSet(name="policy", n=8),)
    assert all(field.description for field in FramesConfig.model_fields.values())
