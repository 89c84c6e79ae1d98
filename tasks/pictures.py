"""Kept frames as people, and judges behind an endpoint, are shown them: JPEG files."""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.stage import StageRef

_KEPT_VIDEOS = 64  # Encoded pictures in memory: a shard's instructions often share videos.


class MissingFramesError(ValueError):
    """A video has no frames: it is unknown or was quarantined."""


class Pictures:
    """The frames of a video and frame set, no side longer than `max_side` pixels."""

    def __init__(self, lake: Lake, ref: StageRef, max_side: int, quality: int) -> None:
        columns = ["video", "status", "blob", "row", "sets", "fps", "timestamps"]
        rows = lake.table(ref.table).read(ref.key, columns=columns).to_pylist()
        self._rows: dict[str, dict[str, Any]] = {row["video"]: row for row in rows if row["status"] == "ok"}
        self._lake = lake
        self._max_side = max_side
        self._quality = quality
        # A method cannot be cached by decoration without keeping every instance alive.
        self.frames = lru_cache(maxsize=_KEPT_VIDEOS)(self._frames)

    def digest(self, video: str, frame_set: str) -> str:
        """Hash of a set's files as the lake keeps them, 64 hex digits. Raises as `frames`."""
        digests = [hashlib.sha256(each).hexdigest() for each in self._files(video, frame_set)]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()

    def seconds(self, video: str, frame_set: str) -> tuple[float, ...] | None:
        """When the frames of a set are in the video; None where its times are not known. Raises as `frames`."""
        places = self._places(video, frame_set)
        row = self._rows[video]
        return tuple(row["timestamps"][place] for place in places) if row["fps"] != 0 and row["timestamps"] else None

    def _frames(self, video: str, frame_set: str) -> tuple[bytes, ...]:
        """The JPEG files of a set, its clips in order.

        Raises:
            MissingFramesError: the video has none, or the set was not sampled.
        """
        return tuple(jpeg(each, self._max_side, self._quality) for each in self._files(video, frame_set))

    def _files(self, video: str, frame_set: str) -> list[bytes]:
        places = self._places(video, frame_set)
        row = self._rows[video]
        kept = self._lake.blobs.open_arrow(row["blob"])["frames"][row["row"]].as_py()
        return [kept[place] for place in places]

    def _places(self, video: str, frame_set: str) -> list[int]:
        if video not in self._rows:
            raise MissingFramesError(f"Video {video} has no frames; see why in the frames stage.")
        sets = self._rows[video]["sets"]
        chosen = sorted((each for each in sets if each["name"] == frame_set), key=lambda each: int(each["clip"]))
        if not chosen:
            known = ", ".join(sorted({each["name"] for each in sets}))
            raise MissingFramesError(f"Frame set {frame_set!r} was not sampled; known: {known}. Add it to frames.sets.")
        return [place for each in chosen for place in each["indices"]]


@lru_cache(maxsize=_KEPT_VIDEOS)
def black_pictures(pictures: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """As many black JPEG files of the same sizes."""
    from PIL import Image

    black = []
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as opened:
            buffer = io.BytesIO()
            Image.new("RGB", opened.size).save(buffer, "JPEG")
        black.append(buffer.getvalue())
    return tuple(black)


def jpeg(image: bytes, max_side: int, quality: int) -> bytes:
    """An encoded image as JPEG with no side longer than `max_side`; one that is both already stays as it is."""
    from PIL import Image

    with Image.open(io.BytesIO(image)) as opened:
        if opened.format == "JPEG" and max(opened.size) <= max_side:
            return image
        shown = opened.convert("RGB")
    shown.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
