"""When the frames that a question shows are in its video, and why there are none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.items import Shown
from benchmarks.subtitles import Subtitles, read_srt
from storage.errors import FormatError
from tasks.evaluation.spoken import subtitle_file

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.stage import StageRef

_COLUMNS = ["video", "item_id", "status", "reason", "sets", "timestamps", "fps", "duration"]


class NotShownError(ValueError):
    """A question cannot be asked: its video has no such frames; the message begins with the kind of the reason."""


class Timeline:
    """The frames of every video by frame set, and the subtitles that are spoken at them."""

    def __init__(self, lake: Lake, frames: StageRef, subtitles: str | None) -> None:
        # Rows stay Arrow's: as dicts, with their sets' frames, those of thousands of videos take much memory.
        self._rows = lake.table(frames.table).read(frames.key, columns=_COLUMNS).combine_chunks()
        self._places = {video: place for place, video in enumerate(self._rows["item_id"].to_pylist())}
        self._folder = None if subtitles is None else Path(subtitles).expanduser()
        self._read: dict[Path, Subtitles] = {}

    def shown(self, video: str, frame_set: str, named: str) -> tuple[Shown, int]:
        """What a model is shown of a video, and of how many frames.

        Args:
            video: in the folder.
            frame_set: with its window, if any (tasks.windows.window_set).
            named: the video as the annotation file names it, for its subtitles.

        Raises:
            NotShownError: the video has no frames, or none in that window; or its subtitles cannot be read.
        """
        if video not in self._places:
            raise NotShownError(f"no frames: video {video} is not in the frames stage")
        (row,) = self._rows.slice(self._places[video], 1).to_pylist()
        if row["status"] != "ok":
            raise NotShownError(f"no frames: video {video}: {row['reason']}")
        clips = [each["indices"] for each in row["sets"] if each["name"] == frame_set]
        if not clips:
            raise NotShownError(_missing(row, video, frame_set))
        (indices,) = clips
        known = row["fps"] != 0 and row["timestamps"]
        seconds = tuple(row["timestamps"][place] for place in indices) if known else ()
        return Shown(seconds, self._spoken(named, seconds)), len(indices)

    def _spoken(self, named: str, seconds: tuple[float, ...]) -> tuple[str, ...] | None:
        if self._folder is None:
            return None
        path = subtitle_file(self._folder, named)
        if path not in self._read:
            try:
                self._read[path] = read_srt(path) if path.is_file() else Subtitles(())
            except FormatError as error:
                raise NotShownError(f"subtitles: {error}") from error
        return self._read[path].spoken(seconds)


def _missing(row: dict[str, Any], video: str, frame_set: str) -> str:
    """Why a set is not among those of a video."""
    plain, at, window = frame_set.partition("@")
    known = sorted({each["name"] for each in row["sets"]})
    if not at or plain not in known:
        return f"no frames: frame set {plain!r} was not sampled of video {video}; known: {', '.join(known)}"
    if row["fps"] == 0:
        return (
            f"window: {video} is a folder of frames whose rate is not known, so {window} s of it cannot be found: set "
            "the benchmark's folder_fps"
        )
    return f"window: {window} s lies outside of video {video}, which lasts {row['duration']:.6g} s"
