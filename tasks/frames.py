"""The stage `frames`: every frame that later stages look at, decoded once a video."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator

from storage.lake import Lake
from tasks.fanout import Outcome, StageFailure, last_item_done, next_item
from tasks.frame_folder import at_rate
from tasks.stage import RunContext, Stage, StageRef, StageResult, run_stage
from tasks.video_reader import Sample, Sampled, VideoError, VideoInfo, probe, read_frames, sample_frames
from tasks.videos import VideosConfig, content_of
from tasks.windows import Window, asked_windows

AGAIN = "run again, with run.retries=1 if it is quarantined still,"
BLOB_SCHEMA = pa.schema([("video", pa.string()), ("frames", pa.list_(pa.binary()))])


class FrameSet(BaseModel):
    """Frames at equal distances in time, by a name that later stages ask for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="Name that other stages ask for, such as policy or judge.")
    n: int = Field(ge=1, description="Frames in each clip.")
    clips: int = Field(1, ge=1, description="Equal windows of time that the video is cut into.")
    at: Literal["midpoint", "endpoint", "mvbench"] = Field(
        "midpoint",
        description="The middles of n equal bins, from the first to the last frame as in VLM-RLAIF, or nearly the "
        "middles, as the official code of MVBench counts them.",
    )


class FramesConfig(BaseModel):
    """Which frames are kept of every video, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sets: tuple[FrameSet, ...] = Field(
        (FrameSet(name="policy", n=8, clips=1, at="midpoint"),),
        min_length=1,
        description="The sets of frames that later stages ask for; each video is decoded once for all of them.",
    )
    image_format: Literal["jpeg", "png"] = Field(
        "jpeg", description="How frames are kept: jpeg is smaller, png is exact."
    )
    jpeg_quality: int = Field(95, ge=1, le=100, description="Quality of the jpeg pictures.")
    max_side: int | None = Field(None, ge=1, description="Longest side of a kept frame in pixels; larger ones shrink.")
    reader: Literal["auto", "pyav"] = Field(
        "auto",
        description="auto: decord where it is known to be right, else PyAV; pyav notices flawed pictures everywhere.",
    )
    min_decodable: float = Field(
        0.9, gt=0, le=1, description="A damaged video is kept when at least this fraction of its frames decode soundly."
    )
    timeout_s: float = Field(120.0, gt=0, description="Seconds that reading one video may take.")
    shard_size: int = Field(16, ge=1, description="Videos in a commit.")
    videos_per_blob: int = Field(8, ge=1, description="Videos decoded in one call, their frames in one file.")

    @field_validator("sets")
    @classmethod
    def _distinct(cls, sets: tuple[FrameSet, ...]) -> tuple[FrameSet, ...]:
        names = [one.name for one in sets]
        if len(set(names)) < len(names):
            raise ValueError(f"each set needs a name of its own, not {names}")
        return sets


@dataclass(frozen=True)
class FramesSettings:
    """What a worker needs. `folder`: where the videos are, absolute; `folder_fps`: as of `frames`."""

    config: FramesConfig
    lake: Lake
    folder: Path
    folder_fps: float | None = None


@dataclass(frozen=True)
class _Kept:
    """A video that was read: its row, its frames in the order of time, and what was wrong with it, if anything."""

    row: dict[str, Any]
    frames: list[bytes]
    note: str | None


class FrameReader:
    """Processor: decodes videos, keeps their frames as one Arrow blob a call, and returns a row a video."""

    def __init__(self, settings: FramesSettings) -> None:
        # Here, so that a fresh worker's imports do not count against the time limit of its first video.
        import av  # noqa: F401
        import decord  # noqa: F401

        self.config = settings.config
        self.folder = settings.folder
        self.folder_fps = settings.folder_fps
        self.blobs = settings.lake.blobs

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002 - nothing here is random.
        if not self.folder.is_dir():
            raise StageFailure(f"The videos folder {self.folder} is gone: bring it back, then run the same command.")
        read = [self._read(item) for item in items]
        last_item_done()
        kept = [one for one in read if isinstance(one, _Kept)]
        if kept:
            columns = {"video": [one.row["video"] for one in kept], "frames": [one.frames for one in kept]}
            blob = self.blobs.put_arrow(pa.table(columns, schema=BLOB_SCHEMA))
            for place, one in enumerate(kept):
                one.row.update(blob=blob, row=place)
        return [
            Outcome(item["item_id"], [one.row], one.note)
            if isinstance(one, _Kept)
            else Outcome(item["item_id"], None, one)
            for item, one in zip(items, read, strict=True)
        ]

    def _read(self, item: dict[str, Any]) -> "_Kept | str":
        """A video's row and frames, or the reason why there are none."""
        next_item()
        path = self.folder / item["video"]
        try:
            info = at_rate(probe(path), self.folder_fps)
            windows = [*self._whole(info), *self._parts(info, item.get("windows", ()))]
            asked = sorted({index for _, window in windows for index in window.frames})
            decoded = read_frames(
                path,
                info,
                asked,
                self._encode,
                min_decodable=self.config.min_decodable,
                decord=self.config.reader == "auto",
            )
            if content_of(path)[0] != item["content"]:
                return f"changed while the run was reading it: {AGAIN} when nothing writes to it"
        except VideoError as error:
            return str(error)
        except OSError as error:
            return f"cannot be read ({error.strerror}): it was there when the run began; {AGAIN} when it is back"
        distinct = dict(sorted(decoded.frames))  # Two answers are one frame only where damage swallowed others.
        row = _row(item, info, windows, dict(zip(asked, [got for got, _ in decoded.frames], strict=True)))
        return _Kept(row | {"reader": decoded.reader, "decodes": decoded.passes}, list(distinct.values()), decoded.note)

    def _whole(self, info: VideoInfo) -> Iterator[tuple[str, Sampled]]:
        """The sets of a video as the configuration has them."""
        for chosen in self.config.sets:
            for window in sample_frames(info, _sample(chosen)):
                yield chosen.name, window

    def _parts(self, info: VideoInfo, asked: Sequence[Window]) -> Iterator[tuple[str, Sampled]]:
        """The sets of the parts that questions ask for; of a part outside the video there is none."""
        by_name = {chosen.name: _sample(chosen) for chosen in self.config.sets}
        for part in asked:
            for window in sample_frames(info, by_name[part.frame_set], (part.start, part.end)):
                yield part.name, window

    def _encode(self, picture: NDArray[np.uint8]) -> bytes:
        image = Image.fromarray(np.ascontiguousarray(picture))
        if self.config.max_side and max(image.size) > self.config.max_side:
            scale = self.config.max_side / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
        buffer = io.BytesIO()
        if self.config.image_format == "png":
            image.save(buffer, "PNG", compress_level=3)
        else:
            image.save(buffer, "JPEG", quality=self.config.jpeg_quality)
        return buffer.getvalue()


def frames(
    ctx: RunContext,
    config: FramesConfig,
    videos: StageResult,
    source: VideosConfig,
    asking: Mapping[str, Sequence[StageResult]] | None = None,
    folder_fps: float | None = None,
) -> StageResult:
    """Keeps the frames of every video that `videos` found in `source`; the table `frames` says where and which.

    `asking` holds `questions` stages by the frame set that they ask for: where a question is about a part of its video,
    the set is sampled from that part too, under the name that tasks.windows gives it. Each video is decoded once.
    `folder_fps`: frames a second of the videos that are folders of frames; None: not known, so that no part of them can
    be shown.

    Raises:
        ValueError: such a frame set is none of config.sets.
    """
    parts = asked_windows(ctx.lake, asking or {})
    known = [one.name for one in config.sets]
    if unknown := sorted(set(asking or {}) - set(known)):
        raise ValueError(f"Frame set {unknown[0]!r} is none of frames.sets: {', '.join(known)}.")
    stage = Stage(
        name="frames",
        table="frames",
        config={
            **config.model_dump(mode="json", exclude={"timeout_s", "shard_size", "videos_per_blob"}),
            **({} if folder_fps is None else {"folder_fps": folder_fps}),
        },
        selection=config.model_dump(include={"videos_per_blob"}),
        inputs=(videos.ref, *parts.refs),
        model=None,
        prompts={},
        seed=0,  # nothing is drawn
        shard_size=config.shard_size,
        reuse=True,
    )
    return run_stage(
        ctx,
        stage,
        lambda: _items(ctx.lake, videos.ref, parts.of),
        FrameReader,
        FramesSettings(config, ctx.lake, source.place, folder_fps),
        chunk=config.videos_per_blob,
        item_timeout_s=config.timeout_s,
    )


def _items(lake: Lake, videos: StageRef, parts: Mapping[str, Sequence[Window]]) -> list[dict[str, Any]]:
    found = lake.table(videos.table).read(videos.key, ["item_id", "status", "video", "content"]).to_pylist()
    return [_item(row, parts.get(row["video"], ())) for row in found if row["status"] == "ok"]


def _item(row: dict[str, Any], parts: Sequence[Window]) -> dict[str, Any]:
    item = {key: row[key] for key in ("item_id", "video", "content")} | {"identity": [row["video"], row["content"]]}
    if parts:  # A video of which no part is asked for stays the item that it was.
        item |= {"windows": list(parts), "identity": [*item["identity"], [part.name for part in parts]]}
    return item


def _sample(chosen: FrameSet) -> Sample:
    return Sample(chosen.n, chosen.clips, chosen.at)


def _row(
    item: dict[str, Any], info: VideoInfo, windows: list[tuple[str, Sampled]], shown_for: dict[int, int]
) -> dict[str, Any]:
    """`shown_for`: by the index asked, the index that was kept for it."""
    shown = sorted(set(shown_for.values()))
    place = {asked: shown.index(got) for asked, got in shown_for.items()}
    width, height = info.shown_size
    return {
        "video": item["video"],
        "content": item["content"],
        "fps": info.fps,
        "duration": info.duration,
        "width": width,
        "height": height,
        "rotation": info.orientation.degrees,
        "timestamps": [float(info.times[index]) for index in shown],
        "frame_index": shown,
        "sets": [_window(name, window, place) for name, window in windows],
    }


def _window(name: str, window: Sampled, place: dict[int, int]) -> dict[str, Any]:
    return {
        "name": name,
        "clip": window.clip,
        "start": window.start,
        "end": window.end,
        "indices": [place[index] for index in window.frames],
    }
